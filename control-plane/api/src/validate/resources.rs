//! Resource lists and requirements.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    Field, names,
    quantity::{self, Quantity},
};
use crate::field::{self, ErrorList};

const HUGEPAGES: &str = "hugepages-";

/// Names without a `/` that mean something everywhere.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
    "storage",
    "requests.storage",
];

/// Names whose amounts are counts.
const COUNTED: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

pub fn is_hugepages(name: &str) -> bool {
    name.starts_with(HUGEPAGES) || name.starts_with("requests.hugepages-")
}

/// Unprefixed, or in a `kubernetes.io` domain.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.split_once('/').is_some_and(|(p, _)| p.ends_with("kubernetes.io"))
}

/// A vendor's resource: `example.com/gpu`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified(&format!("requests.{name}")).is_empty()
}

/// A qualified name that is standard when it has no prefix.
pub fn resource_name(name: &str, f: &Field, errors: &mut ErrorList) {
    let wrong = names::qualified(name);
    let ill_formed = !wrong.is_empty();
    errors.extend(wrong.into_iter().map(|m| field::invalid_str(&f.path, name, m)));
    if ill_formed || name.contains('/') {
        return;
    }
    if !STANDARD.contains(&name) && !is_hugepages(name) && !name.starts_with("count/") {
        errors.push(field::invalid_str(&f.path, name, "must be a standard resource type or fully qualified"));
    }
}

fn container_resource_name(name: &str, f: &Field, errors: &mut ErrorList) {
    resource_name(name, f, errors);
    if !name.contains('/') {
        let known = ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with(HUGEPAGES);
        if !known {
            errors.push(field::invalid_str(&f.path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(field::invalid_str(&f.path, name, "doesn't follow extended resource name standard"));
    }
}

/// Not negative; whole where the resource is counted.
pub fn quantity_value(name: &str, f: &Field, errors: &mut ErrorList) {
    quantity::non_negative(f, errors);
    let counted = COUNTED.contains(&name) || is_extended(name);
    if counted && Quantity::of(f.value).is_some_and(|q| !q.is_integer()) {
        f.invalid(errors, "must be an integer");
    }
}

/// A list of plain resources, such as a pod's overhead.
pub fn list(f: &Field, errors: &mut ErrorList) {
    for (name, amount) in f.entries() {
        resource_name(name, &amount, errors);
        quantity_value(name, &amount, errors);
    }
}

fn hugepage_value(name: &str, amount: &Field, errors: &mut ErrorList) {
    let Some(size) = name.strip_prefix(HUGEPAGES).and_then(Quantity::parse) else { return };
    let Some(value) = Quantity::of(amount.value) else { return };
    if size.0 != 0 && value.0 % size.0 != 0 {
        let text = quantity::text(amount.value);
        errors.push(field::invalid(
            &amount.path,
            amount.value,
            format!("{text} is not positive integer multiple of {}", name.trim_start_matches(HUGEPAGES)),
        ));
    }
}

/// `resources` of a container.
pub fn requirements(f: &Field, pod_claims: &BTreeSet<&str>, errors: &mut ErrorList) {
    requirements_of(f, errors, container_resource_name);
    let mut seen = BTreeSet::new();
    for claim in f.get("claims").items() {
        let (name, request) = (claim.get("name"), claim.get("request"));
        if name.is_empty() {
            claim.required(errors, "");
        } else {
            let key = if request.is_empty() {
                name.str().to_owned()
            } else {
                format!("{}/{}", name.str(), request.str())
            };
            if !seen.insert(key.clone()) {
                errors.push(field::duplicate(&claim.path, &key.into()));
            }
            if !pod_claims.contains(name.str()) {
                let known: Vec<&str> = pod_claims.iter().copied().collect();
                let list = if known.is_empty() {
                    " which is empty".into()
                } else {
                    format!(": {}", known.join(", "))
                };
                let mut error = field::not_found(&claim.path, name.value);
                error.detail = format!("must be one of the names in pod.spec.resourceClaims{list}");
                errors.push(error);
            }
        }
    }
}

/// `resources` of a whole pod.
pub fn pod_requirements(f: &Field, errors: &mut ErrorList) {
    requirements_of(f, errors, |name, at, errors| {
        resource_name(name, at, errors);
        if !["cpu", "memory"].contains(&name) && !name.starts_with(HUGEPAGES) {
            let value = Value::from(name);
            errors.push(field::not_supported(&at.path, &value, &["cpu", "hugepages-", "memory"]));
        }
    });
}

fn requirements_of(f: &Field, errors: &mut ErrorList, check_name: fn(&str, &Field, &mut ErrorList)) {
    let (limits, requests) = (f.get("limits"), f.get("requests"));
    let (mut huge, mut compute) = (false, false);
    for (name, amount) in limits.entries().chain(requests.entries()) {
        huge |= is_hugepages(name);
        compute |= name == "cpu" || name == "memory";
        check_name(name, &amount, errors);
        quantity_value(name, &amount, errors);
        if is_hugepages(name) {
            hugepage_value(name, &amount, errors);
        }
    }
    for (name, amount) in requests.entries() {
        let overcommit = is_native(name) && !is_hugepages(name);
        let limit = &limits.value[name];
        match (Quantity::of(amount.value), Quantity::of(limit)) {
            (Some(r), Some(l)) => {
                let limit = quantity::text(limit);
                if r != l && !overcommit {
                    let words = format!("must be equal to {name} limit of {limit}");
                    errors.push(field::invalid(&requests.path, amount.value, words));
                } else if r > l {
                    let words = format!("must be less than or equal to {name} limit of {limit}");
                    errors.push(field::invalid(&requests.path, amount.value, words));
                }
            }
            (Some(_), None) if !overcommit => {
                limits.required(errors, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    if huge && !compute {
        f.forbidden(errors, "HugePages require cpu or memory");
    }
}
