//! v1 Endpoints.

use super::cells as c;
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, names, net};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    schema: "io.k8s.api.core.v1.Endpoints",
    message: "api.core.v1.Endpoints",
    storage: "endpoints",
    default: |v| d::each(v, "subsets", |s| d::each(s, "ports", |p| d::zero(p, "protocol", json!("TCP")))),
    validate,
    cells,
    create_on_update: true,
    deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    for subset in Field::root(v).get("subsets").items() {
        let (ready, unready) = (subset.get("addresses"), subset.get("notReadyAddresses"));
        if ready.is_empty() && unready.is_empty() {
            subset.required(&mut e, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(unready.items()) {
            self::address(&address, &mut e);
        }
        let ports = subset.get("ports");
        for port in ports.items() {
            self::port(&port, ports.len() > 1, &mut e);
        }
    }
    e
}

fn address(f: &Field, e: &mut ErrorList) {
    let (host, node) = (f.get("hostname"), f.get("nodeName"));
    net::ip(&f.get("ip"), e);
    if !host.is_empty() {
        host.all(e, names::dns_label(host.str()));
    }
    if node.is_set() {
        node.all(e, names::dns_subdomain(node.str()));
    }
    net::endpoint_ip(&f.get("ip"), e);
}

fn port(f: &Field, named: bool, e: &mut ErrorList) {
    let (name, app) = (f.get("name"), f.get("appProtocol"));
    if name.is_empty() {
        if named {
            name.required(e, "");
        }
    } else {
        name.all(e, names::dns_label(name.str()));
    }
    f.get("port").port(e);
    f.get("protocol").required_one_of(e, &["SCTP", "TCP", "UDP"]);
    if app.is_set() {
        app.all(e, names::qualified(app.str()));
    }
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), json!(endpoints(o)), c::age(o, p)]
}

/// At most three of `address:port`, then how many more.
fn endpoints(o: &Value) -> String {
    const SHOWN: usize = 3;
    let subsets = o["subsets"].as_array().map_or(&[][..], Vec::as_slice);
    if subsets.is_empty() {
        return "<none>".into();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let addresses: Vec<&str> =
            subset["addresses"].as_array().into_iter().flatten().filter_map(|a| a["ip"].as_str()).collect();
        let ports = subset["ports"].as_array().map_or(&[][..], Vec::as_slice);
        if ports.is_empty() {
            all.extend(addresses.iter().map(|a| (*a).to_owned()));
        }
        for port in ports {
            let number = port["port"].as_i64().unwrap_or_default();
            all.extend(
                addresses.iter().map(|a| {
                    if a.contains(':') { format!("[{a}]:{number}") } else { format!("{a}:{number}") }
                }),
            );
        }
    }
    let mut text = all[..all.len().min(SHOWN)].join(",");
    if all.len() > SHOWN {
        text.push_str(&format!(" + {} more...", all.len() - SHOWN));
    }
    text
}
