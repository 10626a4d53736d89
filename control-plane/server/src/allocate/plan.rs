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
    let planned = ips(allocators, new, old, &held_before, &mut claims)
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

fn family(cidr: &IpNet) -> &'static str {
    family_of(cidr.addr())
}

fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn ips(
    allocators: &Allocators,
    new: &mut Value,
    old: Option<&Value>,
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
    if old.is_some_and(|old| prefers_as_before(&new["spec"], &old["spec"])) {
        return Ok(());
    }
    families(allocators, new, old)?;
    if new["spec"]["clusterIP"].as_str() == Some("None") {
        new["spec"]["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let mut given = texts(&new["spec"]["clusterIPs"]);
    if given.is_empty() {
        given.extend(new["spec"]["clusterIP"].as_str().filter(|ip| !ip.is_empty()).map(str::to_owned));
    }
    let mut all = Vec::new();
    for (i, family) in texts(&new["spec"]["ipFamilies"]).iter().enumerate() {
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

/// A Service that prefers two families and whose addresses nobody touched: it is neither raised nor lowered when the
/// cluster's own ranges have changed since.
fn prefers_as_before(new: &Value, old: &Value) -> bool {
    let prefers = |spec: &Value| spec["ipFamilyPolicy"] == "PreferDualStack";
    let same = |field: &str| new[field] == old[field] && old[field].is_array();
    prefers(new) && prefers(old) && new["type"] == old["type"] && same("clusterIPs") && same("ipFamilies")
}

fn headless_without_selector(spec: &Value) -> bool {
    spec["clusterIP"].as_str() == Some("None")
        && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty)
}

/// Settles `ipFamilyPolicy` and `ipFamilies` from what the Service says, what it was and what the cluster has.
fn families(allocators: &Allocators, new: &mut Value, old: Option<&Value>) -> Result<(), Status> {
    if new["spec"]["ipFamilyPolicy"].is_null() {
        let before = old.map(|old| old["spec"]["ipFamilyPolicy"].clone()).filter(|policy| !policy.is_null());
        // Whoever writes the endpoints of a headless Service without selector may use any family.
        let default =
            if headless_without_selector(&new["spec"]) { "RequireDualStack" } else { "SingleStack" };
        new["spec"]["ipFamilyPolicy"] = before.unwrap_or_else(|| json!(default));
    }
    let policy = new["spec"]["ipFamilyPolicy"].as_str().unwrap_or_default().to_owned();
    let mut errors = ErrorList::new();
    if let Some(old) = old {
        lower(&mut new["spec"], &old["spec"], &policy, &mut errors);
    }
    let path = Path::new("spec").child("ipFamilyPolicy");
    if policy == "SingleStack" {
        for (list, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if new["spec"][list].as_array().is_some_and(|list| list.len() == 2) {
                let words = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                errors.push(invalid(&path, &json!(policy), words));
            }
        }
    }
    let configured: Vec<&str> = allocators.cidrs.iter().map(family).collect();
    let mut families = texts(&new["spec"]["ipFamilies"]);
    let given = texts(&new["spec"]["clusterIPs"]);
    let ips = given.iter().map_while(|ip| ip.parse::<IpAddr>().ok());
    for (i, family) in ips.map(family_of).enumerate().skip(families.len()) {
        if configured.contains(&family) {
            families.push(family.to_owned());
        } else {
            let path = Path::new("spec").child("clusterIPs").index(i);
            errors.push(invalid(&path, &json!(given), format!("{family} is not configured on this cluster")));
        }
    }
    if !errors.is_empty() {
        return Err(refuse(new, &errors));
    }
    let any = headless_without_selector(&new["spec"]);
    if !any {
        if policy == "RequireDualStack" && configured.len() < 2 {
            let words = "this cluster is not configured for dual-stack services";
            errors.push(invalid(&path, &json!(policy), words));
        }
        for (i, family) in families.iter().enumerate().filter(|(_, f)| !configured.contains(&f.as_str())) {
            let path = Path::new("spec").child("ipFamilies").index(i);
            errors.push(invalid(&path, &json!(family), "not configured on this cluster"));
        }
        if !errors.is_empty() {
            return Err(refuse(new, &errors));
        }
    }
    if families.is_empty() {
        families.extend(configured.first().map(|family| (*family).to_owned()));
    }
    if policy != "SingleStack"
        && (any || configured.len() == 2)
        && let [only] = families.as_slice()
    {
        families.push(other(only).to_owned());
    }
    new["spec"]["ipFamilies"] = json!(families);
    Ok(())
}

/// An update to one family gives up the second address; with any other policy it must not be given up.
fn lower(new: &mut Value, old: &Value, policy: &str, errors: &mut ErrorList) {
    let path = Path::new("spec").child("ipFamilyPolicy");
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (before, after) = (texts(&old[field]), texts(&new[field]));
        if policy == "SingleStack" {
            if after.len() > 1 && before == after {
                new[field] = json!(after[..1]);
            }
        } else if !after.is_empty() && after.len() < before.len() && before.starts_with(&after) {
            let words = format!("must be 'SingleStack' to release the secondary {what}");
            errors.push(invalid(&path, &json!(policy), words));
        }
    }
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
    let Some(cidr) = allocators.cidrs.iter().find(|cidr| family(cidr) == family_of(ip)) else {
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

    fn dual() -> Allocators {
        Allocators::new(
            vec!["10.96.0.0/24".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
            30000..=30003,
        )
    }

    /// Families and number of addresses that a Service gets, or the words of its refusal.
    #[track_caller]
    fn check_families(all: &Allocators, spec: Value, old: Option<Value>, expected: Result<&[&str], &str>) {
        let shown = format!("{spec} after {old:?}");
        let mut new = service(spec);
        match (plan(all, &mut new, old.map(service).as_ref()), expected) {
            (Ok(claims), Ok(families)) => {
                assert_eq!(new["spec"]["ipFamilies"], json!(families), "{shown}");
                let ips = texts(&new["spec"]["clusterIPs"]);
                if ips != ["None"] {
                    let of: Vec<&str> = ips.iter().map(|ip| family_of(ip.parse().unwrap())).collect();
                    assert_eq!(of, families, "{shown}");
                    assert_eq!(new["spec"]["clusterIP"], json!(ips[0]), "{shown}");
                }
                all.settle(&claims, false);
            }
            (Err(refused), Err(words)) => assert!(refused.message().contains(words), "{shown}: {refused}"),
            (seen, _) => panic!("{shown}: {seen:?}"),
        }
    }

    #[test]
    fn families_follow_policy_addresses_and_the_clusters_ranges() {
        let (one, two) = (allocators(), dual());
        let both: Result<&[&str], &str> = Ok(&["IPv4", "IPv6"]);
        let four: Result<&[&str], &str> = Ok(&["IPv4"]);
        let six: Result<&[&str], &str> = Ok(&["IPv6"]);
        let selector = json!({"a": "b"});
        for (all, spec, expected) in [
            (&one, json!({}), four),
            (&one, json!({"ipFamilyPolicy": "PreferDualStack"}), four),
            (&one, json!({"ipFamilyPolicy": "RequireDualStack"}), Err("not configured for dual-stack")),
            (
                &one,
                json!({"ipFamilies": ["IPv6"]}),
                Err("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured"),
            ),
            (
                &one,
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
                Err("IPv6 is not configured on this cluster"),
            ),
            (&one, json!({"clusterIP": "None", "clusterIPs": ["None"]}), both),
            (&one, json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": selector}), four),
            (&two, json!({}), four),
            (&two, json!({"ipFamilies": ["IPv6"]}), six),
            (&two, json!({"ipFamilyPolicy": "PreferDualStack"}), both),
            (
                &two,
                json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
                Ok(&["IPv6", "IPv4"]),
            ),
            (&two, json!({"clusterIP": "fd00:96::9", "clusterIPs": ["fd00:96::9"]}), six),
            (
                &two,
                json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "fd00:96::9", "clusterIPs": ["fd00:96::9"]}),
                Ok(&["IPv6", "IPv4"]),
            ),
            (
                &two,
                json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
                Err("when multiple IP families are specified"),
            ),
            (
                &two,
                json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"]}),
                Err("when multiple cluster IPs are specified"),
            ),
            (
                &two,
                json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": selector, "ipFamilyPolicy": "PreferDualStack"}),
                both,
            ),
        ] {
            check_families(all, spec, None, expected);
        }
    }

    #[test]
    fn an_update_raises_and_lowers_a_service_and_gives_back_the_second_address() {
        let all = dual();
        let single = || json!({"ipFamilyPolicy": "SingleStack", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"]});
        let double = |policy: &str| {
            json!({"ipFamilyPolicy": policy, "clusterIP": "10.96.0.9",
                "clusterIPs": ["10.96.0.9", "fd00:96::9"], "ipFamilies": ["IPv4", "IPv6"]})
        };
        let with = |mut spec: Value, field: &str, value: Value| {
            spec[field] = value;
            spec
        };
        let both: Result<&[&str], &str> = Ok(&["IPv4", "IPv6"]);
        for (spec, old, expected) in [
            (with(single(), "ipFamilyPolicy", json!("PreferDualStack")), single(), both),
            (with(single(), "ipFamilyPolicy", json!("RequireDualStack")), single(), both),
            (
                with(double("RequireDualStack"), "ipFamilyPolicy", json!("SingleStack")),
                double("RequireDualStack"),
                Ok(&["IPv4"]),
            ),
            // The cluster grew a second range: what prefers two and has one stays as it is.
            (
                with(single(), "ipFamilyPolicy", json!("PreferDualStack")),
                with(single(), "ipFamilyPolicy", json!("PreferDualStack")),
                Ok(&["IPv4"]),
            ),
            (
                with(double("PreferDualStack"), "clusterIPs", json!(["10.96.0.9"])),
                double("PreferDualStack"),
                Err("must be 'SingleStack' to release the secondary cluster IP"),
            ),
            (
                with(double("PreferDualStack"), "ipFamilies", json!(["IPv4"])),
                double("PreferDualStack"),
                Err("must be 'SingleStack' to release the secondary IP family"),
            ),
            (
                json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}),
                json!({"type": "ExternalName"}),
                both,
            ),
        ] {
            check_families(&all, spec, Some(old), expected);
        }
        let mut lowered = service(with(double("PreferDualStack"), "ipFamilyPolicy", json!("SingleStack")));
        let claims = plan(&all, &mut lowered, Some(&service(double("PreferDualStack")))).unwrap();
        assert_eq!(claims.release, [ip_key("fd00:96::9".parse().unwrap())]);
    }

    #[test]
    fn a_load_balancer_without_node_ports_gets_none_but_keeps_those_it_names() {
        let all = allocators();
        let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30002}]);
        let mut new =
            service(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": ports}));
        plan(&all, &mut new, None).unwrap();
        assert!(new["spec"]["ports"][0]["nodePort"].is_null());
        assert_eq!(new["spec"]["ports"][1]["nodePort"], 30002);
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
