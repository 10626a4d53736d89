//! Decisions by the table: pods and nodes in, the chosen node or upstream's words out.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::decide::{Decision, decide, explain};
use crate::filter::Search;
use crate::model::{Cluster, placed, requests};
use crate::preempt;

fn node(name: &str, more: &Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": "z1"}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}},
    });
    merge(&mut node, more);
    node
}

fn pod(name: &str, more: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    merge(&mut pod, more);
    pod
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn asks(cpu: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the fixture is well-formed")
}

fn cluster(nodes: Vec<Value>, pods: Vec<(&str, Value)>) -> Cluster {
    let mut cluster = Cluster::default();
    for (on, pod) in pods {
        cluster.place(on, Arc::new(placed(&typed::<Pod>(pod))));
    }
    for node in nodes {
        cluster.put_node(&typed::<Node>(node));
    }
    cluster
}

/// The names of the best nodes, or the explanation and the victims of a preemption.
#[track_caller]
fn check(cluster: &Cluster, wanted: Value, expected: Result<&[&str], &str>) -> Option<Vec<String>> {
    let pod: Pod = typed(wanted);
    let own = placed(&pod);
    let search = Search { pod: &pod, placed: &own, nodes: &cluster.nodes, namespaces: &BTreeMap::new() };
    match (decide(&search), expected) {
        (Decision::Fits(best), Ok(names)) => {
            assert_eq!(best.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), names);
            None
        }
        (Decision::None(refused), Err(words)) => {
            assert_eq!(explain(&refused, false), words);
            preempt::find(&search, &refused).map(|v| v.pods.iter().map(|p| p.name.clone()).collect())
        }
        (Decision::Fits(best), Err(_)) => {
            panic!("fits {:?}", best.iter().map(|n| &n.name).collect::<Vec<_>>())
        }
        (Decision::None(refused), Ok(_)) => panic!("refused: {}", explain(&refused, false)),
    }
}

const HOPELESS: &str = "no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str = "no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";

#[test]
fn each_filter_says_why_in_upstreams_words() {
    let two = || vec![node("a", &json!({})), node("b", &json!({}))];
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let cases = [
        (two(), asks("5"), "0/2 nodes are available: 2 Insufficient cpu.", HOPELESS),
        (
            two(),
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
            HOPELESS,
        ),
        (
            vec![node("a", &tainted), node("b", &tainted)],
            json!({}),
            "0/2 nodes are available: 2 node(s) had untolerated taint(s).",
            HOPELESS,
        ),
        (
            vec![node("a", &json!({"spec": {"unschedulable": true}})), node("b", &tainted)],
            json!({}),
            "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.",
            HOPELESS,
        ),
    ];
    for (nodes, more, words, rest) in cases {
        check(&cluster(nodes, vec![]), pod("p", &more), Err(&format!("{words} {rest}")));
    }
    check(&Cluster::default(), pod("p", &json!({})), Err("no nodes available to schedule pods"));
}

