//! The objects that a run writes. Pure: choices come from the random numbers that are given.

use std::net::IpAddr;

use rand::{Rng, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};

/// Namespace of what nobody touches, and of what changes.
pub const CALM: &str = "calm";
pub const CHURN: &str = "churn";

/// Labels that policies tell pods apart by.
const TIERS: [&str; 3] = ["front", "middle", "back"];

/// Port that every pod serves at.
pub const PORT: u16 = 8080;

pub fn node(name: &str, cidrs: &[String]) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
           "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}})
}

pub fn node_status(addresses: &[IpAddr], ready: bool) -> Value {
    let addresses: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address.to_string()}))
        .collect();
    let ready = if ready { "True" } else { "False" };
    json!({"status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": ready}]}})
}

pub fn pod(namespace: &str, name: &str, node: &str, labels: &Value, annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations},
           "spec": {"nodeName": node, "containers": [
               {"name": "c", "image": "none", "ports": [{"name": "http", "containerPort": PORT}]}]}})
}

pub fn pod_status(addresses: &[IpAddr]) -> Value {
    let list: Vec<Value> = addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
    json!({"status": {"phase": "Running", "podIP": addresses[0].to_string(), "podIPs": list,
                      "conditions": [{"type": "Ready", "status": "True"}]}})
}

/// Labels and annotations of a pod that changes.
pub fn pod_marks(random: &mut StdRng, group: &str) -> (Value, Value) {
    let labels = json!({"group": group, "tier": TIERS.choose(random)});
    let mut annotations = json!({});
    if random.random_bool(0.3) {
        annotations["fairlead.io/weight"] = random.random_range(1..5).to_string().into();
    }
    for direction in ["ingress", "egress"] {
        if random.random_bool(0.2) {
            let megabits = random.random_range(10..200);
            annotations[format!("kubernetes.io/{direction}-bandwidth")] = format!("{megabits}M").into();
        }
    }
    (labels, annotations)
}

/// A Service over both transports, asked at port 80.
pub fn service(namespace: &str, name: &str, kind: &str, more: &Value) -> Value {
    let mut spec = json!({"type": kind, "ipFamilyPolicy": "RequireDualStack", "ports": [
        {"name": "tcp", "port": 80, "targetPort": PORT},
        {"name": "udp", "port": 80, "targetPort": PORT, "protocol": "UDP"}]});
    merge(&mut spec, more);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
           "spec": spec})
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

/// A Service of any shape; `number` keeps what it asks for apart from what others do.
pub fn any_service(random: &mut StdRng, name: &str, number: usize) -> Value {
    let families = [
        json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}),
        json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]}),
        json!({"ipFamilyPolicy": "PreferDualStack"}),
        json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
    ];
    let mut object = service(CHURN, name, "ClusterIP", families.choose(random).unwrap_or(&families[0]));
    let change = service_change(random, number);
    merge(&mut object["metadata"], &change["metadata"]);
    merge(&mut object["spec"], &change["spec"]);
    object
}

/// What can be different about a Service, as a patch.
pub fn service_change(random: &mut StdRng, number: usize) -> Value {
    let kind = *["ClusterIP", "NodePort", "LoadBalancer"].choose(random).unwrap_or(&"ClusterIP");
    let policy = |random: &mut StdRng| if random.random_bool(0.3) { "Local" } else { "Cluster" };
    let mut spec = json!({"type": kind, "internalTrafficPolicy": policy(random)});
    spec["externalTrafficPolicy"] = if kind == "ClusterIP" { Value::Null } else { policy(random).into() };
    let affinity = if random.random_bool(0.2) { "ClientIP" } else { "None" };
    spec["sessionAffinity"] = affinity.into();
    spec["externalIPs"] = if random.random_bool(0.2) {
        json!([format!("198.51.100.{}", 100 + number % 100)])
    } else {
        Value::Null
    };
    spec["loadBalancerSourceRanges"] = if kind == "LoadBalancer" && random.random_bool(0.5) {
        json!(["192.0.2.0/24", "2001:db8::/64"])
    } else {
        Value::Null
    };
    let algorithms = ["round-robin", "random", "least-connections", "maglev"];
    let algorithm = if random.random_bool(0.5) { algorithms.choose(random) } else { None };
    let direct = random.random_bool(0.3).then_some("true");
    json!({"metadata": {"annotations": {
               "fairlead.io/load-balancing": algorithm, "fairlead.io/direct-server-return": direct}},
           "spec": spec})
}

