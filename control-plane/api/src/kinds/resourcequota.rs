//! v1 ResourceQuota.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, quantity, resources};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    schema: "io.k8s.api.core.v1.ResourceQuota",
    message: "api.core.v1.ResourceQuota",
    storage: "resourcequotas",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default: |v| {
        if let Some(s) = d::object(v, "spec") {
            d::with(s, "hard", d::whole_milli);
        }
    },
    prepare_create: strategy::create_blank,
    prepare_update: strategy::update,
    prepare_status: strategy::status,
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["spec.scopes"]),
    validate_status: |new, _| {
        let mut e = ErrorList::new();
        for list in ["hard", "used"] {
            amounts(&Field::root(new).get("status").get(list), &mut e);
        }
        e
    },
    cells,
    ..Kind::BASE
};

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    amounts(&s.get("hard"), &mut e);
    for scope in s.get("scopes").items() {
        let at = Field::at(scope.value, s.get("scopes").path);
        if !SCOPES.contains(&scope.str()) {
            at.invalid(&mut e, "unsupported scope");
        }
    }
    for m in s.get("scopeSelector").get("matchExpressions").items() {
        let (operator, values) = (m.get("operator"), m.get("values"));
        match operator.str() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(
                    &mut e,
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                );
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                values.invalid(
                    &mut e,
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => operator.invalid_text(&mut e, "not a valid selector operator"),
        }
        if !SCOPES.contains(&m.get("scopeName").str()) {
            m.get("scopeName").invalid_text(&mut e, "unsupported scope");
        }
    }
    e
}

/// Amounts of what can be limited.
fn amounts(f: &Field, e: &mut ErrorList) {
    for (name, amount) in f.entries() {
        let inner = name.strip_prefix("requests.").filter(|r| r.contains('/')).unwrap_or(name);
        if !name.contains(".storageclass.storage.k8s.io/") {
            resources::resource_name(inner, &amount, e);
        }
        resources::quantity_value(name, &amount, e);
    }
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let status = &o["status"];
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in status["hard"].as_object().into_iter().flatten() {
        let used = &status["used"][name];
        let used = if used.is_null() { "0".into() } else { quantity::text(used) };
        let word = format!("{name}: {used}/{}", quantity::text(hard));
        if name.starts_with("limits") { limits.push(word) } else { requests.push(word) }
    }
    vec![c::name(o), json!(requests.join(", ")), json!(limits.join(", ")), c::age(o, p)]
}
