use serde_json::json;

use super::super::fixture::{grant, kubelet, observe, user, with_defaults};
use super::super::{MASTERS, SERVICE_ACCOUNTS};
use super::*;

type Ask<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, &'a str);

/// Asks for verb, group, resource[/subresource], namespace, name, field selector.
fn ask(
    authorizer: &Authorizer,
    user: &User,
    (verb, group, resource, namespace, name, field_selector): Ask<'_>,
) -> Decision {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    authorizer.authorize(&Attributes {
        group,
        resource,
        subresource,
        namespace,
        name,
        field_selector,
        ..Attributes::new(user, verb)
    })
}

#[track_caller]
fn check(authorizer: &Authorizer, user: &User, what: Ask<'_>, allowed: bool) {
    let decision = ask(authorizer, user, what);
    assert_eq!(decision.is_allowed(), allowed, "{} {what:?}: {decision:?}", user.name);
}

#[test]
fn masters_may_do_everything_and_others_nothing_without_a_binding() {
    let authorizer = Authorizer::new();
    let admin = User { groups: vec![MASTERS.to_owned()], ..user("admin") };
    check(&authorizer, &admin, ("delete", "", "nodes", "", "n", ""), true);
    check(&authorizer, &user("alice"), ("get", "", "pods", "a", "p", ""), false);
}

#[test]
fn a_binding_counts_in_its_namespace_and_is_named_as_the_reason() {
    let authorizer = with_defaults();
    grant(
        &authorizer,
        "a",
        "ro",
        "alice",
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
    );
    let alice = user("alice");
    let reason = r#"RBAC: allowed by RoleBinding "ro/a" of Role "ro" to User "alice""#;
    let decision = ask(&authorizer, &alice, ("get", "", "pods", "a", "p", ""));
    assert_eq!(decision, Decision::Allow(reason.to_owned()));
    check(&authorizer, &alice, ("get", "", "pods", "b", "p", ""), false);
    check(&authorizer, &alice, ("list", "", "pods", "", "", ""), false);
    authorizer.observe("rolebindings", "a", "ro", None);
    check(&authorizer, &alice, ("get", "", "pods", "a", "p", ""), false);
}

#[test]
fn a_replaced_binding_takes_rights_from_the_subjects_it_lost() {
    let authorizer = Authorizer::new();
    let rules = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    grant(&authorizer, "", "all", "alice", rules.clone());
    check(&authorizer, &user("alice"), ("get", "", "nodes", "", "n", ""), true);
    grant(&authorizer, "", "all", "bob", rules);
    check(&authorizer, &user("alice"), ("get", "", "nodes", "", "n", ""), false);
    check(&authorizer, &user("bob"), ("get", "", "nodes", "", "n", ""), true);
    authorizer.observe("clusterroles", "", "all", None);
    check(&authorizer, &user("bob"), ("get", "", "nodes", "", "n", ""), false);
}

