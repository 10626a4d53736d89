//! Which addresses a Service has, lacks and gives back.

use std::net::IpAddr;

use fairlead_api::{
    field::{Cause, ErrorList, FieldError, Path, invalid},
    status::{self, Status},
};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{Allocators, Claims, ip_key, port_key};

const SERVICE: (&str, &str) = ("", "Service");

/// Completes `new` with addresses and says which keys its transaction takes and gives back.
///
/// # Errors
/// 422 for addresses that cannot be had, 500 for an exhausted range. Nothing stays claimed then.
pub fn plan(allocators: &Allocators, new: &mut Value, old: Option<&Value>) -> Result<Claims, Status> {
    let held_before = old.map(held).unwrap_or_default();
    let meta = |field: &str| new["metadata"][field].as_str().unwrap_or_default();
    let mut claims = Claims { owner: format!("{}/{}", meta("namespace"), meta("name")), ..Claims::default() };
    let planned = ips(allocators, new, &held_before, &mut claims)
        .and_then(|()| ports(allocators, new, &held_before, &mut claims));
    if let Err(refused) = planned {
        allocators.settle(&claims, false);
        return Err(refused);
    }
    let held_after = held(new);
    claims.release = held_before.into_iter().filter(|key| !held_after.contains(key)).collect();
    Ok(claims)
}

/// The keys of all addresses that a Service holds.
pub fn held(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let mut keys: Vec<String> = Vec::new();
    if has_ips(spec) {
        let ips = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        keys.extend(ips.filter_map(|ip| ip.parse::<IpAddr>().ok()).map(ip_key));
    }
    for port in spec["ports"].as_array().into_iter().flatten() {
        keys.extend(number(&port["nodePort"]).map(port_key));
    }
    keys.extend(number(&spec["healthCheckNodePort"]).map(port_key));
    keys.sort();
    keys.dedup();
    keys
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}

fn service_type(spec: &Value) -> &str {
    spec["type"].as_str().unwrap_or("ClusterIP")
}

fn has_ips(spec: &Value) -> bool {
    service_type(spec) != "ExternalName" && spec["clusterIP"].as_str() != Some("None")
}

fn refuse(new: &Value, errors: &ErrorList) -> Status {
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    status::invalid(SERVICE.0, SERVICE.1, name, errors)
}

/// The families of a service: what it says, or the server's first range.
fn families(allocators: &Allocators, spec: &Value) -> Vec<String> {
    let named: Vec<String> = spec["ipFamilies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect();
    if !named.is_empty() {
        return named;
    }
    let all = allocators.cidrs.iter().map(|cidr| family(cidr).to_owned());
    let given = spec["clusterIPs"].as_array().and_then(|ips| ips.first()).and_then(Value::as_str);
    if let Some(ip) = given.and_then(|ip| ip.parse::<IpAddr>().ok()) {
        return vec![if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned()];
    }
    let dual = matches!(spec["ipFamilyPolicy"].as_str(), Some("PreferDualStack" | "RequireDualStack"));
    all.take(if dual { 2 } else { 1 }).collect()
}

fn family(cidr: &IpNet) -> &'static str {
    if matches!(cidr, IpNet::V4(_)) { "IPv4" } else { "IPv6" }
}