pub fn balancer_status(address: Option<IpAddr>) -> Value {
    let ingress: Vec<Value> =
        address.iter().map(|address| json!({"ip": address.to_string(), "ipMode": "VIP"})).collect();
    json!({"status": {"loadBalancer": {"ingress": ingress}}})
}

/// An endpoint of a slice: address, node, and whether it is ready or on its way out.
pub fn endpoint(address: IpAddr, node: &str, ready: bool) -> Value {
    json!({"addresses": [address.to_string()], "nodeName": node,
           "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
}

pub fn slice(namespace: &str, name: &str, service: &str, family: &str, endpoints: &[Value]) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
           "metadata": {"name": name, "namespace": namespace,
                        "labels": {"kubernetes.io/service-name": service}},
           "addressType": family, "endpoints": endpoints,
           "ports": [{"name": "tcp", "port": PORT, "protocol": "TCP"},
                     {"name": "udp", "port": PORT, "protocol": "UDP"}]})
}

/// A peer that policies name, of a kind chosen at random.
fn peer(random: &mut StdRng) -> Value {
    let tier = json!({"matchLabels": {"tier": TIERS.choose(random)}});
    match random.random_range(0..4) {
        0 => json!({"podSelector": tier}),
        1 => json!({"namespaceSelector": {}, "podSelector": tier}),
        2 => json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": CALM}}}),
        _ => {
            let part = format!("10.244.{}.0/24", random.random_range(0..4));
            json!({"ipBlock": {"cidr": "10.244.0.0/16", "except": [part]}})
        }
    }
}

fn ports(random: &mut StdRng) -> Value {
    match random.random_range(0..4) {
        0 => Value::Null,
        1 => json!([{"port": "http"}]),
        2 => json!([{"port": PORT, "protocol": "UDP"}, {"port": 8000, "endPort": 8100}]),
        _ => json!([{"port": random.random_range(1..65535)}]),
    }
}

/// A policy for pods that change.
pub fn any_policy(random: &mut StdRng, name: &str) -> Value {
    let rules = |random: &mut StdRng, side: &str| -> Vec<Value> {
        let count = random.random_range(0..3);
        (0..count).map(|_| json!({side: [peer(random), peer(random)], "ports": ports(random)})).collect()
    };
    let mut spec =
        json!({"podSelector": {"matchLabels": {"tier": TIERS.choose(random)}}, "policyTypes": ["Ingress"]});
    spec["ingress"] = rules(random, "from").into();
    if random.random_bool(0.3) {
        spec["policyTypes"] = json!(["Ingress", "Egress"]);
        spec["egress"] = rules(random, "to").into();
    }
    policy(CHURN, name, &spec)
}

/// A policy for pods that nobody touches: it names peers that change, and allows all that these pods do anyway.
pub fn harmless_policy(random: &mut StdRng, name: &str) -> Value {
    let all = ["192.0.2.0/24", "2001:db8::/64", "10.244.0.0/16", "fd00:10:244::/56"];
    let blocks = all.iter().map(|cidr| json!({"ipBlock": {"cidr": cidr}}));
    let everyone: Vec<Value> = blocks.collect();
    let ingress = json!([{"from": [peer(random)], "ports": ports(random)}, {"from": everyone}]);
    let mut spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress});
    if random.random_bool(0.4) {
        spec["policyTypes"] = json!(["Ingress", "Egress"]);
        spec["egress"] = json!([{"to": [peer(random)]}, {}]);
    }
    policy(CALM, name, &spec)
}

fn policy(namespace: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
           "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}
