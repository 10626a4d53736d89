//! discovery.k8s.io/v1 EndpointSlice.

use super::{cells as c, strategy};
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, Seen, names, net, same};
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    schema: "io.k8s.api.discovery.v1.EndpointSlice",
    message: "api.discovery.v1.EndpointSlice",
    storage: "endpointslices",
    default: |v| {
        d::each(v, "ports", |p| {
            d::unset(p, "name", json!(""));
            d::unset(p, "protocol", json!("TCP"));
        })
    },
    prepare_create: |v| {
        drop_topology(v);
        strategy::first_generation(v);
    },
    prepare_update: |new, old| {
        if !same(&new["endpoints"], &old["endpoints"]) {
            drop_topology(new);
        }
        strategy::count(new, old, |v| {
            json!([v["endpoints"], v["ports"], v["addressType"], v["metadata"]["labels"]])
        })
    },
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["addressType"]),
    warnings,
    cells,
    generation: true,
    ..Kind::BASE
};

/// What older versions told of an endpoint's place is not taken from clients of this one.
fn drop_topology(v: &mut Value) {
    d::each(v, "endpoints", |endpoint| {
        endpoint.as_object_mut().map(|map| map.remove("deprecatedTopology"));
    });
}

const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20000;
const ENDPOINTS_MAX: usize = 1000;
const TOPOLOGY_MAX: usize = 16;
const HINTS_MAX: usize = 8;

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(v);
    let kind = f.get("addressType");
    kind.required_one_of(&mut e, ADDRESS_TYPES);
    let list = f.get("endpoints");
    if list.len() > ENDPOINTS_MAX {
        list.too_many(&mut e, ENDPOINTS_MAX);
        return e;
    }
    for endpoint in list.items() {
        self::endpoint(&endpoint, kind.str(), &mut e);
    }
    ports(&f.get("ports"), &mut e);
    e
}

fn endpoint(f: &Field, kind: &str, e: &mut ErrorList) {
    let addresses = f.get("addresses");
    if addresses.is_empty() {
        addresses.required(e, "must contain at least 1 address");
    } else if addresses.len() > ADDRESSES_MAX {
        addresses.too_many(e, ADDRESSES_MAX);
    }
    for address in addresses.items() {
        // Of the wrong family, the list is named; of a special range, the element.
        let at = Field::at(address.value, addresses.path.clone());
        let parsed = address.str().parse::<std::net::IpAddr>().ok();
        match kind {
            "IPv4" if !parsed.is_some_and(|ip| ip.is_ipv4()) => at.invalid(e, "must be an IPv4 address"),
            "IPv6" if !parsed.is_some_and(|ip| ip.is_ipv6()) => at.invalid(e, "must be an IPv6 address"),
            "IPv4" | "IPv6" => net::endpoint_ip(&address, e),
            "FQDN" => at.all(e, names::fully_qualified_domain(address.str())),
            _ => {}
        }
    }
    for name in ["nodeName", "zone"] {
        let at = f.get(name);
        if at.is_set() {
            at.all(
                e,
                if name == "zone" { names::label_value(at.str()) } else { names::dns_subdomain(at.str()) },
            );
        }
    }
    topology(&f.get("deprecatedTopology"), e);
    let host = f.get("hostname");
    if host.is_set() {
        host.all(e, names::dns_label(host.str()));
    }
    for (list, check) in
        [("forZones", names::label_value as fn(&str) -> _), ("forNodes", names::dns_subdomain)]
    {
        hints(&f.get("hints").get(list), check, e);
    }
}

/// Zones or nodes that an endpoint is for.
fn hints(f: &Field, check: fn(&str) -> Vec<String>, e: &mut ErrorList) {
    if f.len() > HINTS_MAX {
        f.too_many(e, HINTS_MAX);
        return;
    }
    let mut seen = Seen::default();
    for hint in f.items() {
        let name = hint.get("name");
        seen.once(&name, e);
        name.all(e, check(name.str()));
    }
}

fn topology(f: &Field, e: &mut ErrorList) {
    if f.len() > TOPOLOGY_MAX {
        f.too_many(e, TOPOLOGY_MAX);
    }
    crate::validate::selector::labels(f, e);
}

fn ports(f: &Field, e: &mut ErrorList) {
    if f.len() > PORTS_MAX {
        f.too_many(e, PORTS_MAX);
        return;
    }
    let mut seen = Seen::default();
    for p in f.items() {
        let (name, app) = (p.get("name"), p.get("appProtocol"));
        if !name.is_empty() {
            name.all(e, names::dns_label(name.str()));
        }
        seen.once(&name, e);
        let protocol = p.get("protocol");
        if protocol.is_set() {
            protocol.one_of(e, &["SCTP", "TCP", "UDP"]);
        } else {
            protocol.required(e, "");
        }
        if app.is_set() {
            e.extend(
                names::qualified(app.str()).into_iter().map(|m| field::invalid_str(&app.path, app.str(), m)),
            );
        }
    }
}

fn warnings(new: &Value, _: Option<&Value>) -> Vec<String> {
    if new["addressType"] == "FQDN" {
        return vec!["spec.addressType: FQDN endpoints are deprecated".into()];
    }
    Vec::new()
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let ports: Vec<String> = o["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
            (Some(n), _) => n.to_string(),
            (None, Some(name)) if !name.is_empty() => name.to_owned(),
            _ => "*".into(),
        })
        .collect();
    let addresses: Vec<String> = o["endpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|e| e["addresses"].as_array().into_iter().flatten())
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    vec![
        c::name(o),
        c::text(&o["addressType"]),
        json!(shortened(&ports, "<unset>")),
        json!(shortened(&addresses, "<unset>")),
        c::age(o, p),
    ]
}

fn shortened(list: &[String], none: &str) -> String {
    const SHOWN: usize = 3;
    match list.len() {
        0 => none.into(),
        n if n > SHOWN => format!("{} + {} more...", list[..SHOWN].join(","), n - SHOWN),
        _ => list.join(","),
    }
}
