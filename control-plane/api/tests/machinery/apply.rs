use fairlead_api::{
    apply::{Actor, Fields},
    kind::Kind,
    registry, schema,
};
use serde_json::{Value, json};

fn actor<'a>(manager: &'a str, api_version: &'a str, subresource: &'a str) -> Actor<'a> {
    Actor { manager, api_version, subresource, now: "2026-01-02T03:04:05Z" }
}

fn fields(kind: &'static Kind) -> Fields {
    Fields::of(kind, "").expect("a schema")
}

/// Applies, then does to the result what a write does: default, normalize.
#[track_caller]
fn applied(live: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, (u16, String)> {
    let api_version = config["apiVersion"].as_str().expect("a version");
    let kind =
        registry::find_kind(api_version, config["kind"].as_str().expect("a kind")).expect("a served kind");
    let tree = schema::of(kind.schema).expect("a schema");
    let done = fields(kind)
        .apply(live, config, force, &actor(manager, api_version, ""))
        .map_err(|status| (status.code(), status.message().to_owned()))?;
    let mut object = done;
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
    let mut live = config_map(json!({"a": "1"}));
    fields(kind).update(None, &mut live, &actor("creator", "v1", ""));
    assert_eq!(owners(&live), json!([["creator", "Update", {"f:data": {".": {}, "f:a": {}}}]]));
    let done = fields(kind)
        .apply(Some(&live), &config_map(json!({"a": "1"})), false, &actor("m1", "v1", ""))
        .expect("no conflict");
    let entries = &done["metadata"]["managedFields"];
    assert_eq!(entries[0]["manager"], "m1");
    assert!(entries[0].get("time").is_none());
    let refused =
        fields(kind).apply(Some(&live), &config_map(json!({"a": "2"})), false, &actor("m1", "v1", ""));
    let words = "Apply failed with 1 conflict: conflict with \"creator\" using v1: .data.a";
    assert_eq!(refused.expect_err("a conflict").message(), words);
}

#[test]
fn updates_move_ownership() {
    let kind = registry::find_kind("v1", "ConfigMap").expect("served");
    let step = |live: Option<&Value>, data: Value, manager: &str| {
        let mut new = config_map(data);
        fields(kind).update(live, &mut new, &actor(manager, "v1", ""));
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
    fields(kind).update(None, &mut new, &actor("c", "apps/v1", ""));
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

#[test]
fn who_owned_an_object_before_the_first_apply_is_kept() {
    let mut live = config_map(json!({"a": "1", "b": "1"}));
    live["metadata"]["uid"] = "u".into();
    let refused = applied(Some(&live), &config_map(json!({"a": "2"})), "m1", false).expect_err("a conflict");
    let words = "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a";
    assert_eq!(refused, (409, words.to_owned()));
    let done = applied(Some(&live), &config_map(json!({"a": "2"})), "m1", true).expect("forced");
    assert_eq!(
        owners(&done),
        json!([
            ["m1", "Apply", {"f:data": {"f:a": {}}}],
            ["before-first-apply", "Update", {"f:data": {".": {}, "f:b": {}}}],
        ])
    );
}

#[test]
fn an_object_without_owners_stays_so_under_updates_and_a_client_may_make_it_so() {
    let kind = registry::find_kind("v1", "ConfigMap").expect("served");
    let mut live = config_map(json!({"a": "1"}));
    fields(kind).update(None, &mut live, &actor("creator", "v1", ""));
    for reset in [json!([]), json!([{}])] {
        let mut new = config_map(json!({"a": "2"}));
        new["metadata"]["managedFields"] = reset;
        fields(kind).update(Some(&live), &mut new, &actor("putter", "v1", ""));
        assert!(new["metadata"].get("managedFields").is_none());
        let mut next = config_map(json!({"a": "3"}));
        fields(kind).update(Some(&new), &mut next, &actor("putter", "v1", ""));
        assert!(next["metadata"].get("managedFields").is_none());
    }
}

#[test]
fn kubectl_goes_on_from_its_client_side_applies() {
    let kind = registry::find_kind("v1", "ConfigMap").expect("served");
    let mut live = config_map(json!({"a": "1", "b": "1"}));
    let last =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "1"}});
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last.to_string()});
    fields(kind).update(None, &mut live, &actor("kubectl-client-side-apply", "v1", ""));
    let refused = applied(Some(&live), &config_map(json!({"a": "2"})), "other", false);
    assert_eq!(refused.expect_err("a conflict").0, 409);
    let refused = applied(Some(&live), &config_map(json!({"a": "2", "b": "2"})), "kubectl", false);
    let words = "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.b";
    assert_eq!(refused.expect_err("a conflict").1, words);
    let done = applied(Some(&live), &config_map(json!({"a": "2"})), "kubectl", false).expect("applied");
    assert_eq!(done["data"], json!({"a": "2", "b": "1"}));
    let annotation = &done["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(annotation.as_str().expect("text").contains("\"a\":\"2\""), "{annotation}");
}

