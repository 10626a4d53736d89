use serde_json::json;

use super::super::fixture::{Shelf, kubelet, user};
use super::*;

struct Case<'a> {
    operation: &'a str,
    resource: &'a str,
    name: &'a str,
    new: Option<Value>,
    old: Option<Value>,
}

#[track_caller]
fn check(case: Case<'_>, refused: Option<&str>) {
    let mut shelf = Shelf::default();
    for (pod, node) in [("p", "n1"), ("q", "n2")] {
        shelf.put("pods", json!({"metadata": {"namespace": "a", "name": pod, "uid": format!("uid-{pod}")}, "spec": {"nodeName": node}}));
    }
    shelf.put("nodes", json!({"metadata": {"namespace": "", "name": "n1", "uid": "u"}}));
    let (resource, subresource) = case.resource.split_once('/').unwrap_or((case.resource, ""));
    let n1 = kubelet("n1");
    let admission = Admission {
        user: &n1,
        operation: case.operation,
        group: "",
        resource,
        subresource,
        namespace: "a",
        name: case.name,
        new: case.new.as_ref(),
        old: case.old.as_ref(),
    };
    let answer = admission.check(&shelf).err();
    let said = answer.as_ref().map(Status::message);
    match refused {
        None => assert_eq!(said, None),
        Some(words) => assert!(said.is_some_and(|said| said.contains(words)), "{words:?} in {said:?}"),
    }
    let anybody = Admission { user: &user("alice"), ..admission };
    assert_eq!(anybody.check(&shelf).err(), None, "only kubelets are restricted");
}

fn node(name: &str, labels: Value, taints: Value) -> Option<Value> {
    Some(json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}}))
}

#[test]
fn a_kubelet_writes_its_own_node_without_reserved_labels_or_new_taints() {
    let taint = json!([{"key": "x", "effect": "NoSchedule"}]);
    let good = json!({"kubernetes.io/hostname": "n1", "node.kubernetes.io/x": "y", "mine": "z"});
    let case = |operation, name, new, old| Case { operation, resource: "nodes", name, new, old };
    check(case("create", "", node("n1", good.clone(), taint.clone()), None), None);
    check(
        case("create", "", node("n2", json!({}), json!(null)), None),
        Some(r#"node "n1" is not allowed to modify node "n2""#),
    );
    let restricted = json!({"node-restriction.kubernetes.io/x": "1", "foo.k8s.io/y": "1"});
    check(
        case("create", "", node("n1", restricted.clone(), json!(null)), None),
        Some(
            r#"node "n1" is not allowed to set the following labels: foo.k8s.io/y, node-restriction.kubernetes.io/x"#,
        ),
    );
    let before = node("n1", good.clone(), json!(null));
    check(
        case("update", "n1", node("n1", restricted, json!(null)), before.clone()),
        Some("is not allowed to modify labels"),
    );
    check(
        case("update", "n1", node("n1", good.clone(), taint), before.clone()),
        Some("is not allowed to modify taints"),
    );
    check(case("update", "n1", node("n1", good, json!([])), before), None);
    check(case("delete", "n2", None, node("n2", json!({}), json!(null))), Some("not allowed to modify node"));
}

#[test]
fn a_kubelet_creates_mirror_pods_of_its_own_only() {
    let pod = |node: &str, annotations: Value, volumes: Value| {
        let owner =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": true}]);
        Some(
            json!({"metadata": {"name": "s", "annotations": annotations, "ownerReferences": owner}, "spec": {"nodeName": node, "volumes": volumes}}),
        )
    };
    let case = |new| Case { operation: "create", resource: "pods", name: "", new, old: None };
    let mirror = json!({MIRROR: "hash"});
    check(case(pod("n1", mirror.clone(), json!([]))), None);
    check(case(pod("n1", json!({}), json!([]))), Some("can only create mirror pods"));
    check(case(pod("n2", mirror.clone(), json!([]))), Some("spec.nodeName set to itself"));
    let secret = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    check(case(pod("n1", mirror, secret)), Some("can not create pods that reference secrets"));
}

#[test]
fn a_mirror_pod_belongs_to_its_node_alone() {
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u", "controller": true});
    let with = |field: &str, value: Value| {
        let mut owner = owner.clone();
        owner[field] = value;
        owner
    };
    for (owners, words) in [
        (json!([]), "with an owner reference set to itself"),
        (json!([owner, owner]), "with a single owner reference"),
        (json!([with("name", json!("n2"))]), "with an owner reference set to itself"),
        (json!([with("controller", json!(false))]), "with a controller owner reference"),
        (json!([with("blockOwnerDeletion", json!(true))]), "must not set blockOwnerDeletion"),
        (json!([with("uid", json!("v"))]), "UID mismatch: expected v got u"),
    ] {
        let meta = json!({"name": "s", "annotations": {MIRROR: "hash"}, "ownerReferences": owners});
        let new = Some(json!({"metadata": meta, "spec": {"nodeName": "n1"}}));
        check(Case { operation: "create", resource: "pods", name: "", new, old: None }, Some(words));
    }
}

#[test]
fn a_kubelet_touches_pods_on_its_node_only() {
    let pod = |node: &str, label: &str| {
        Some(json!({"metadata": {"labels": {"l": label}}, "spec": {"nodeName": node}}))
    };
    let case = |operation, resource, name, new, old| Case { operation, resource, name, new, old };
    check(case("delete", "pods", "p", None, pod("n1", "1")), None);
    check(
        case("delete", "pods", "q", None, pod("n2", "1")),
        Some("can only delete pods with spec.nodeName set to itself"),
    );
    check(case("update", "pods/status", "p", pod("n1", "1"), pod("n1", "1")), None);
    check(
        case("update", "pods/status", "p", pod("n1", "2"), pod("n1", "1")),
        Some("cannot update labels through pod status"),
    );
    check(
        case("update", "pods/status", "q", pod("n2", "1"), pod("n2", "1")),
        Some("can only update pod status"),
    );
    check(case("create", "pods/eviction", "p", Some(json!({})), None), None);
    check(case("create", "pods/eviction", "q", Some(json!({})), None), Some("can only evict pods"));
    check(case("create", "pods/exec", "p", None, None), Some(r#"unexpected pod subresource "exec""#));
}

#[test]
fn a_kubelet_asks_for_tokens_bound_to_its_pods() {
    let bound = |name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}});
    let case = |body| Case {
        operation: "create",
        resource: "serviceaccounts/token",
        name: "sa",
        new: Some(body),
        old: None,
    };
    check(case(bound("p", "uid-p")), None);
    check(case(json!({"spec": {}})), Some("node requested token not bound to a pod"));
    check(case(bound("p", "")), Some("without a uid"));
    check(case(bound("p", "other")), Some("does not match the UID in record"));
    check(case(bound("q", "uid-q")), Some("bound to a pod scheduled on a different node"));
    check(case(bound("none", "x")), Some("pods \"none\" not found"));
}
