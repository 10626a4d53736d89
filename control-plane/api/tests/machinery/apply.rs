use fairlead_api::{
    apply::{self, Actor},
    registry, schema,
};
use serde_json::{Value, json};

fn actor<'a>(manager: &'a str, api_version: &'a str, subresource: &'a str) -> Actor<'a> {
    Actor { manager, api_version, subresource, now: "2026-01-02T03:04:05Z" }
}

/// Applies, then does to the result what a write does: default, normalize.
#[track_caller]
fn applied(live: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, (u16, String)> {
    let api_version = config["apiVersion"].as_str().expect("a version");
    let kind =
        registry::find_kind(api_version, config["kind"].as_str().expect("a kind")).expect("a served kind");
    let tree = schema::of(kind.schema).expect("a schema");
    let done = apply::apply(tree, kind, live, config, force, &actor(manager, api_version, ""))
        .map_err(|status| (status.code(), status.message().to_owned()))?;
    let mut object = done.object;
    schema::normalize(tree, &mut object);
    (kind.default)(&mut object);
    schema::normalize(tree, &mut object);
    Ok(object)
}

fn owners(object: &Value) -> Value {
    object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|e| json!([e["manager"], e["operation"], e["fieldsV1"]]))
        .collect()
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": data})
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

fn base() -> Value {
    deployment(json!({
        "selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
    }))
}

#[test]
fn a_conflict_names_managers_and_fields() {
    let one = applied(None, &config_map(json!({"a": "1", "b": "1"})), "m1", false).expect("created");
    assert_eq!(owners(&one), json!([["m1", "Apply", {"f:data": {"f:a": {}, "f:b": {}}}]]));
    let two = applied(Some(&one), &config_map(json!({"b": "2"})), "m2", true).expect("forced");
    assert_eq!(two["data"], json!({"a": "1", "b": "2"}));
    let refused = applied(Some(&two), &config_map(json!({"a": "3", "b": "3"})), "m3", false);
    let words =
        "Apply failed with 2 conflicts: conflicts with \"m1\":\n- .data.a\nconflicts with \"m2\":\n- .data.b";
    assert_eq!(refused.expect_err("a conflict"), (409, words.to_owned()));
    let refused = applied(Some(&two), &config_map(json!({"a": "3"})), "m3", false);
    let words = "Apply failed with 1 conflict: conflict with \"m1\": .data.a";
    assert_eq!(refused.expect_err("a conflict"), (409, words.to_owned()));
}

#[test]
fn what_an_applier_no_longer_sets_goes_unless_others_own_it() {
    let one = applied(None, &base(), "m1", false).expect("created");
    let side = |containers: Value| deployment(json!({"template": {"spec": {"containers": containers}}}));
    let two =
        applied(Some(&one), &side(json!([{"name": "side", "image": "s:1"}])), "m2", false).expect("added");
    let names = |o: &Value| -> Vec<String> {
        o["spec"]["template"]["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| c["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(names(&two), ["c", "side"]);
    let env = side(json!([{"name": "c", "env": [{"name": "E", "value": "1"}]}]));
    let three = applied(Some(&two), &env, "m3", false).expect("merged by key");
    assert_eq!(three["spec"]["template"]["spec"]["containers"][0]["image"], "i:1");
    let four = applied(Some(&three), &side(json!([])), "m2", false).expect("removed");
    assert_eq!(names(&four), ["c"]);
    assert_eq!(four["spec"]["replicas"], 1, "what is defaulted stays");
    let five = applied(Some(&four), &deployment(json!({})), "m3", false).expect("removed");
    assert!(five["spec"]["template"]["spec"]["containers"][0].get("env").is_none());
    assert_eq!(
        owners(&five),
        json!([
            ["m1", "Apply", {"f:spec": {"f:selector": {}, "f:template": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}},
            }}}],
            ["m3", "Apply", {"f:spec": {}}],
        ])
    );
}