#[test]
fn resources_and_ports_that_are_taken_refuse() {
    let nodes = || vec![node("a", &json!({})), node("b", &json!({}))];
    let full = cluster(nodes(), vec![("a", pod("x", &asks("1500m"))), ("b", pod("y", &asks("1500m")))]);
    check(
        &full,
        pod("p", &asks("600m")),
        Err(&format!("0/2 nodes are available: 2 Insufficient cpu. {NO_VICTIMS}")),
    );
    check(&full, pod("p", &asks("500m")), Ok(&["a", "b"]));
    let port = json!({"spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    let taken = cluster(nodes(), vec![("a", pod("x", &port))]);
    check(&taken, pod("p", &port), Ok(&["b"]));
    let small = json!({"status": {"allocatable": {"pods": "1"}}});
    let crowded = cluster(
        vec![node("a", &small), node("b", &small)],
        vec![("a", pod("x", &json!({}))), ("b", pod("y", &json!({})))],
    );
    check(
        &crowded,
        pod("p", &json!({})),
        Err(&format!("0/2 nodes are available: 2 Too many pods. {NO_VICTIMS}")),
    );
}

#[test]
fn least_allocated_and_owner_spread_choose() {
    let nodes = || vec![node("a", &json!({})), node("b", &json!({}))];
    check(&cluster(nodes(), vec![("a", pod("x", &asks("1")))]), pod("p", &asks("100m")), Ok(&["b"]));
    let owned = json!({"metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]}});
    let mut big = owned.clone();
    merge(&mut big, &asks("200m"));
    // The owner's replicas outweigh a somewhat emptier node.
    let placed = vec![("a", pod("x", &owned)), ("b", pod("y", &asks("300m")))];
    check(&cluster(nodes(), placed), pod("p", &big), Ok(&["b"]));
}

#[test]
fn affinity_and_taints_steer() {
    let ssd = json!({"metadata": {"labels": {"disk": "ssd", "size": "8"}}});
    let nodes = || vec![node("a", &json!({})), node("b", &ssd)];
    let terms = |r: Value| json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [r]}]}}}}});
    for (r, fits) in [
        (json!({"key": "disk", "operator": "In", "values": ["ssd"]}), "b"),
        (json!({"key": "disk", "operator": "Exists"}), "b"),
        (json!({"key": "disk", "operator": "DoesNotExist"}), "a"),
        (json!({"key": "disk", "operator": "NotIn", "values": ["ssd"]}), "a"),
        (json!({"key": "size", "operator": "Gt", "values": ["7"]}), "b"),
    ] {
        check(&cluster(nodes(), vec![]), pod("p", &terms(r)), Ok(&[fits]));
    }
    let prefers = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}]}}}});
    check(&cluster(nodes(), vec![]), pod("p", &prefers), Ok(&["b"]));
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}});
    let tolerant = json!({"spec": {"tolerations": [{"key": "k", "operator": "Equal", "value": "v"}], "nodeSelector": {"kubernetes.io/hostname": "a"}}});
    check(&cluster(vec![node("a", &tainted)], vec![]), pod("p", &tolerant), Ok(&["a"]));
}

#[test]
fn pods_keep_together_apart_and_spread() {
    let nodes = || vec![node("a", &json!({})), node("b", &json!({}))];
    let term =
        json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}]);
    let rule = |kind: &str| json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}}}});
    let there = || vec![("a", pod("x", &json!({})))];
    check(&cluster(nodes(), there()), pod("p", &rule("podAffinity")), Ok(&["a"]));
    check(&cluster(nodes(), there()), pod("p", &rule("podAntiAffinity")), Ok(&["b"]));
    // A pod's own anti-affinity binds newcomers that have none.
    check(
        &cluster(nodes(), vec![("a", pod("shy", &rule("podAntiAffinity")))]),
        pod("x", &json!({})),
        Ok(&["b"]),
    );
    let spread = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "x"}}}]}});
    check(&cluster(nodes(), there()), pod("p", &spread), Ok(&["b"]));
}

#[test]
fn preemption_takes_the_least_important() {
    let with = |name: &str, priority: i32, cpu: &str| {
        let mut value = pod(name, &asks(cpu));
        merge(&mut value, &json!({"spec": {"priority": priority}}));
        value
    };
    let full = cluster(
        vec![node("a", &json!({})), node("b", &json!({}))],
        vec![("a", with("high", 50, "2")), ("b", with("low", 1, "1")), ("b", with("mid", 10, "1"))],
    );
    let victims = check(
        &full,
        with("p", 100, "1"),
        Err(&format!("0/2 nodes are available: 2 Insufficient cpu. {NO_VICTIMS}")),
    );
    assert_eq!(victims, Some(vec!["low".to_owned()]));
    let none = check(
        &full,
        with("p", 1, "1"),
        Err(&format!("0/2 nodes are available: 2 Insufficient cpu. {NO_VICTIMS}")),
    );
    assert_eq!(none, None);
}

#[test]
fn requests_count_sidecars_and_the_largest_start() {
    let container = |cpu: &str| json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}});
    let mut sidecar = container("300m");
    sidecar["restartPolicy"] = json!("Always");
    let value = pod(
        "p",
        &json!({"spec": {"containers": [container("1"), container("500m")], "initContainers": [sidecar, container("2")]}}),
    );
    assert_eq!(requests(&typed::<Pod>(value))["cpu"], 2_300_000_000);
    let value = pod(
        "p",
        &json!({"spec": {"containers": [container("3")], "initContainers": [container("2")], "overhead": {"cpu": "100m"}}}),
    );
    assert_eq!(requests(&typed::<Pod>(value))["cpu"], 3_100_000_000);
}
