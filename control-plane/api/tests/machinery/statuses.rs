use fairlead_api::{field, kind::Kind, meta, registry, status};
use serde_json::{Value, json};

#[test]
fn statuses_carry_upstreams_words_and_details() {
    for (status, code, reason, message, details) in [
        (
            status::not_found("apps", "deployments", "d"),
            404,
            "NotFound",
            "deployments.apps \"d\" not found",
            json!({"name": "d", "group": "apps", "kind": "deployments"}),
        ),
        (
            status::already_exists("", "configmaps", "cm"),
            409,
            "AlreadyExists",
            "configmaps \"cm\" already exists",
            json!({"name": "cm", "kind": "configmaps"}),
        ),
        (
            status::forbidden("", "configmaps", "", "no"),
            403,
            "Forbidden",
            "configmaps is forbidden: no",
            json!({"kind": "configmaps"}),
        ),
        (status::forbidden("", "", "", "no"), 403, "Forbidden", "forbidden: no", json!({})),
        (
            status::method_not_allowed(),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
            json!({}),
        ),
        (status::unauthorized(), 401, "Unauthorized", "Unauthorized", Value::Null),
        (status::plain("x"), 500, "", "x", Value::Null),
        (
            status::too_large_resource_version(9, 5),
            504,
            "Timeout",
            "Timeout: Too large resource version: 9, current: 5",
            json!({"retryAfterSeconds": 1, "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]}),
        ),
    ] {
        assert_eq!((status.code(), status.reason(), status.message()), (code, reason, message));
        assert_eq!(status.0.get("details").cloned().unwrap_or_default(), details, "{message}");
    }
    let twice = vec![field::invalid_str(&field::Path::new("metadata.uid"), "x", "field is immutable"); 2];
    let status = status::invalid("", "ConfigMap", "cm", &twice);
    assert_eq!(
        status.message(),
        "ConfigMap \"cm\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable"
    );
    assert_eq!(status.0["details"]["causes"].as_array().map(Vec::len), Some(2));
}

fn kind(plural: &str) -> &'static Kind {
    registry::find("", "v1", plural).expect("served")
}

#[test]
fn metadata_is_validated() {
    for (metadata, expected) in [
        (json!({}), "metadata.name: Required value: name or generateName is required"),
        (
            json!({"name": "a", "finalizers": ["bad"]}),
            "metadata.finalizers[0]: Invalid value: \"bad\": name is neither a standard finalizer name nor is it fully qualified",
        ),
        (
            json!({"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}),
            "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
        ),
        (
            json!({"name": "a", "annotations": {"a": "x".repeat(262_145)}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
            "metadata.ownerReferences.uid: Invalid value: \"\": must not be empty",
        ),
    ] {
        let mut object = json!({"metadata": metadata});
        object["metadata"]["namespace"] = "n".into();
        let errors: Vec<String> =
            meta::validate_create(kind("configmaps"), &object).iter().map(ToString::to_string).collect();
        assert_eq!(errors, [expected]);
    }
    let ok = json!({"metadata": {"name": "a", "namespace": "n", "generateName": "g-"}});
    assert!(meta::validate_create(kind("configmaps"), &ok).is_empty());
    assert_eq!(meta::generate_name(&"x".repeat(70), "abcde").len(), 63);
}

#[test]
fn immutable_metadata_is_refused_as_often_as_upstream_does() {
    let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "1"}});
    let new = json!({"metadata": {"name": "a", "namespace": "n", "uid": "2"}});
    let errors = meta::validate_update(kind("configmaps"), &new, &old);
    assert_eq!(errors.len(), 2);
    assert!(errors.iter().all(|e| e.path == "metadata.uid"));
}