#[test]
fn groups_and_service_accounts_are_subjects() {
    let authorizer = Authorizer::new();
    observe(
        &authorizer,
        "roles",
        &json!({"metadata": {"namespace": "a", "name": "ro"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
    );
    let subjects = json!([{"kind": "Group", "name": "team"}, {"kind": "ServiceAccount", "name": "robot", "namespace": "a"}]);
    observe(
        &authorizer,
        "rolebindings",
        &json!({"metadata": {"namespace": "a", "name": "rb"}, "roleRef": {"kind": "Role", "name": "ro"}, "subjects": subjects}),
    );
    let member = User { groups: vec!["team".to_owned()], ..user("x") };
    let robot = User { groups: vec![SERVICE_ACCOUNTS.to_owned()], ..user("system:serviceaccount:a:robot") };
    for (who, words) in [(&member, r#"Group "team""#), (&robot, r#"ServiceAccount "robot/a""#)] {
        let reason = format!(r#"RBAC: allowed by RoleBinding "rb/a" of Role "ro" to {words}"#);
        assert_eq!(ask(&authorizer, who, ("get", "", "pods", "a", "p", "")), Decision::Allow(reason));
    }
    check(&authorizer, &user("system:serviceaccount:b:robot"), ("get", "", "pods", "a", "p", ""), false);
}

#[test]
fn aggregated_roles_hold_the_rules_of_those_they_select() {
    let authorizer = with_defaults();
    let bind = |namespace: &str, role: &str, user: &str| {
        observe(
            &authorizer,
            "rolebindings",
            &json!({"metadata": {"namespace": namespace, "name": role}, "roleRef": {"kind": "ClusterRole", "name": role},
                "subjects": [{"kind": "User", "name": user}]}),
        );
    };
    bind("a", "view", "alice");
    bind("a", "admin", "root");
    check(&authorizer, &user("alice"), ("list", "apps", "deployments", "a", "", ""), true);
    check(&authorizer, &user("alice"), ("get", "", "secrets", "a", "s", ""), false);
    check(&authorizer, &user("root"), ("get", "", "secrets", "a", "s", ""), true);
    check(&authorizer, &user("root"), ("create", "rbac.authorization.k8s.io", "roles", "a", "", ""), true);
    observe(
        &authorizer,
        "clusterroles",
        &json!({"metadata": {"name": "mine", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
            "rules": [{"apiGroups": ["x.io"], "resources": ["things"], "verbs": ["get"]}]}),
    );
    check(&authorizer, &user("alice"), ("get", "x.io", "things", "a", "t", ""), true);
}

#[test]
fn everybody_reads_health_and_version_and_nothing_else() {
    let authorizer = with_defaults();
    let anonymous = super::super::authenticate::anonymous();
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert!(authorizer.authorize(&Attributes::path(&anonymous, "get", path)).is_allowed(), "{path}");
    }
    for path in [
        "/",
        "/api",
        "/apis",
        "/metrics",
        "/openapi/v3",
        "/.well-known/openid-configuration",
        "/healthz/etcd",
    ] {
        assert!(!authorizer.authorize(&Attributes::path(&anonymous, "get", path)).is_allowed(), "{path}");
    }
    assert!(!authorizer.authorize(&Attributes::path(&anonymous, "post", "/healthz")).is_allowed());
    check(&authorizer, &anonymous, ("list", "", "pods", "", "", ""), false);
}

#[test]
fn components_have_the_rights_that_upstream_gives_them() {
    let authorizer = with_defaults();
    let scheduler = user("system:kube-scheduler");
    check(&authorizer, &scheduler, ("create", "", "pods/binding", "a", "p", ""), true);
    check(&authorizer, &scheduler, ("delete", "apps", "deployments", "a", "d", ""), false);
    let manager = user("system:kube-controller-manager");
    check(&authorizer, &manager, ("list", "", "pods", "", "", ""), true);
}

#[test]
fn refusals_have_upstreams_words() {
    let alice = user("alice");
    let resource = Attributes {
        group: "apps",
        resource: "deployments",
        subresource: "scale",
        namespace: "a",
        name: "d",
        ..Attributes::new(&alice, "patch")
    };
    let status = resource.forbidden("");
    assert_eq!(status.code(), 403);
    assert_eq!(
        status.message(),
        r#"deployments.apps "d" is forbidden: User "alice" cannot patch resource "deployments/scale" in API group "apps" in the namespace "a""#
    );
    let nodes = Attributes { resource: "nodes", ..Attributes::new(&alice, "list") };
    assert_eq!(
        nodes.forbidden("because").message(),
        r#"nodes is forbidden: User "alice" cannot list resource "nodes" in API group "" at the cluster scope: because"#
    );
    let path = Attributes::path(&alice, "get", "/api");
    assert_eq!(path.forbidden("").message(), r#"forbidden: User "alice" cannot get path "/api""#);
}

/// Pods `p` on node `n1` and `q` on node `n2` in namespace `a`, which name secrets, config maps and claims.
fn with_pods() -> Authorizer {
    let authorizer = with_defaults();
    for (pod, node, suffix) in [("p", "n1", "1"), ("q", "n2", "2")] {
        let name = |what: &str| format!("{what}{suffix}");
        observe(
            &authorizer,
            "pods",
            &json!({"metadata": {"namespace": "a", "name": pod}, "spec": {
                "nodeName": node,
                "serviceAccountName": name("sa"),
                "imagePullSecrets": [{"name": name("pull")}],
                "volumes": [
                    {"name": "v1", "secret": {"secretName": name("volume")}},
                    {"name": "v2", "projected": {"sources": [{"configMap": {"name": name("projected")}}]}},
                    {"name": "v3", "persistentVolumeClaim": {"claimName": name("claim")}},
                ],
                "initContainers": [{"name": "i", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": name("env"), "key": "k"}}}]}],
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": name("from")}}]}],
            }}),
        );
        observe(
            &authorizer,
            "persistentvolumeclaims",
            &json!({"metadata": {"namespace": "a", "name": name("claim")}, "spec": {"volumeName": name("pv")}}),
        );
    }
    authorizer
}

#[test]
fn a_kubelet_reads_what_the_pods_on_its_node_name() {
    let authorizer = with_pods();
    let n1 = kubelet("n1");
    for (resource, name) in [
        ("secrets", "pull"),
        ("secrets", "volume"),
        ("secrets", "env"),
        ("configmaps", "projected"),
        ("configmaps", "from"),
        ("persistentvolumeclaims", "claim"),
    ] {
        check(&authorizer, &n1, ("get", "", resource, "a", &format!("{name}1"), ""), true);
        check(&authorizer, &n1, ("get", "", resource, "a", &format!("{name}2"), ""), false);
        check(&authorizer, &n1, ("get", "", resource, "b", &format!("{name}1"), ""), false);
        check(&authorizer, &n1, ("update", "", resource, "a", &format!("{name}1"), ""), false);
    }
    check(&authorizer, &n1, ("watch", "", "secrets", "a", "volume1", ""), true);
    check(&authorizer, &n1, ("list", "", "secrets", "a", "", ""), false);
    check(&authorizer, &n1, ("get", "", "persistentvolumes", "", "pv1", ""), true);
    check(&authorizer, &n1, ("get", "", "persistentvolumes", "", "pv2", ""), false);
    check(&authorizer, &n1, ("create", "", "serviceaccounts/token", "a", "sa1", ""), true);
    check(&authorizer, &n1, ("create", "", "serviceaccounts/token", "a", "sa2", ""), false);
    let refused = ask(&authorizer, &n1, ("get", "", "secrets", "a", "volume2", ""));
    let words = "no relationship found between node 'n1' and this object";
    assert_eq!(refused, Decision::Refuse(words.to_owned()));
}

#[test]
fn a_kubelet_loses_what_a_deleted_pod_named() {
    let authorizer = with_pods();
    authorizer.observe("pods", "a", "p", None);
    check(&authorizer, &kubelet("n1"), ("get", "", "secrets", "a", "volume1", ""), false);
    check(&authorizer, &kubelet("n2"), ("get", "", "secrets", "a", "volume2", ""), true);
}

#[test]
fn a_secret_stays_readable_while_one_of_two_pods_names_it() {
    let authorizer = with_defaults();
    let pod = |name: &str| json!({"metadata": {"namespace": "a", "name": name}, "spec": {"nodeName": "n1", "imagePullSecrets": [{"name": "s"}]}});
    observe(&authorizer, "pods", &pod("x"));
    observe(&authorizer, "pods", &pod("y"));
    observe(&authorizer, "pods", &pod("y"));
    authorizer.observe("pods", "a", "x", None);
    check(&authorizer, &kubelet("n1"), ("get", "", "secrets", "a", "s", ""), true);
    authorizer.observe("pods", "a", "y", None);
    check(&authorizer, &kubelet("n1"), ("get", "", "secrets", "a", "s", ""), false);
}

#[test]
fn a_kubelet_sees_its_own_node_pods_and_lease_only() {
    let authorizer = with_pods();
    let n1 = kubelet("n1");
    for (what, allowed) in [
        (("get", "", "nodes", "", "n1", ""), true),
        (("get", "", "nodes", "", "n2", ""), false),
        (("list", "", "nodes", "", "", ""), false),
        (("watch", "", "nodes", "", "", "metadata.name=n1"), true),
        (("watch", "", "nodes", "", "", "metadata.name=n2"), false),
        (("create", "", "nodes", "", "", ""), true),
        (("patch", "", "nodes/status", "", "n1", ""), true),
        // Admission refuses this one, which can also say that there is no such node.
        (("patch", "", "nodes/status", "", "n2", ""), true),
        (("get", "", "nodes", "", "n2", ""), false),
        (("delete", "", "nodes", "", "n1", ""), false),
        (("list", "", "pods", "", "", "spec.nodeName=n1"), true),
        (("watch", "", "pods", "", "", "spec.nodeName=n2"), false),
        (("list", "", "pods", "", "", ""), false),
        (("get", "", "pods", "a", "p", ""), true),
        (("get", "", "pods", "a", "q", ""), false),
        (("patch", "", "pods/status", "a", "p", ""), true),
        (("delete", "", "pods", "a", "p", ""), true),
        (("create", "", "pods/exec", "a", "p", ""), false),
        (("update", "coordination.k8s.io", "leases", "kube-node-lease", "n1", ""), true),
        (("update", "coordination.k8s.io", "leases", "kube-node-lease", "n2", ""), false),
        (("get", "coordination.k8s.io", "leases", "kube-system", "n1", ""), false),
        (("list", "", "services", "", "", ""), true),
        (("create", "", "events", "a", "", ""), true),
        (("list", "", "endpoints", "", "", ""), false),
        (("list", "", "configmaps", "", "", ""), false),
        (("delete", "", "namespaces", "", "a", ""), false),
    ] {
        check(&authorizer, &n1, what, allowed);
    }
    let impostor = user("system:node:n1");
    check(&authorizer, &impostor, ("get", "", "nodes", "", "n1", ""), false);
}