fn ips(
    allocators: &Allocators,
    new: &mut Value,
    held_before: &[String],
    claims: &mut Claims,
) -> Result<(), Status> {
    if service_type(&new["spec"]) == "ExternalName" {
        return Ok(());
    }
    if new["spec"]["clusterIP"].as_str().unwrap_or_default().is_empty()
        && let Some(first) = new["spec"]["clusterIPs"].as_array().and_then(|ips| ips.first()).cloned()
    {
        new["spec"]["clusterIP"] = first;
    }
    if headless_without_selector(&new["spec"]) && new["spec"]["ipFamilyPolicy"].is_null() {
        // Whoever writes the endpoints of such a Service may use any family.
        let first = families(allocators, &new["spec"]).into_iter().next().unwrap_or_else(|| "IPv4".into());
        let second = if first == "IPv4" { "IPv6" } else { "IPv4" };
        new["spec"]["ipFamilies"] = json!([first, second]);
        new["spec"]["ipFamilyPolicy"] = "RequireDualStack".into();
        new["spec"]["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    if new["spec"]["ipFamilyPolicy"].is_null() {
        new["spec"]["ipFamilyPolicy"] = "SingleStack".into();
    }
    let families = families(allocators, &new["spec"]);
    dual_stack(allocators, new, &families)?;
    new["spec"]["ipFamilies"] = json!(families);
    if new["spec"]["clusterIP"].as_str() == Some("None") {
        new["spec"]["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let given: Vec<String> = match new["spec"]["clusterIPs"].as_array() {
        Some(ips) if !ips.is_empty() => ips.iter().filter_map(|ip| ip.as_str().map(str::to_owned)).collect(),
        _ => new["spec"]["clusterIP"]
            .as_str()
            .filter(|ip| !ip.is_empty())
            .map(str::to_owned)
            .into_iter()
            .collect(),
    };
    let mut all = Vec::new();
    for (i, family) in families.iter().enumerate() {
        let ip = match given.get(i) {
            Some(ip) => {
                name_ip(allocators, new, ip, &given, held_before, claims)?;
                ip.clone()
            }
            None => draw_ip(allocators, new, family, claims)?,
        };
        all.push(ip);
    }
    new["spec"]["clusterIP"] = all.first().cloned().unwrap_or_default().into();
    new["spec"]["clusterIPs"] = json!(all);
    Ok(())
}

fn headless_without_selector(spec: &Value) -> bool {
    spec["clusterIP"].as_str() == Some("None")
        && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty)
}

/// Whether the families that are asked for can be had together.
fn dual_stack(allocators: &Allocators, new: &Value, families: &[String]) -> Result<(), Status> {
    let policy = new["spec"]["ipFamilyPolicy"].as_str().unwrap_or("SingleStack");
    let path = Path::new("spec").child("ipFamilyPolicy");
    if policy == "SingleStack" && families.len() > 1 {
        let words = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        return Err(refuse(new, &vec![invalid(&path, &json!(policy), words)]));
    }
    let headless = new["spec"]["clusterIP"].as_str() == Some("None");
    if policy == "RequireDualStack" && !headless && allocators.cidrs.len() < 2 {
        let words = "this cluster is not configured for dual-stack services";
        return Err(refuse(new, &vec![invalid(&path, &json!(policy), words)]));
    }
    Ok(())
}

/// Claims an address that the Service names.
fn name_ip(
    allocators: &Allocators,
    new: &Value,
    text: &str,
    given: &[String],
    held_before: &[String],
    claims: &mut Claims,
) -> Result<(), Status> {
    let Ok(ip) = text.parse::<IpAddr>() else { return Ok(()) };
    let key = ip_key(ip);
    if held_before.contains(&key) || claims.take.contains(&key) {
        return Ok(());
    }
    let path = Path::new("spec").child("clusterIPs");
    let fails = |why: String| {
        refuse(new, &vec![invalid(&path, &json!(given), format!("failed to allocate IP {text}: {why}"))])
    };
    let Some(cidr) =
        allocators.cidrs.iter().find(|cidr| family(cidr) == if ip.is_ipv4() { "IPv4" } else { "IPv6" })
    else {
        return Err(fails("no range of this family is configured".into()));
    };
    if !cidr.contains(&ip) || ip == cidr.network() || (ip.is_ipv4() && ip == cidr.broadcast()) {
        return Err(fails(format!(
            "the provided IP ({text}) is not in the valid range. The range of valid IPs is {cidr}"
        )));
    }
    if !allocators.claim(&key) {
        return Err(fails("provided IP is already allocated".into()));
    }
    claims.take.push(key);
    Ok(())
}

fn draw_ip(
    allocators: &Allocators,
    new: &Value,
    family_name: &str,
    claims: &mut Claims,
) -> Result<String, Status> {
    let cidr = allocators.cidrs.iter().find(|cidr| family(cidr) == family_name);
    let Some(cidr) = cidr else {
        let path = Path::new("spec").child("ipFamilies").index(0);
        return Err(refuse(
            new,
            &vec![invalid(&path, &json!(family_name), "not configured on this cluster")],
        ));
    };
    let Some(ip) = allocators.free_ip(cidr) else {
        return Err(status::internal("failed to allocate a serviceIP: range is full"));
    };
    claims.take.push(ip_key(ip));
    Ok(ip.to_string())
}

fn needs_ports(spec: &Value) -> bool {
    match service_type(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

fn ports(
    allocators: &Allocators,
    new: &mut Value,
    held_before: &[String],
    claims: &mut Claims,
) -> Result<(), Status> {
    let count = new["spec"]["ports"].as_array().map_or(0, Vec::len);
    let draws = needs_ports(&new["spec"]);
    let mut seen: Vec<(u16, Value)> = Vec::new();
    for i in 0..count {
        let path = Path::new("spec").child("ports").index(i).child("nodePort");
        let given = number(&new["spec"]["ports"][i]["nodePort"]);
        if let Some(port) = given {
            let own = (port, new["spec"]["ports"][i]["protocol"].clone());
            if seen.contains(&own) {
                let words = "provided port is already allocated";
                return Err(refuse(new, &vec![invalid(&path, &json!(port), words)]));
            }
            seen.push(own);
        }
        match given {
            Some(port) => name_port(allocators, new, port, &path, held_before, claims)?,
            None if draws => {
                let port =
                    sibling(&new["spec"]["ports"], i).map_or_else(|| draw_port(allocators, claims), Ok)?;
                new["spec"]["ports"][i]["nodePort"] = port.into();
            }
            None => {}
        }
    }
    let health = service_type(&new["spec"]) == "LoadBalancer"
        && new["spec"]["externalTrafficPolicy"].as_str() == Some("Local");
    let path = Path::new("spec").child("healthCheckNodePort");
    match number(&new["spec"]["healthCheckNodePort"]) {
        Some(port) => name_port(allocators, new, port, &path, held_before, claims),
        None if health => {
            new["spec"]["healthCheckNodePort"] = draw_port(allocators, claims)?.into();
            Ok(())
        }
        None => Ok(()),
    }
}

/// The node port of another port of the same Service with the same number and another protocol (DNS over TCP and UDP).
fn sibling(ports: &Value, i: usize) -> Option<u16> {
    let ports = ports.as_array()?;
    let own = ports.get(i)?;
    let same = ports.iter().take(i).find(|port| {
        port["port"] == own["port"]
            && port["protocol"] != own["protocol"]
            && number(&port["nodePort"]).is_some()
    })?;
    number(&same["nodePort"])
}

fn draw_port(allocators: &Allocators, claims: &mut Claims) -> Result<u16, Status> {
    let Some(port) = allocators.free_port() else {
        return Err(status::internal("failed to allocate a nodePort: range is full"));
    };
    claims.take.push(port_key(port));
    Ok(port)
}

fn name_port(
    allocators: &Allocators,
    new: &Value,
    port: u16,
    path: &Path,
    held_before: &[String],
    claims: &mut Claims,
) -> Result<(), Status> {
    let key = port_key(port);
    if held_before.contains(&key) || claims.take.contains(&key) {
        return Ok(());
    }
    let fails = |why: String| {
        let error = FieldError {
            cause: Cause::Invalid,
            path: path.to_string(),
            value: Some(port.to_string()),
            detail: why,
        };
        refuse(new, &vec![error])
    };
    if !allocators.ports.contains(&port) {
        return Err(fails(format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            allocators.ports.start(),
            allocators.ports.end()
        )));
    }
    if !allocators.claim(&key) {
        return Err(fails("provided port is already allocated".into()));
    }
    claims.take.push(key);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocators() -> Allocators {
        Allocators::new(vec!["10.96.0.0/29".parse().unwrap()], 30000..=30003)
    }

    /// The claims were committed, and the watch has told of it.
    fn told(all: &Allocators, claims: &Claims) {
        all.settle(claims, true);
        claims.take.iter().for_each(|key| all.observe(key, true));
    }

    fn service(spec: Value) -> Value {
        json!({"metadata": {"namespace": "n", "name": "s"}, "spec": spec})
    }

    #[test]
    fn a_range_gives_each_usable_address_once_and_then_says_that_it_is_full() {
        let all = allocators();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..6 {
            let mut new = service(json!({"ports": [{"port": 80}]}));
            let claims = plan(&all, &mut new, None).unwrap();
            told(&all, &claims);
            assert!(seen.insert(new["spec"]["clusterIP"].as_str().unwrap().to_owned()));
        }
        assert!(!seen.contains("10.96.0.0") && !seen.contains("10.96.0.7"), "{seen:?}");
        let full = plan(&all, &mut service(json!({"ports": []})), None).unwrap_err();
        assert_eq!(full.code(), 500);
        all.observe("ranges/serviceips/10.96.0.3", false);
        let mut new = service(json!({}));
        plan(&all, &mut new, None).unwrap();
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.3");
    }

    #[test]
    fn a_refused_plan_leaves_nothing_claimed() {
        let all = allocators();
        let spec = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}, {"port": 2, "nodePort": 9}]});
        let refused = plan(&all, &mut service(spec), None).unwrap_err();
        assert_eq!(refused.code(), 422);
        let spec = json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30001}]});
        plan(&all, &mut service(spec), None).unwrap();
    }

    #[test]
    fn an_update_keeps_what_it_has_and_gives_back_what_it_drops() {
        let all = allocators();
        let mut old = service(json!({"type": "NodePort", "ports": [{"port": 1}]}));
        let claims = plan(&all, &mut old, None).unwrap();
        assert_eq!(claims.take.len(), 2);
        told(&all, &claims);
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        new["spec"]["ports"] = json!([{"port": 1}]);
        let claims = plan(&all, &mut new, Some(&old)).unwrap();
        assert_eq!((claims.take.len(), claims.release.len()), (0, 1));
        assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
    }

    #[test]
    fn tcp_and_udp_of_one_port_share_a_node_port() {
        let all = allocators();
        let ports = json!([{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]);
        let mut new = service(json!({"type": "NodePort", "ports": ports}));
        plan(&all, &mut new, None).unwrap();
        assert_eq!(new["spec"]["ports"][0]["nodePort"], new["spec"]["ports"][1]["nodePort"]);
    }
}
