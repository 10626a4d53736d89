//! NetworkPolicy as its users mean it: default deny, allow by pod, namespace, address and port, and its removal.

use serde_json::Value;

use crate::harness::{Place, client, eventually, json, kubectl, load, ok, pods, ready, rolled_out, web};

const QUICK: [&str; 2] = ["--timeout", "400"];

/// A web server on node1 and two clients, `near` on its node and `far` on the other.
fn stage(name: &str) -> (Place, String) {
    let place = Place::new(name);
    let ns = place.namespace.clone();
    place.apply(&web("web", 1));
    place.apply(&client("near", "node1"));
    place.apply(&client("far", "node2"));
    place.kubectl(&[
        "patch",
        "deployment",
        "web",
        "-p",
        r#"{"spec":{"template":{"spec":{"nodeName":"node1"}}}}"#,
    ]);
    rolled_out(&ns, "deployment/web");
    ready(&ns, "near");
    ready(&ns, "far");
    eventually("one web server", 60, || {
        let found = pods(&ns, "app=web");
        if found.len() == 1 && found[0].1 == "node1" { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let (_, _, address) = pods(&ns, "app=web").remove(0);
    (place, address)
}

fn tries(ns: &str, pod: &str, target: &str) -> Value {
    load(ns, pod, &[target, "-n", "4", "-c", "4", QUICK[0], QUICK[1]])
}

#[track_caller]
fn opens(ns: &str, pod: &str, target: &str) {
    eventually(&format!("{pod} to reach {target}"), 20, || {
        let seen = tries(ns, pod, target);
        if ok(&seen) == 4 { Ok(()) } else { Err(seen.to_string()) }
    });
}

#[track_caller]
fn closes(ns: &str, pod: &str, target: &str) {
    eventually(&format!("{pod} to be kept from {target}"), 20, || {
        let seen = tries(ns, pod, target);
        if ok(&seen) == 0 { Ok(()) } else { Err(seen.to_string()) }
    });
    // Closed stays closed.
    assert_eq!(ok(&tries(ns, pod, target)), 0);
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n{spec}"
    )
}

#[test]
fn default_deny_lets_no_packet_pass_and_its_removal_opens_again() {
    let (place, web) = stage("deny");
    let ns = place.namespace.as_str();
    let target = format!("{web}:8080");
    for pod in ["near", "far"] {
        opens(ns, pod, &target);
    }
    place.apply(&policy("deny", "  podSelector: {}\n  policyTypes: [Ingress, Egress]\n"));
    for pod in ["near", "far"] {
        closes(ns, pod, &target);
        let udp = load(
            ns,
            pod,
            &[&format!("{web}:9001"), "--protocol", "udp", "-n", "4", "-c", "4", QUICK[0], QUICK[1]],
        );
        assert_eq!(ok(&udp), 0, "{udp}");
    }
    place.kubectl(&["delete", "networkpolicy", "deny"]);
    for pod in ["near", "far"] {
        opens(ns, pod, &target);
    }
}

#[test]
fn probes_of_the_node_pass_a_default_deny() {
    let (place, _) = stage("probes");
    place.apply(&policy("deny", "  podSelector: {}\n  policyTypes: [Ingress, Egress]\n"));
    closes(&place.namespace, "far", &format!("{}:8080", pods(&place.namespace, "app=web").remove(0).2));
    place.kubectl(&["rollout", "restart", "deployment/web"]);
    rolled_out(&place.namespace, "deployment/web");
}

#[test]
fn only_the_named_pods_and_ports_pass() {
    let (place, web) = stage("pods");
    let ns = place.namespace.as_str();
    place.apply(&policy(
        "from-near",
        "  podSelector: {matchLabels: {app: web}}\n  ingress:\n  - from: [{podSelector: {matchLabels: {role: near}}}]\n    ports: [{port: http}]\n",
    ));
    closes(ns, "far", &format!("{web}:8080"));
    opens(ns, "near", &format!("{web}:8080"));
    let other = load(
        ns,
        "near",
        &[&format!("{web}:9000"), "--protocol", "tcp", "-n", "4", "-c", "4", QUICK[0], QUICK[1]],
    );
    assert_eq!(ok(&other), 0, "the port that no rule names: {other}");
    // A label change is a policy change.
    place.kubectl(&["label", "pod", "far", "role=near", "--overwrite"]);
    opens(ns, "far", &format!("{web}:8080"));
}

#[test]
fn namespaces_pass_by_their_labels() {
    let (place, web) = stage("namespaces");
    let other = Place::new("friends");
    other.apply(&client("c", "node2"));
    ready(&other.namespace, "c");
    let target = format!("{web}:8080");
    place.apply(&policy(
        "from-friends",
        "  podSelector: {matchLabels: {app: web}}\n  ingress:\n  - from: [{namespaceSelector: {matchLabels: {team: friends}}}]\n",
    ));
    closes(&other.namespace, "c", &target);
    kubectl(&["label", "namespace", &other.namespace, "team=friends"]);
    opens(&other.namespace, "c", &target);
    closes(&place.namespace, "far", &target);
}

#[test]
fn addresses_pass_by_block_but_for_its_exceptions() {
    let (place, web) = stage("blocks");
    let ns = place.namespace.as_str();
    let near = place.kubectl(&["get", "pod", "near", "-o", "jsonpath={.status.podIP}"]);
    place.apply(&policy(
        "block",
        &format!(
            "  podSelector: {{matchLabels: {{app: web}}}}\n  ingress:\n  - from: [{{ipBlock: {{cidr: 10.244.0.0/16, except: [{near}/32]}}}}]\n    ports: [{{port: 8000, endPort: 8100}}]\n"
        ),
    ));
    closes(ns, "near", &format!("{web}:8080"));
    opens(ns, "far", &format!("{web}:8080"));
    let beyond = load(
        ns,
        "far",
        &[&format!("{web}:9000"), "--protocol", "tcp", "-n", "4", "-c", "4", QUICK[0], QUICK[1]],
    );
    assert_eq!(ok(&beyond), 0, "a port after endPort: {beyond}");
}

#[test]
fn egress_rules_bound_where_a_pod_may_go() {
    let (place, web) = stage("egress");
    let ns = place.namespace.as_str();
    place.apply(&policy(
        "out",
        "  podSelector: {matchLabels: {role: far}}\n  policyTypes: [Egress]\n  egress:\n  - to: [{podSelector: {matchLabels: {app: web}}}]\n    ports: [{port: 9000}]\n",
    ));
    closes(ns, "far", &format!("{web}:8080"));
    let allowed = load(ns, "far", &[&format!("{web}:9000"), "--protocol", "tcp", "-n", "4"]);
    assert_eq!(ok(&allowed), 4, "{allowed}");
    opens(ns, "near", &format!("{web}:8080"));
}

#[test]
fn pod_that_a_policy_selects_is_closed_from_its_first_packet() {
    let place = Place::new("firstpacket");
    let ns = place.namespace.as_str();
    place.apply(&web("web", 1));
    rolled_out(ns, "deployment/web");
    let (_, _, address) = pods(ns, "app=web").remove(0);
    place.apply(&policy("out", "  podSelector: {matchLabels: {role: eager}}\n  policyTypes: [Egress]\n"));
    place.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: eager, labels: {{role: eager}}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: fairlead/toolbox:latest
    imagePullPolicy: IfNotPresent
    command: [toolbox, load, "{address}:8080", "-n", "2000", "-c", "32", "--timeout", "30"]
"#
    ));
    eventually("the eager pod to end", 60, || {
        let pod = json(&["-n", ns, "get", "pod", "eager"]);
        if pod["status"]["phase"] == "Succeeded" { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    let report: Value = serde_json::from_str(place.kubectl(&["logs", "eager"]).trim()).expect("a report");
    assert_eq!(ok(&report), 0, "{report}");
}
