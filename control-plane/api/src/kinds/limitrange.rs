//! v1 LimitRange.

use super::cells as c;
use crate::kind::Kind;
use crate::validate::{
    Field, names,
    quantity::{Quantity, text},
    resources,
};
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
};
use serde_json::Value;

pub static KIND: Kind = Kind {
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short_names: &["limits"],
    schema: "io.k8s.api.core.v1.LimitRange",
    message: "api.core.v1.LimitRange",
    storage: "limitranges",
    default,
    validate,
    cells: c::name_and_created,
    create_on_update: true,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    d::with(v, "spec", |s| d::each(s, "limits", item));
}

/// For containers: the limit defaults to the most, the request to the limit, else to the least.
fn item(limit: &mut Value) {
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        d::with(limit, list, d::whole_milli);
    }
    if limit["type"] != "Container" {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        for (name, amount) in limit[from].as_object().cloned().unwrap_or_default() {
            if let Some(list) = d::object(limit, to) {
                d::unset(list, &name, amount);
            }
        }
    }
    if let Some(map) = limit.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let mut seen: Vec<&str> = Vec::new();
    let list = Field::root(v).get("spec").get("limits");
    for limit in list.items() {
        let kind = limit.get("type");
        let wrong = names::qualified(kind.str());
        let formed = wrong.is_empty();
        kind.all(&mut e, wrong);
        if formed
            && !kind.str().contains('/')
            && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind.str())
        {
            kind.invalid(&mut e, "must be a standard limit type or fully qualified");
        }
        if seen.contains(&kind.str()) {
            kind.duplicate(&mut e);
        }
        seen.push(kind.str());
        one(&limit, kind.str(), &mut e);
    }
    e
}

fn one(limit: &Field, kind: &str, e: &mut ErrorList) {
    let lists = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let mut all: Vec<&str> = Vec::new();
    for list in lists {
        let f = limit.get(list);
        if kind == "Pod" && list.starts_with("default") {
            if !f.is_empty() {
                f.forbidden(e, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, amount) in f.entries() {
            resources::resource_name(name, &amount, e);
            if !all.contains(&name) {
                all.push(name);
            }
        }
    }
    if kind == "PersistentVolumeClaim" {
        let has = |list: &str| limit.get(list).get("storage").is_set();
        if !has("min") && !has("max") {
            // Upstream's path names the list once more.
            let path = limit.path.child("limits");
            e.push(field::required(
                &path,
                "either minimum or maximum storage value is required, but neither was provided",
            ));
        }
    }
    for name in all {
        compare(limit, name, e);
    }
}

/// The order that must hold: min, default request, default, max.
fn compare(limit: &Field, name: &str, e: &mut ErrorList) {
    let value = |list: &str| &limit.value[list][name];
    let more = |a: &str, b: &str| match (Quantity::of(value(a)), Quantity::of(value(b))) {
        (Some(x), Some(y)) => x > y,
        _ => false,
    };
    // What is too much, than what, the list and value reported, and its words.
    let pairs: [(&str, &str, &str, &str, &str, &str); 6] = [
        ("min", "max", "min", "min", "min value", "max value"),
        ("min", "defaultRequest", "defaultRequest", "defaultRequest", "min value", "default request value"),
        ("defaultRequest", "max", "defaultRequest", "defaultRequest", "default request value", "max value"),
        (
            "defaultRequest",
            "default",
            "defaultRequest",
            "defaultRequest",
            "default request value",
            "default limit value",
        ),
        ("min", "default", "default", "min", "min value", "default value"),
        ("default", "max", "default", "max", "default value", "max value"),
    ];
    for (a, b, list, shown, first, second) in pairs {
        if more(a, b) {
            let words = format!("{first} {} is greater than {second} {}", text(value(a)), text(value(b)));
            let path = limit.get(list).path.key(name);
            e.push(field::invalid(&path, value(shown), words));
        }
    }
    let ratio = Quantity::of(value("maxLimitRequestRatio"));
    let one = Quantity::parse("1");
    if ratio.is_some() && ratio < one {
        let path = limit.get("maxLimitRequestRatio").path.key(name);
        let shown = value("maxLimitRequestRatio");
        e.push(field::invalid(&path, shown, format!("ratio {} is less than 1", text(shown))));
    }
}
