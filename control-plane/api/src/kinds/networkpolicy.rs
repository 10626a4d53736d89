//! networking.k8s.io/v1 NetworkPolicy.

use super::{cells as c, strategy};
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, net, selector};
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
};
use ipnet::IpNet;
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    schema: "io.k8s.api.networking.v1.NetworkPolicy",
    message: "api.networking.v1.NetworkPolicy",
    storage: "networkpolicies",
    default,
    prepare_create: strategy::first_generation,
    prepare_update: |new, old| strategy::count(new, old, |v| v["spec"].clone()),
    validate,
    cells,
    generation: true,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::object(spec, "podSelector");
    for list in ["ingress", "egress"] {
        d::each(spec, list, |rule| d::each(rule, "ports", |p| d::unset(p, "protocol", json!("TCP"))));
    }
    if spec["policyTypes"].as_array().is_none_or(Vec::is_empty) {
        let egress = spec["egress"].as_array().is_some_and(|l| !l.is_empty());
        spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let spec = Field::root(v).get("spec");
    selector::label_selector(&spec.get("podSelector"), &mut e);
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(rules).items() {
            for p in rule.get("ports").items() {
                port(&p, &mut e);
            }
            for p in rule.get(peers).items() {
                peer(&p, &mut e);
            }
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        types.invalid(&mut e, "may not specify more than two policyTypes");
        return e;
    }
    for kind in types.items() {
        kind.one_of(&mut e, &["Ingress", "Egress"]);
    }
    e
}

fn port(f: &Field, e: &mut ErrorList) {
    let (number, end) = (f.get("port"), f.get("endPort"));
    f.get("protocol").one_of(e, &["TCP", "UDP", "SCTP"]);
    match number.value {
        Value::Null => {
            if end.is_set() {
                end.invalid(e, "may not be specified when `port` is not specified");
            }
        }
        Value::String(_) => {
            if end.is_set() {
                end.invalid(e, "may not be specified when `port` is non-numeric");
            }
            number.port_or_name(e);
        }
        _ => {
            number.port(e);
            if end.is_set() {
                if end.num() < number.num() {
                    end.invalid(e, "must be greater than or equal to `port`");
                }
                end.port(e);
            }
        }
    }
}

fn peer(f: &Field, e: &mut ErrorList) {
    let mut peers = 0;
    for name in ["podSelector", "namespaceSelector"] {
        let at = f.get(name);
        if at.is_set() {
            peers += 1;
            selector::label_selector(&at, e);
        }
    }
    let block = f.get("ipBlock");
    if block.is_set() {
        peers += 1;
        ip_block(&block, e);
    }
    if peers == 0 {
        f.required(e, "must specify a peer");
    } else if peers > 1 && block.is_set() {
        f.forbidden(e, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(f: &Field, e: &mut ErrorList) {
    let whole = f.get("cidr");
    if !whole.present(e) {
        return;
    }
    let Some(block) = net::cidr(&whole, e) else { return };
    for except in f.get("except").items() {
        let Some(part) = net::cidr(&except, e) else { continue };
        if !strictly_within(&block, &part) {
            e.push(field::invalid(&except.path, except.value, "must be a strict subset of `cidr`"));
        }
    }
}

fn strictly_within(block: &IpNet, part: &IpNet) -> bool {
    block.prefix_len() < part.prefix_len() && block.contains(&part.addr())
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), c::selector(&o["spec"]["podSelector"]), c::age(o, p)]
}
