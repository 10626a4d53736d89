use fairlead_api::{patch, schema};
use serde_json::{Value, json};

fn object() -> Value {
    json!({"metadata": {"finalizers": ["a", "b"]}, "data": {"a": "1"}})
}

#[test]
fn json_patches_follow_upstreams_library() {
    for (operations, at, expected) in [
        (json!([{"op": "add", "path": "/data/b", "value": "2"}]), "/data/b", json!("2")),
        (json!([{"op": "replace", "path": "/data/zz", "value": "x"}]), "/data/zz", json!("x")),
        (
            json!([{"op": "copy", "from": "/data/a", "path": "/data/c"}, {"op": "move", "from": "/data/a", "path": "/data/d"}]),
            "/data",
            json!({"c": "1", "d": "1"}),
        ),
        (
            json!([{"op": "add", "path": "/metadata/finalizers/-", "value": "c"}]),
            "/metadata/finalizers",
            json!(["a", "b", "c"]),
        ),
        (
            json!([{"op": "add", "path": "/metadata/finalizers/0", "value": "z"}]),
            "/metadata/finalizers",
            json!(["z", "a", "b"]),
        ),
        (json!([{"op": "remove", "path": "/metadata/finalizers/-1"}]), "/metadata/finalizers", json!(["a"])),
        (json!([{"op": "test", "path": "/data/a", "value": "1"}]), "/data/a", json!("1")),
    ] {
        let text = operations.to_string();
        let done = patch::json(&object(), text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(done.pointer(at), Some(&expected), "{text}");
    }
    for (operations, code, words) in [
        (
            json!([{"op": "remove", "path": "/data/zz"}]).to_string(),
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            json!([{"op": "add", "path": "/metadata/labels/x", "value": "y"}]).to_string(),
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            json!([{"op": "nope", "path": "/data/a"}]).to_string(),
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            json!([{"op": "add", "path": "/metadata/finalizers/9", "value": "q"}]).to_string(),
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            json!([{"op": "test", "path": "/data/a", "value": "2"}]).to_string(),
            422,
            "the server rejected our request due to an error in our request",
        ),
        ("[{".into(), 400, "error decoding patch: unexpected end of JSON input"),
        (
            r#"{"op":"add"}"#.into(),
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ),
    ] {
        let refused = patch::json(&object(), operations.as_bytes()).expect_err(&operations);
        assert_eq!((refused.code, refused.message.as_str()), (code, words), "{operations}");
    }
}

#[test]
fn merge_patches_drop_nulls() {
    let done =
        patch::merge(&object(), &json!({"data": {"a": null, "b": {"c": null}}, "x": 1})).expect("applies");
    assert_eq!(done, json!({"metadata": {"finalizers": ["a", "b"]}, "data": {"b": {}}, "x": 1}));
    assert_eq!(patch::merge(&object(), &json!([])).expect_err("no object").code, 400);
}

fn deployment() -> Value {
    json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {
        "containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
             "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]},
            {"name": "b", "image": "b:1"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "tolerations": [{"key": "a", "operator": "Exists"}]}}}})
}

fn strategic(name: &str, doc: &Value, patch: Value) -> Result<Value, patch::PatchError> {
    patch::strategic(schema::of(name).expect("a type"), doc, &patch)
}

const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";

#[test]
fn strategic_patches_merge_lists_by_key() {
    let pod = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    let names = |v: &Value| -> String {
        let list = v["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
        list.iter()
            .map(|c| format!("{}={} ", c["name"].as_str().unwrap_or(""), c["image"].as_str().unwrap_or("")))
            .collect()
    };
    for (spec, expected) in [
        (json!({"containers": [{"name": "a", "image": "a:2"}]}), "a=a:2 b=b:1 "),
        (json!({"containers": [{"name": "c", "image": "c:1"}]}), "c=c:1 a=a:1 b=b:1 "),
        (json!({"containers": [{"name": "b", "$patch": "delete"}]}), "a=a:1 "),
        (json!({"containers": [{"name": "zz", "$patch": "delete"}]}), "a=a:1 b=b:1 "),
        (json!({"containers": [{"$patch": "replace"}, {"name": "z", "image": "z:1"}]}), "z=z:1 "),
        (
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "a:3"}]}),
            "b=b:1 a=a:3 ",
        ),
        (
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [{"name": "c", "image": "c:1"}]}),
            "c=c:1 b=b:1 a=a:1 ",
        ),
    ] {
        let text = spec.to_string();
        let done = strategic(DEPLOYMENT, &deployment(), pod(spec)).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(names(&done), expected, "{text}");
    }
    let done =
        strategic(DEPLOYMENT, &deployment(), pod(json!({"tolerations": [{"key": "b"}]}))).expect("applies");
    assert_eq!(
        done["spec"]["template"]["spec"]["tolerations"],
        json!([{"key": "b"}]),
        "an atomic list is replaced"
    );
    let port = json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "web"}]}]});
    let done = strategic(DEPLOYMENT, &deployment(), pod(port)).expect("applies");
    assert_eq!(
        done["spec"]["template"]["spec"]["containers"][0]["ports"],
        json!([{"containerPort": 80, "name": "web", "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}])
    );
}

#[test]
fn strategic_directives_on_maps() {
    let done = strategic(
        DEPLOYMENT,
        &deployment(),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
    );
    assert_eq!(done.expect("applies")["spec"]["strategy"], json!({"type": "Recreate"}));
    let done = strategic(DEPLOYMENT, &deployment(), json!({"spec": {"strategy": {"$patch": "delete"}}}));
    assert_eq!(done.expect("applies")["spec"]["strategy"], json!({}));
    let volume = json!({"spec": {"template": {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}}});
    let done = strategic(DEPLOYMENT, &deployment(), volume).expect("applies");
    assert_eq!(
        done["spec"]["template"]["spec"]["volumes"],
        json!([{"name": "v", "hostPath": {"path": "/x"}}])
    );
}

#[test]
fn strategic_primitive_lists() {
    const CONFIG_MAP: &str = "io.k8s.api.core.v1.ConfigMap";
    let done = strategic(CONFIG_MAP, &object(), json!({"metadata": {"finalizers": ["c"]}})).expect("applies");
    assert_eq!(done["metadata"]["finalizers"], json!(["c", "a", "b"]));
    let done =
        strategic(CONFIG_MAP, &done, json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}))
            .expect("applies");
    assert_eq!(done["metadata"]["finalizers"], json!(["c", "b"]));
    let done = strategic(CONFIG_MAP, &done, json!({"metadata": {"finalizers": null}})).expect("applies");
    assert_eq!(done["metadata"], json!({}));
}

#[test]
fn malformed_strategic_patches_are_refused_in_upstreams_words() {
    let pod = |spec: Value| json!({"spec": {"template": {"spec": spec}}});
    for (patch, code, words) in [
        (json!({"$patch": "nope"}), 500, "unknown patch type: nope in map: map[$patch:nope]"),
        (
            pod(json!({"containers": [{"name": "a", "$patch": "nope"}]})),
            500,
            "unknown patch type: nope in map: map[$patch:nope name:a]",
        ),
        (
            json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "RollingUpdate"}}}),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            pod(
                json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a", "image": "x"}]}),
            ),
            500,
            "The order in patch list:\n[map[image:x name:a]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
        ),
        (json!([]), 400, "json: cannot unmarshal array into Go value of type map[string]interface {}"),
    ] {
        let text = patch.to_string();
        let refused = strategic(DEPLOYMENT, &deployment(), patch).expect_err(&text);
        assert_eq!((refused.code, refused.message.as_str()), (code, words), "{text}");
    }
}