#[test]
fn fields_are_compared_in_the_version_that_they_are_named_in() {
    let v1 = registry::find_kind("autoscaling/v1", "HorizontalPodAutoscaler").expect("served");
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let one = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50}});
    let live = fields(v1).apply(None, &one, false, &actor("m1", "autoscaling/v1", "")).expect("created");
    let v2 = registry::find_kind("autoscaling/v2", "HorizontalPodAutoscaler").expect("served");
    let live = registry::convert(v1, v2, &live).expect("converts");
    let config = |max: i32| {
        json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": max}})
    };
    let refused = fields(v2).apply(Some(&live), &config(4), false, &actor("m2", "autoscaling/v2", ""));
    let words = "Apply failed with 1 conflict: conflict with \"m1\": .spec.maxReplicas";
    assert_eq!(refused.expect_err("a conflict").message(), words);
    // The same applier in another version drops what it does not say any more.
    let mut again = config(3);
    again["spec"]["scaleTargetRef"] = live["spec"]["scaleTargetRef"].clone();
    let done =
        fields(v2).apply(Some(&live), &again, false, &actor("m1", "autoscaling/v2", "")).expect("applied");
    assert!(done["spec"].get("metrics").is_none_or(Value::is_null), "{}", done["spec"]);
}

#[test]
fn old_updaters_are_counted_together() {
    let kind = registry::find_kind("v1", "ConfigMap").expect("served");
    let mut live = config_map(json!({}));
    for i in 0..14 {
        let mut new = live.clone();
        new["data"][format!("k{i}")] = "1".into();
        let (manager, now) = (format!("m{i:02}"), format!("2026-01-02T03:04:{i:02}Z"));
        let by = Actor { manager: &manager, api_version: "v1", subresource: "", now: &now };
        fields(kind).update((i > 0).then_some(&live), &mut new, &by);
        live = new;
    }
    let entries = live["metadata"]["managedFields"].as_array().expect("entries");
    assert_eq!(entries.len(), 10);
    assert_eq!(entries[0]["manager"], "ancient-changes");
    assert_eq!(entries[0]["fieldsV1"]["f:data"].as_object().map(|map| map.len()), Some(6));
}

#[test]
fn a_large_list_is_applied_in_linear_time() {
    let ports: Vec<Value> =
        (1..20_000).map(|i| json!({"name": format!("p{i}"), "port": i, "protocol": "TCP"})).collect();
    let service = |ports: &[Value]| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    let kind = registry::find_kind("v1", "Service").expect("served");
    let started = std::time::Instant::now();
    let live = fields(kind).apply(None, &service(&ports), false, &actor("m1", "v1", "")).expect("created");
    let less = service(ports.get(..10_000).expect("many"));
    let done = fields(kind).apply(Some(&live), &less, false, &actor("m1", "v1", "")).expect("applied");
    assert_eq!(done["spec"]["ports"].as_array().map(Vec::len), Some(10_000));
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
