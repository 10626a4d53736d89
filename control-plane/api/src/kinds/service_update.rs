//! What an update of a Service keeps of what the cluster gave it, and what a change of its type takes away.

use serde_json::{Value, json};

use crate::validate::same;

fn is(spec: &Value, kinds: &[&str]) -> bool {
    kinds.iter().any(|k| spec["type"] == *k)
}

fn needs_cluster_ip(spec: &Value) -> bool {
    is(spec, &["ClusterIP", "NodePort", "LoadBalancer"])
}

fn needs_node_port(spec: &Value) -> bool {
    is(spec, &["NodePort"]) || (is(spec, &["LoadBalancer"]) && spec["allocateLoadBalancerNodePorts"] != false)
}

fn needs_health_port(spec: &Value) -> bool {
    is(spec, &["LoadBalancer"]) && spec["externalTrafficPolicy"] == "Local"
}

fn externally_accessible(spec: &Value) -> bool {
    let external = spec["externalIPs"].as_array().is_some_and(|l| !l.is_empty());
    is(spec, &["NodePort", "LoadBalancer"]) || (is(spec, &["ClusterIP"]) && external)
}

fn drop_field(spec: &mut Value, name: &str) {
    if let Some(map) = spec.as_object_mut() {
        map.remove(name);
    }
}

/// `clusterIP` and the first of `clusterIPs` say the same: a client that knows only the former moves both.
pub fn one_cluster_ip(spec: &mut Value, old: Option<&Value>) {
    let ip = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    let first = spec["clusterIPs"][0].as_str().unwrap_or_default().to_owned();
    let Some(old) = old else {
        if !ip.is_empty() && spec["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
            spec["clusterIPs"] = json!([ip]);
        }
        return;
    };
    let same_ip = same(&spec["clusterIP"], &old["clusterIP"]);
    let same_list = same(&spec["clusterIPs"], &old["clusterIPs"]);
    if !same_ip && same_list {
        if ip.is_empty() {
            drop_field(spec, "clusterIPs");
        } else {
            let mut list = spec["clusterIPs"].as_array().cloned().unwrap_or_default();
            match list.first_mut() {
                Some(slot) => *slot = json!(ip),
                None => list.push(json!(ip)),
            }
            spec["clusterIPs"] = Value::Array(list);
        }
    } else if same_ip && !same_list && first.is_empty() {
        // The list was cleared and the single address left: both are meant.
        drop_field(spec, "clusterIP");
    } else if ip.is_empty() && !first.is_empty() {
        spec["clusterIP"] = json!(first);
    }
}

/// Fills in what the client left out, then drops what the new type has no use for.
pub fn carry_over(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) && !old["clusterIP"].is_null() {
        let blank = |v: &Value| v.as_str().is_none_or(str::is_empty);
        if blank(&new["clusterIP"]) && new["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
            new["clusterIP"] = old["clusterIP"].clone();
        }
        if new["clusterIPs"].as_array().is_none_or(Vec::is_empty) && new["clusterIP"] == old["clusterIP"] {
            new["clusterIPs"] = old["clusterIPs"].clone();
        }
    }
    one_cluster_ip(new, Some(old));
    if needs_node_port(old) && needs_node_port(new) {
        node_ports(new, old);
    }
    if needs_health_port(old)
        && needs_health_port(new)
        && new["healthCheckNodePort"].as_i64().unwrap_or(0) == 0
    {
        new["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
    }
    drop_unused(new, old);
}

fn node_ports(new: &mut Value, old: &Value) {
    let used: Vec<Value> =
        new["ports"].as_array().into_iter().flatten().map(|p| p["nodePort"].clone()).collect();
    for port in new["ports"].as_array_mut().into_iter().flatten() {
        if port["nodePort"].as_i64().unwrap_or(0) != 0 {
            continue;
        }
        let was = old["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|o| o["protocol"] == port["protocol"] && o["port"] == port["port"]);
        if let Some(number) = was.map(|w| w["nodePort"].clone()).filter(|n| n.is_i64() || n.is_u64())
            && !used.contains(&number)
        {
            port["nodePort"] = number;
        }
    }
}

fn drop_unused(new: &mut Value, old: &Value) {
    let lost = |test: fn(&Value) -> bool, new: &Value| test(old) && !test(new);
    let mut fields: Vec<&str> = Vec::new();
    if lost(needs_cluster_ip, new) {
        fields.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]);
    }
    if lost(needs_health_port, new) {
        fields.push("healthCheckNodePort");
    }
    if lost(externally_accessible, new) {
        fields.push("externalTrafficPolicy");
    }
    if lost(|s| is(s, &["LoadBalancer"]), new) {
        fields.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    for name in fields {
        if same(&new[name], &old[name]) {
            drop_field(new, name);
        }
    }
    let kept = |new: &Value| {
        let number = |p: &Value| p["nodePort"].as_i64().unwrap_or(0);
        let was: Vec<i64> = old["ports"].as_array().into_iter().flatten().map(number).collect();
        new["ports"].as_array().into_iter().flatten().all(|p| number(p) == 0 || was.contains(&number(p)))
    };
    if lost(needs_node_port, new) && kept(new) {
        for port in new["ports"].as_array_mut().into_iter().flatten() {
            drop_field(port, "nodePort");
        }
    }
}