#[test]
fn an_apply_that_changes_nothing_carries_no_time() {
    let kind = registry::find_kind("v1", "ConfigMap").expect("served");
    let tree = schema::of(kind.schema).expect("a schema");
    let mut live = config_map(json!({"a": "1"}));
    apply::track_update(tree, kind, None, &mut live, &actor("creator", "v1", ""));
    assert_eq!(owners(&live), json!([["creator", "Update", {"f:data": {".": {}, "f:a": {}}}]]));
    let done =
        apply::apply(tree, kind, Some(&live), &config_map(json!({"a": "1"})), false, &actor("m1", "v1", ""))
            .expect("no conflict");
    assert!(!done.changed);
    let entries = &done.object["metadata"]["managedFields"];
    assert_eq!(entries[0]["manager"], "m1");
    assert!(entries[0].get("time").is_none());
    let refused =
        apply::apply(tree, kind, Some(&live), &config_map(json!({"a": "2"})), false, &actor("m1", "v1", ""));
    let words = "Apply failed with 1 conflict: conflict with \"creator\" using v1: .data.a";
    assert_eq!(refused.expect_err("a conflict").message(), words);
}

#[test]
fn updates_move_ownership() {
    let kind = registry::find_kind("v1", "ConfigMap").expect("served");
    let tree = schema::of(kind.schema).expect("a schema");
    let step = |live: Option<&Value>, data: Value, manager: &str| {
        let mut new = config_map(data);
        apply::track_update(tree, kind, live, &mut new, &actor(manager, "v1", ""));
        new
    };
    let one = step(None, json!({"a": "1"}), "creator");
    let two = step(Some(&one), json!({"a": "1", "b": "2"}), "putter");
    let three = step(Some(&two), json!({"a": "9", "b": "2"}), "patcher");
    assert_eq!(
        owners(&three),
        json!([
            ["creator", "Update", {"f:data": {}}],
            ["patcher", "Update", {"f:data": {"f:a": {}}}],
            ["putter", "Update", {"f:data": {"f:b": {}}}],
        ])
    );
    let four = step(Some(&three), json!({"b": "2"}), "creator");
    assert_eq!(
        owners(&four),
        json!([["creator", "Update", {"f:data": {}}], ["putter", "Update", {"f:data": {"f:b": {}}}]])
    );
}

#[test]
fn a_created_deployment_is_owned_field_by_field() {
    let kind = registry::find_kind("apps/v1", "Deployment").expect("served");
    let tree = schema::of(kind.schema).expect("a schema");
    let mut new = base();
    schema::normalize(tree, &mut new);
    (kind.default)(&mut new);
    schema::normalize(tree, &mut new);
    apply::track_update(tree, kind, None, &mut new, &actor("c", "apps/v1", ""));
    assert_eq!(
        new["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {
            "f:progressDeadlineSeconds": {}, "f:replicas": {}, "f:revisionHistoryLimit": {}, "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}, "f:maxUnavailable": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:imagePullPolicy": {},
                        "f:name": {}, "f:resources": {}, "f:terminationMessagePath": {},
                        "f:terminationMessagePolicy": {}}},
                    "f:dnsPolicy": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
                    "f:terminationGracePeriodSeconds": {},
                },
            },
        }})
    );
}

#[test]
fn what_does_not_fit_the_schema_is_refused_in_upstreams_words() {
    let twice = deployment(json!({"template": {"spec": {"containers": [{"name": "c"}, {"name": "c"}]}}}));
    let mut unknown = config_map(json!({}));
    unknown["nope"] = 1.into();
    for (config, words) in [
        (unknown, "(/cm; /v1, Kind=ConfigMap): .nope: field not declared in schema"),
        (
            config_map(json!({"a": 5})),
            "(/cm; /v1, Kind=ConfigMap): .data.a: expected string, got &value.valueUnstructured{Value:5}",
        ),
        (
            twice,
            "(/d; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name=\"c\"]",
        ),
    ] {
        let refused = applied(None, &config, "m", false).expect_err(words);
        assert_eq!(refused, (500, format!("failed to create typed patch object {words}")));
    }
}

#[test]
fn the_main_resource_does_not_own_status() {
    let mut config = base();
    config["status"] = json!({"replicas": 9});
    let done = applied(None, &config, "m1", false).expect("created");
    assert!(done["metadata"]["managedFields"][0]["fieldsV1"].get("f:status").is_none());
}

#[test]
fn a_service_port_is_told_apart_by_port_and_protocol() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]}});
    let done = applied(None, &service, "m1", false).expect("created");
    assert_eq!(
        owners(&done)[0][2],
        json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
            "f:selector": {}}})
    );
}
