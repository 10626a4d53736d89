use serde_json::json;

use super::super::fixture::{grant, kubelet, user, with_defaults};
use super::*;

#[test]
fn reviews_answer_in_upstreams_words() {
    let authorizer = with_defaults();
    let body = json!({"apiVersion": VERSION, "kind": "SubjectAccessReview", "spec": {
        "user": "bob", "groups": ["system:authenticated"], "nonResourceAttributes": {"path": "/api", "verb": "get"}}});
    let mut expected = body.clone();
    expected["metadata"] = json!({});
    expected["status"] = json!({"allowed": true, "reason":
        r#"RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated""#});
    assert_eq!(access(&authorizer, Access::Any, &body), Ok(expected));
    let own = json!({"spec": {"resourceAttributes": {"namespace": "a", "verb": "get", "resource": "pods"}}});
    let answer = access(&authorizer, Access::Own(&user("alice")), &own).expect("answer");
    assert_eq!(
        (&answer["status"], &answer["kind"]),
        (&json!({"allowed": false}), &json!("SelfSubjectAccessReview"))
    );
}

#[track_caller]
fn check_refused(of: Access<'_>, spec: Value, words: &str) {
    let status = access(&with_defaults(), of, &json!({"spec": spec})).expect_err("refused");
    assert_eq!((status.code(), status.message()), (422, words));
}

#[test]
fn reviews_about_nothing_or_nobody_are_invalid() {
    let resource = json!({"namespace": "a", "verb": "get", "resource": "pods"});
    check_refused(
        Access::Any,
        json!({"resourceAttributes": resource}),
        r#".authorization.k8s.io "" is invalid: spec.user: Invalid value: "": at least one of user or group must be specified"#,
    );
    let both = json!({"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "Exists"}]});
    check_refused(
        Access::Any,
        json!({"user": "u", "resourceAttributes": {"verb": "list", "resource": "pods", "labelSelector": both}}),
        r#".authorization.k8s.io "" is invalid: spec.resourceAttributes.labelSelector.rawSelector: Invalid value: "a=b": may not specified at the same time as requirements"#,
    );
    check_refused(
        Access::Local("b"),
        json!({"user": "u", "resourceAttributes": resource}),
        r#".authorization.k8s.io "" is invalid: spec.resourceAttributes.namespace: Invalid value: "a": must match metadata.namespace"#,
    );
}

#[test]
fn a_selector_that_is_not_understood_is_told_and_ignored() {
    let spec = json!({"user": "u", "resourceAttributes": {"verb": "list", "resource": "pods",
        "fieldSelector": {"requirements": [{"key": "a", "operator": "Bad"}]}}});
    let answer = access(&with_defaults(), Access::Any, &json!({"spec": spec})).expect("answer");
    let expected = json!({"allowed": false, "evaluationError": "spec.resourceAttributes.fieldSelector ignored due to parse error"});
    assert_eq!(answer["status"], expected);
}

#[test]
fn field_selectors_count_for_kubelets() {
    let node = kubelet("n1");
    let review = |selector: Value| {
        let spec =
            json!({"resourceAttributes": {"verb": "list", "resource": "pods", "fieldSelector": selector}});
        access(&with_defaults(), Access::Own(&node), &json!({"spec": spec})).expect("answer")["status"]["allowed"].clone()
    };
    let own = json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n1"]}]});
    assert_eq!(review(own), json!(true));
    assert_eq!(review(json!({"rawSelector": "spec.nodeName=n2"})), json!(false));
}

#[test]
fn a_rules_review_lists_rules_and_needs_a_namespace() {
    let authorizer = with_defaults();
    grant(
        &authorizer,
        "a",
        "g",
        "alice",
        json!([
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["only"], "verbs": ["get", "update"]}]),
    );
    let alice = user("alice");
    let answer = rules(&authorizer, &alice, &json!({"spec": {"namespace": "a"}})).expect("answer");
    assert_eq!((&answer["spec"], &answer["status"]["incomplete"]), (&json!({}), &json!(false)));
    let listed = answer["status"]["resourceRules"].as_array().expect("rules").clone();
    assert!(listed.contains(&json!({"apiGroups": [""], "resourceNames": ["only"], "resources": ["configmaps"], "verbs": ["get", "update"]})));
    assert_eq!(listed.len(), 3);
    assert_eq!(answer["status"]["nonResourceRules"].as_array().map(Vec::len), Some(3));
    let refused = rules(&authorizer, &alice, &json!({"spec": {}})).expect_err("refused");
    assert_eq!((refused.code(), refused.message()), (400, "no namespace on request"));
    let node = rules(&authorizer, &kubelet("n1"), &json!({"spec": {"namespace": "a"}})).expect("answer");
    assert_eq!(node["status"]["incomplete"], json!(true));
}

#[test]
fn a_user_is_told_who_it_is() {
    let review = who_am_i(&user("alice"), "2026-01-01T00:00:00Z");
    assert_eq!(
        review["status"]["userInfo"],
        json!({"username": "alice", "groups": ["system:authenticated"]})
    );
}
