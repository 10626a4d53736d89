//! Claims of devices (`resource.k8s.io`): defaults and checks of their requests.

use serde_json::{Value, json};

use super::webhooks::balanced;
use crate::{
    field::ErrorList,
    pod::defaults as d,
    validate::{Field, names},
};

const DEVICES_MAX: usize = 32;

/// Fills in how many devices a request means.
pub fn default(spec: &mut Value) {
    let exact = |r: &mut Value| {
        d::zero(r, "allocationMode", json!("ExactCount"));
        if r["allocationMode"] == "ExactCount" {
            d::zero(r, "count", json!(1));
        }
        d::each(r, "tolerations", |t| d::zero(t, "operator", json!("Equal")));
    };
    d::with(spec, "devices", |devices| {
        d::each(devices, "requests", |r| {
            d::with(r, "exactly", exact);
            d::each(r, "firstAvailable", exact);
        });
    });
}

/// The spec of a claim, alone or in a template.
pub fn spec(f: &Field, e: &mut ErrorList) {
    let devices = f.get("devices");
    let requests = devices.get("requests");
    if requests.len() > DEVICES_MAX {
        requests.too_many(e, DEVICES_MAX);
    }
    let mut seen: Vec<&str> = Vec::new();
    for request in requests.items() {
        let name = request.get("name");
        if name.present(e) {
            name.all(e, names::dns_label(name.str()));
            if seen.contains(&name.str()) {
                name.duplicate(e);
            }
        }
        seen.push(name.str());
        let (exactly, first) = (request.get("exactly"), request.get("firstAvailable"));
        match (exactly.is_set(), !first.is_empty()) {
            (true, true) => request.invalid(
                e,
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            ),
            (false, false) => request.required(e, "exactly one of `exactly` or `firstAvailable` is required"),
            (true, false) => one(&exactly, e),
            (false, true) => {
                for sub in first.items() {
                    let name = sub.get("name");
                    if name.present(e) {
                        name.all(e, names::dns_label(name.str()));
                    }
                    one(&sub, e);
                }
            }
        }
    }
    for constraint in devices.get("constraints").items() {
        let attribute = constraint.get("matchAttribute");
        if !attribute.is_set() && !constraint.get("distinctAttribute").is_set() {
            attribute.required(e, "");
        }
        for request in constraint.get("requests").items() {
            let known = seen.iter().any(|s| *s == request.str().split('/').next().unwrap_or_default());
            if !known {
                request.invalid(e, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'");
            }
        }
    }
}

fn one(f: &Field, e: &mut ErrorList) {
    let class = f.get("deviceClassName");
    if class.present(e) {
        class.all(e, names::dns_subdomain(class.str()));
    }
    selectors(&f.get("selectors"), e);
    let (mode, count) = (f.get("allocationMode"), f.get("count"));
    match mode.str() {
        "All" => {
            if count.num() != 0 {
                count.invalid(e, "must not be specified when allocationMode is 'All'");
            }
        }
        "ExactCount" => {
            if count.num() <= 0 {
                count.invalid(e, "must be greater than zero");
            }
        }
        _ => mode.not_supported(e, &["All", "ExactCount"]),
    }
}

/// Expressions that pick devices.
pub fn selectors(f: &Field, e: &mut ErrorList) {
    if f.len() > DEVICES_MAX {
        f.too_many(e, DEVICES_MAX);
    }
    for selector in f.items() {
        let cel = selector.get("cel");
        if !cel.is_set() {
            cel.required(e, "");
            continue;
        }
        let expression = cel.get("expression");
        if expression.is_empty() {
            expression.required(e, "");
        } else if let Err(words) = balanced(expression.str()) {
            expression.invalid(e, words);
        }
    }
}
