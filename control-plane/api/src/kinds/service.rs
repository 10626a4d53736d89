//! v1 Service.

use super::{cells as c, fields::label, service_families as families, service_update, strategy};
use crate::kind::{Act, Kind, Subresource};
use crate::kind::{FieldLabel, NameRule, Printing};
use crate::validate::{self, Field, names, net, selector};
use crate::{
    field::{self, Cause, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    schema: "io.k8s.api.core.v1.Service",
    message: "api.core.v1.Service",
    storage: "services",
    subresources: &[
        Subresource {
            name: "proxy",
            verbs: &["create", "delete", "get", "patch", "update"],
            act: Act::Proxy,
        },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    name: NameRule::DnsLabel,
    default,
    prepare_create,
    prepare_update,
    prepare_status: strategy::status,
    validate,
    validate_update,
    validate_status: |new, _| balancer_status(new),
    warnings,
    cells,
    create_on_update: true,
    fields: &[
        FieldLabel { label: "spec.clusterIP", value: |o| label(&o["spec"]["clusterIP"]) },
        FieldLabel { label: "spec.type", value: |o| label(&o["spec"]["type"]) },
    ],
    ..Kind::BASE
};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: &[&str] = &["Cluster", "Local"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const SPREADS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::zero(spec, "sessionAffinity", json!("None"));
    d::zero(spec, "type", json!("ClusterIP"));
    if spec["sessionAffinity"] == "None"
        && let Some(map) = spec.as_object_mut()
    {
        map.remove("sessionAffinityConfig");
    }
    if spec["sessionAffinity"] == "ClientIP" {
        let client = d::object(spec, "sessionAffinityConfig").and_then(|a| d::object(a, "clientIP"));
        if let Some(client) = client {
            d::unset(client, "timeoutSeconds", json!(10800));
        }
    }
    d::each(spec, "ports", |p| {
        d::zero(p, "protocol", json!("TCP"));
        let port = p["port"].clone();
        d::zero(p, "targetPort", if port.is_null() { json!(0) } else { port });
    });
    if externally_accessible(spec) {
        d::zero(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if ["NodePort", "LoadBalancer", "ClusterIP"].iter().any(|t| spec["type"] == *t) {
        d::unset(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if spec["type"] == "LoadBalancer" {
        d::unset(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    if let Some(balancer) = d::object(v, "status").and_then(|s| d::object(s, "loadBalancer")) {
        d::each(balancer, "ingress", |i| {
            if i["ip"].as_str().is_some_and(|ip| !ip.is_empty()) {
                d::unset(i, "ipMode", json!("VIP"));
            }
        });
    }
}

/// Reached from outside: by a port of the nodes, a load balancer, or external addresses.
fn externally_accessible(spec: &Value) -> bool {
    let external = spec["externalIPs"].as_array().is_some_and(|l| !l.is_empty());
    ["NodePort", "LoadBalancer"].iter().any(|t| spec["type"] == *t)
        || (spec["type"] == "ClusterIP" && external)
}

fn prepare_create(v: &mut Value) {
    strategy::create(v, json!({"loadBalancer": {}}));
    service_update::one_cluster_ip(&mut v["spec"], None);
}

fn prepare_update(new: &mut Value, old: &Value) {
    strategy::update(new, old);
    service_update::carry_over(&mut new["spec"], &old["spec"]);
    if new["spec"]["type"] != "LoadBalancer"
        && let Some(status) = new["status"].as_object_mut()
        && status.contains_key("loadBalancer")
    {
        // No other type has addresses of a load balancer.
        status.insert("loadBalancer".into(), json!({}));
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let headless = s.get("clusterIP").str() == "None" || s.get("clusterIPs").value[0] == "None";
    let kind = s.get("type").str();
    if s.get("ports").is_empty() && !headless && kind != "ExternalName" {
        s.get("ports").required(&mut e, "");
    }
    by_type(&s, kind, headless, &mut e);
    ports(&s, &mut e);
    selector::labels(&s.get("selector"), &mut e);
    affinity(&s, &mut e);
    families::fields(&s, &mut e);
    for ip in s.get("externalIPs").items() {
        if net::ip(&ip, &mut e).is_some() {
            net::endpoint_ip(&ip, &mut e);
        }
    }
    s.get("type").required_one_of(&mut e, TYPES);
    if kind == "ClusterIP" {
        for port in s.get("ports").items().filter(|p| p.get("nodePort").num() != 0) {
            port.get("nodePort").forbidden(&mut e, "may not be used when `type` is 'ClusterIP'");
        }
    }
    duplicate_ports(&s, &mut e);
    balancer(&s, kind, &mut e);
    traffic(&s, kind, &mut e);
    e
}

fn by_type(s: &Field, kind: &str, headless: bool, e: &mut ErrorList) {
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let words = format!("may not be set to 'None' for {kind} services");
            let at = s.get("clusterIPs").path.index(0);
            e.push(field::invalid_str(&at, "None", words));
        }
        "ExternalName" => {
            let name = s.get("externalName");
            for list in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !s.get(list).is_empty() {
                    s.get(list).forbidden(e, "may not be set for ExternalName services");
                }
            }
            let host = name.str().strip_suffix('.').unwrap_or(name.str());
            if host.is_empty() {
                name.required(e, "");
            } else {
                name.all(e, names::dns_subdomain(host));
            }
        }
        _ => {}
    }
}

fn ports(s: &Field, e: &mut ErrorList) {
    let list = s.get("ports");
    let mut seen: Vec<&str> = Vec::new();
    for p in list.items() {
        let name = p.get("name");
        if name.is_empty() {
            if list.len() > 1 {
                name.required(e, "");
            }
        } else {
            name.all(e, names::dns_label(name.str()));
            if seen.contains(&name.str()) {
                name.duplicate(e);
            }
            seen.push(name.str());
        }
        p.get("port").port(e);
        p.get("protocol").required_one_of(e, PROTOCOLS);
        p.get("targetPort").port_or_name(e);
        let app = p.get("appProtocol");
        if app.is_set() {
            app.all(e, names::qualified(app.str()));
        }
    }
}

/// The same protocol and port twice. Node ports are compared where they are claimed.
fn duplicate_ports(s: &Field, e: &mut ErrorList) {
    let mut served = Vec::new();
    for p in s.get("ports").items() {
        let protocol = p.get("protocol").str();
        let key = (protocol, p.get("port").num());
        if served.contains(&key) {
            let value = format!(
                "{{\"Name\":\"\",\"Protocol\":{:?},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                key.0, key.1
            );
            e.push(validate::error(Cause::Duplicate, &p.path, Some(value), ""));
        }
        served.push(key);
    }
}

fn affinity(s: &Field, e: &mut ErrorList) {
    let kind = s.get("sessionAffinity");
    kind.required_one_of(e, &["ClientIP", "None"]);
    let config = s.get("sessionAffinityConfig");
    if kind.str() == "ClientIP" {
        let seconds = config.get("clientIP").get("timeoutSeconds");
        if !seconds.is_set() {
            seconds.required(e, "when session affinity type is ClientIP");
        } else if !(1..=86400).contains(&seconds.num()) {
            seconds.invalid(e, "must be greater than 0 and less than 86400");
        }
    } else if kind.str() == "None" && config.is_set() {
        config.forbidden(e, "must not be set when session affinity is None");
    }
}

fn balancer(s: &Field, kind: &str, e: &mut ErrorList) {
    let is_balancer = kind == "LoadBalancer";
    let ranges = s.get("loadBalancerSourceRanges");
    // Upstream writes this path with a capital letter.
    let at = Field::at(ranges.value, s.path.child("LoadBalancerSourceRanges"));
    if !ranges.is_empty() {
        if !is_balancer {
            at.forbidden(e, BALANCER_ONLY);
        }
        for range in at.items() {
            net::cidr(&Field::at(&Value::from(range.str().trim()), range.path.clone()), e);
        }
    }
    let allocate = s.get("allocateLoadBalancerNodePorts");
    if is_balancer && !allocate.is_set() {
        allocate.required(e, "");
    } else if !is_balancer && allocate.is_set() {
        allocate.forbidden(e, BALANCER_ONLY);
    }
    let class = s.get("loadBalancerClass");
    if class.is_set() {
        if is_balancer {
            class.all(e, names::qualified(class.str()));
        } else {
            class.forbidden(e, BALANCER_ONLY);
        }
    }
}

fn traffic(s: &Field, kind: &str, e: &mut ErrorList) {
    let (outer, inner) = (s.get("externalTrafficPolicy"), s.get("internalTrafficPolicy"));
    if externally_accessible(s.value) {
        outer.required_one_of(e, POLICIES);
    } else if !outer.is_empty() {
        outer.invalid(e, "may only be set for externally-accessible services");
    }
    let check = s.get("healthCheckNodePort");
    let local = kind == "LoadBalancer" && outer.str() == "Local";
    if check.num() != 0 && local {
        check.port(e);
    }
    if check.num() != 0 && !local {
        check.invalid(
            e,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    inner.one_of(e, POLICIES);
    if ["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind) && !inner.is_set() {
        inner.required(e, "");
    }
    s.get("trafficDistribution").one_of(e, SPREADS);
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let (s, was) = (Field::root(new).get("spec"), &old["spec"]);
    families::update(&s, was, &mut e);
    let class = s.get("loadBalancerClass");
    let both = s.get("type").str() == "LoadBalancer" && was["type"] == "LoadBalancer";
    if both && !validate::same(class.value, &was["loadBalancerClass"]) {
        class.invalid(&mut e, families::ONCE);
    }
    let local = |spec: &Value| spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    let check = s.get("healthCheckNodePort");
    if local(s.value) && local(was) && check.num() != was["healthCheckNodePort"].as_i64().unwrap_or(0) {
        let words = "cannot change healthCheckNodePort on loadBalancer service with externalTraffic=Local during update";
        check.invalid(&mut e, words);
    }
    e
}

/// The addresses that a load balancer reports.
fn balancer_status(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let root = Field::root(v);
    let list = root.get("status").get("loadBalancer").get("ingress");
    if root.get("spec").get("type").str() != "LoadBalancer" {
        if !list.is_empty() {
            list.forbidden(&mut e, "may only be used when `spec.type` is 'LoadBalancer'");
        }
        return e;
    }
    for ingress in list.items() {
        let (ip, mode, host) = (ingress.get("ip"), ingress.get("ipMode"), ingress.get("hostname"));
        if !ip.is_empty() {
            net::ip(&ip, &mut e);
        }
        match (ip.is_empty(), mode.is_set()) {
            (false, false) => mode.required(&mut e, "must be specified when `ip` is set"),
            (true, true) => mode.forbidden(&mut e, "may not be specified when `ip` is not set"),
            (false, true) => {
                mode.one_of(&mut e, &["Proxy", "VIP"]);
            }
            (true, false) => {}
        }
        if !host.is_empty() {
            host.all(&mut e, names::dns_subdomain(host.str()));
            if net::is_ip(host.str()) {
                host.invalid_text(&mut e, "must be a DNS name, not an IP address");
            }
        }
    }
    e
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let s = Field::root(new).get("spec");
    let mut out = Vec::new();
    let changed = |name: &str| old.is_none_or(|o| o["spec"][name] != *s.get(name).value);
    if s.get("type").str() == "ExternalName" && !s.get("externalIPs").is_empty() && changed("externalIPs") {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if !s.get("externalIPs").is_empty() && changed("externalIPs") {
        out.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    if s.get("trafficDistribution").str() == "PreferClose" && changed("trafficDistribution") {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
    if s.get("sessionAffinity").str() == "ClientIP" && s.get("clusterIP").str() == "None" {
        out.push("spec.SessionAffinity is ignored for headless services".into());
    }
    out
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let spec = &o["spec"];
    let kind = spec["type"].as_str().unwrap_or_default();
    let ip = if kind == "ExternalName" { json!("<none>") } else { c::text_or(&spec["clusterIP"], "<none>") };
    vec![
        c::name(o),
        c::text(&spec["type"]),
        ip,
        json!(external(o, kind)),
        json!(port_words(spec)),
        c::age(o, p),
        c::labels(&spec["selector"]),
    ]
}

fn external(o: &Value, kind: &str) -> String {
    let spec = &o["spec"];
    let addresses = c::joined(&spec["externalIPs"], ",");
    match kind {
        "ExternalName" => spec["externalName"].as_str().unwrap_or_default().into(),
        "LoadBalancer" => {
            let ingress = o["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
            let word = |i: &Value| {
                let at = if i["ip"].is_string() { &i["ip"] } else { &i["hostname"] };
                at.as_str().unwrap_or_default().to_owned()
            };
            let mut words: Vec<String> = ingress.map(word).filter(|w| !w.is_empty()).collect();
            if !addresses.is_empty() {
                words.push(addresses);
            }
            if words.is_empty() { "<pending>".into() } else { words.join(",") }
        }
        _ if addresses.is_empty() => "<none>".into(),
        _ => addresses,
    }
}

fn port_words(spec: &Value) -> String {
    let word = |p: &Value| {
        let node = p["nodePort"].as_i64().unwrap_or_default();
        let (port, protocol) =
            (p["port"].as_i64().unwrap_or_default(), p["protocol"].as_str().unwrap_or("TCP"));
        if node > 0 { format!("{port}:{node}/{protocol}") } else { format!("{port}/{protocol}") }
    };
    let words: Vec<String> = spec["ports"].as_array().into_iter().flatten().map(word).collect();
    if words.is_empty() { "<none>".into() } else { words.join(",") }
}
