use serde_json::json;

use super::super::fixture::{grant, user, with_defaults};
use super::*;

const ROLES: &str = "rbac.authorization.k8s.io";

#[track_caller]
fn check(authorizer: &Authorizer, resource: &str, new: &Value, old: Option<&Value>, refused: Option<&str>) {
    let alice = user("alice");
    let name = new.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let write = RbacWrite { user: &alice, resource, namespace: "a", name, new, old };
    let answer = write.check(authorizer).err();
    assert_eq!(answer.as_ref().map(Status::message), refused);
}

fn role(name: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "a"}, "rules": rules})
}

fn binding(name: &str, kind: &str, role: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "a"}, "roleRef": {"apiGroup": ROLES, "kind": kind, "name": role},
        "subjects": [{"kind": "User", "name": "mallory"}]})
}

#[test]
fn a_role_may_hold_what_its_writer_holds() {
    let authorizer = with_defaults();
    let pods = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
    grant(&authorizer, "a", "g", "alice", pods.clone());
    check(&authorizer, "roles", &role("same", pods.clone()), None, None);
    let more = role(
        "more",
        json!([{"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "delete"]}]),
    );
    let words = concat!(
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"alice\" (groups=[\"system:authenticated\"]) ",
        "is attempting to grant RBAC permissions not currently held:\n",
        "{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}\n",
        "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}"
    );
    check(&authorizer, "roles", &more, None, Some(words));
    // Changing nothing about the rules needs no rights.
    check(&authorizer, "roles", &more, Some(&more.clone()), None);
    check(&authorizer, "roles", &role("less", json!([])), Some(&more), None);
}

#[test]
fn the_verb_escalate_lets_a_role_hold_anything() {
    let authorizer = with_defaults();
    grant(
        &authorizer,
        "a",
        "g",
        "alice",
        json!([{"apiGroups": [ROLES], "resources": ["roles"], "verbs": ["escalate"]}]),
    );
    let all = role("all", json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]));
    check(&authorizer, "roles", &all, None, None);
}

#[test]
fn a_binding_needs_the_rights_of_its_role_or_the_verb_bind() {
    let authorizer = with_defaults();
    let words = concat!(
        "rolebindings.rbac.authorization.k8s.io \"b\" is forbidden: user \"alice\" (groups=[\"system:authenticated\"]) ",
        "is attempting to grant RBAC permissions not currently held:\n",
        "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
    );
    check(&authorizer, "rolebindings", &binding("b", "ClusterRole", "cluster-admin"), None, Some(words));
    let absent = "roles.rbac.authorization.k8s.io \"nope\" not found";
    check(&authorizer, "rolebindings", &binding("b", "Role", "nope"), None, Some(absent));
    let same = binding("b", "ClusterRole", "cluster-admin");
    check(&authorizer, "rolebindings", &same, Some(&same.clone()), None);
    let bind = json!([{"apiGroups": [ROLES], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"], "verbs": ["bind"]}]);
    grant(&authorizer, "a", "g", "alice", bind);
    check(&authorizer, "rolebindings", &same, None, None);
}
