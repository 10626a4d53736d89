//! Packets of both families in a cluster that has both: pods, Services of every ipFamilyPolicy, node ports, names and
//! policies. The cluster that `cargo xtask test` starts with etcd is such a one.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{
    Place, client, eventually, json, kubectl, load, load_at, ok, pods, ready, rolled_out, run, text, web,
};

const NODES: [&str; 2] = ["node1", "node2"];

/// Services over the pods of `web`: name, ipFamilyPolicy, ipFamilies.
const SERVICES: [(&str, &str, &str, &[&str]); 4] = [
    ("four", "SingleStack", "IPv4", &["IPv4"]),
    ("six", "SingleStack", "IPv6", &["IPv6"]),
    ("prefer", "PreferDualStack", "IPv4", &["IPv4", "IPv6"]),
    ("require", "RequireDualStack", "IPv6, IPv4", &["IPv6", "IPv4"]),
];

fn service(name: &str, policy: &str, families: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: NodePort
  ipFamilyPolicy: {policy}
  ipFamilies: [{families}]
  selector: {{app: web}}
  ports:
  - {{name: http, port: 80, targetPort: http}}
  - {{name: echo-udp, port: 7, targetPort: echo-udp, protocol: UDP}}
---
"#
    )
}

fn family_of(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

fn target(address: &str, port: u64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// How the servers print a client's address.
fn shown(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

fn strings(list: &Value, field: &str) -> Vec<String> {
    let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let one = |value: &Value| if field.is_empty() { value.clone() } else { value[field].clone() };
    all.iter().filter_map(|value| one(value).as_str().map(str::to_owned)).collect()
}

/// Addresses of a pod, one of each family.
#[track_caller]
fn of_pod(namespace: &str, pod: &str) -> Vec<String> {
    let addresses = strings(&json(&["-n", namespace, "get", "pod", pod])["status"]["podIPs"], "ip");
    let families: Vec<&str> = addresses.iter().map(|address| family_of(address)).collect();
    assert_eq!(families, ["IPv4", "IPv6"], "{pod} has both families (does the cluster?): {addresses:?}");
    addresses
}

/// Addresses of a node, one of each family.
#[track_caller]
fn of_node(node: &str) -> Vec<String> {
    let status = json(&["get", "node", node])["status"]["addresses"].clone();
    let internal: Vec<Value> = status
        .as_array()
        .expect("a list")
        .iter()
        .filter(|address| address["type"] == "InternalIP")
        .cloned()
        .collect();
    strings(&Value::from(internal), "address")
}

/// Waits until every request is answered, and gives the report.
#[track_caller]
fn answered(what: &str, ask: &dyn Fn(&[&str]) -> Value, words: &[&str]) -> Value {
    let mut all = words.to_vec();
    all.extend(["-n", "40", "-c", "2", "--timeout", "1000"]);
    eventually(&format!("{what} to answer"), 20, || {
        let seen = ask(&all);
        if ok(&seen) == 40 { Ok(seen) } else { Err(seen.to_string()) }
    })
}

fn backends(report: &Value) -> usize {
    report["backends"].as_object().map_or(0, serde_json::Map::len)
}

/// Four servers and a client on each node, ready.
fn stage(name: &str) -> Place {
    let place = Place::new(name);
    place.apply(&web("web", 4));
    for node in NODES {
        place.apply(&client(&format!("from-{node}"), node));
    }
    rolled_out(&place.namespace, "deployment/web");
    for node in NODES {
        ready(&place.namespace, &format!("from-{node}"));
    }
    place
}

#[test]
fn pods_reach_each_other_over_both_families() {
    let place = stage("mixedpods");
    let ns = place.namespace.as_str();
    for node in NODES {
        let from = format!("from-{node}");
        let own = of_pod(ns, &from);
        for (pod, _, _) in pods(ns, "app=web") {
            for (own, address) in own.iter().zip(of_pod(ns, &pod)) {
                for (protocol, port) in [("http", 8080), ("tcp", 9000), ("udp", 9001)] {
                    let ask = |words: &[&str]| load(ns, &from, words);
                    let to = target(&address, port);
                    let seen = answered(&pod, &ask, &[&to, "--protocol", protocol]);
                    assert_eq!(seen["backends"][&pod], 40, "{to}: {seen}");
                    assert_eq!(seen["clients"][shown(own)], 40, "{to} sees the client itself: {seen}");
                }
            }
        }
    }
}

#[test]
fn services_answer_in_the_families_they_have() {
    let place = stage("mixedservices");
    let ns = place.namespace.as_str();
    place.apply(&SERVICES.map(|(name, policy, families, _)| service(name, policy, families)).concat());
    let nodes: BTreeMap<&str, Vec<String>> = NODES.into_iter().map(|node| (node, of_node(node))).collect();
    for (name, _, _, families) in SERVICES {
        let spec = json(&["-n", ns, "get", "service", name])["spec"].clone();
        let addresses = strings(&spec["clusterIPs"], "");
        assert_eq!(addresses.iter().map(|one| family_of(one)).collect::<Vec<_>>(), families, "{name}");
        let inside = [("from-node1", true), ("from-node2", true), ("node1", false)];
        for (address, (from, is_pod)) in addresses.iter().flat_map(|one| inside.map(|from| (one, from))) {
            let ask = |words: &[&str]| if is_pod { load(ns, from, words) } else { load_at(from, words) };
            for (protocol, port) in [("http", 80), ("udp", 7)] {
                let to = target(address, port);
                let seen = answered(&format!("{name} at {to}"), &ask, &[&to, "--protocol", protocol]);
                assert_eq!(backends(&seen), 4, "{from} asks {name} at {to}: {seen}");
            }
        }
        for (node, at) in nodes.iter().flat_map(|(node, all)| all.iter().map(move |one| (node, one))) {
            for (index, protocol) in ["http", "udp"].into_iter().enumerate() {
                let to = target(at, spec["ports"][index]["nodePort"].as_u64().expect("a node port"));
                let ask = |words: &[&str]| load_at("outside", words);
                if families.contains(&family_of(at)) {
                    let seen = answered(&format!("{name} at {to}"), &ask, &[&to, "--protocol", protocol]);
                    assert_eq!(backends(&seen), 4, "{node} leads to all of {name} at {to}: {seen}");
                } else {
                    let seen = ask(&[&to, "--protocol", protocol, "-n", "4", "-c", "4", "--timeout", "400"]);
                    assert_eq!(ok(&seen), 0, "{name} is not there at {to}: {seen}");
                }
            }
        }
        names(ns, name, &addresses);
    }
}

/// A and AAAA tell the addresses of their family, and nothing else.
#[track_caller]
fn names(namespace: &str, service: &str, addresses: &[String]) {
    let full = format!("{service}.{namespace}.svc.cluster.local");
    for (kind, family) in [("A", "IPv4"), ("AAAA", "IPv6")] {
        let of_family: Vec<&String> = addresses.iter().filter(|one| family_of(one) == family).collect();
        let line = format!("answers {}", of_family.len());
        eventually(&format!("{full} {kind} to be {of_family:?}"), 20, || {
            let words = ["-n", namespace, "exec", "from-node2", "--", "toolbox", "dig", "-t", kind, &full];
            let out = run(&words);
            let seen = text(&out.stdout) + &text(&out.stderr);
            let told = of_family.iter().all(|one| seen.contains(&format!(" {kind} {one}")));
            if told && seen.contains(&line) && seen.contains("No Error") { Ok(()) } else { Err(seen) }
        });
    }
}

#[test]
fn one_policy_holds_for_both_families() {
    let place = stage("mixedpolicy");
    let ns = place.namespace.as_str();
    place.apply(&service("both", "RequireDualStack", "IPv4, IPv6"));
    let (pod, _, _) = pods(ns, "app=web").remove(0);
    let mut targets: Vec<String> = of_pod(ns, &pod).iter().map(|one| target(one, 8080)).collect();
    let spec = json(&["-n", ns, "get", "service", "both"])["spec"].clone();
    targets.extend(strings(&spec["clusterIPs"], "").iter().map(|one| target(one, 80)));
    let expect = |what: &str, expected: [[bool; 2]; 2]| {
        // For each client what it reaches in IPv4 and in IPv6; pods and Services are the same.
        for (node, expected) in NODES.into_iter().zip(expected) {
            for (index, to) in targets.iter().enumerate() {
                let open = expected[index % 2];
                eventually(&format!("{what}: {node} to {to} {open}"), 20, || {
                    let words = [to.as_str(), "-n", "4", "-c", "4", "--timeout", "400"];
                    let seen = load(ns, &format!("from-{node}"), &words);
                    if ok(&seen) == if open { 4 } else { 0 } { Ok(()) } else { Err(seen.to_string()) }
                });
            }
        }
    };
    expect("without a policy", [[true; 2]; 2]);
    let policy = |from: &str| {
        place.apply(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec:\n  podSelector: {{matchLabels: {{app: web}}}}\n  ingress: [{from}]\n"
        ));
    };
    policy("");
    expect("default deny", [[false; 2]; 2]);
    policy("{from: [{podSelector: {matchLabels: {role: from-node1}}}]}");
    expect("by label", [[true; 2], [false; 2]]);
    let own = of_pod(ns, "from-node2");
    policy(&format!("{{from: [{{ipBlock: {{cidr: '{}/128'}}}}]}}", own[1]));
    expect("by a block of IPv6", [[false; 2], [false, true]]);
    kubectl(&["-n", ns, "delete", "networkpolicy", "p"]);
    expect("without it again", [[true; 2]; 2]);
}
