//! HorizontalPodAutoscalers: checks of metrics and behaviour, and the printed targets.

use serde_json::{Value, json};

use super::cells as c;
use crate::{
    field::ErrorList,
    kind::Printing,
    validate::{
        Field, names,
        quantity::{Quantity, text},
        selector,
    },
};

const METRICS: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

pub fn spec(s: &Field, e: &mut ErrorList) {
    let (min, max) = (s.get("minReplicas"), s.get("maxReplicas"));
    if min.int().is_some_and(|n| n < 1) {
        min.invalid(e, "must be greater than or equal to 1");
    }
    if max.num() < 1 {
        max.invalid(e, "must be greater than 0");
    }
    if min.is_set() && max.num() < min.num() {
        max.invalid(e, "must be greater than or equal to `minReplicas`");
    }
    reference(&s.get("scaleTargetRef"), e);
    for m in s.get("metrics").items() {
        metric(&m, e);
    }
    for name in ["scaleUp", "scaleDown"] {
        rules(&s.get("behavior").get(name), e);
    }
}

fn reference(f: &Field, e: &mut ErrorList) {
    for name in ["kind", "name"] {
        let at = f.get(name);
        if at.present(e) {
            at.all(e, names::path_segment(at.str()));
        }
    }
}

fn metric(m: &Field, e: &mut ErrorList) {
    let kind = m.get("type");
    if kind.is_empty() {
        kind.required(e, "must specify a metric source type");
    }
    let part = match kind.str() {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "External" => "external",
        _ => {
            // Once for the word, once for the source that it does not name.
            kind.not_supported(e, METRICS);
            kind.not_supported(e, METRICS);
            return;
        }
    };
    for other in ["object", "pods", "resource", "containerResource", "external"] {
        if other != part && m.get(other).is_set() {
            m.get(other)
                .forbidden(e, format!("must populate the given metric source only (type {:?})", kind.str()));
        }
    }
    let source = m.get(part);
    if !source.is_set() {
        source.required(e, "must populate information for the given metric source");
        return;
    }
    self::source(part, &source, e);
}

fn source(part: &str, f: &Field, e: &mut ErrorList) {
    let target = f.get("target");
    let set = |name: &str| target.get(name).is_set();
    match part {
        "resource" | "containerResource" => {
            if f.get("name").is_empty() {
                f.get("name").required(e, "must specify a resource name");
            }
            if part == "containerResource" && f.get("container").is_empty() {
                f.get("container").required(e, "must specify a container");
            }
            self::target(&target, e);
            match (set("averageUtilization"), set("averageValue")) {
                (false, false) => target
                    .get("averageUtilization")
                    .required(e, "must set either a target raw value or a target utilization"),
                (true, true) => {
                    target
                        .get("averageValue")
                        .forbidden(e, "may not set both a target raw value and a target utilization");
                }
                _ => {}
            }
            return;
        }
        "object" => reference(&f.get("describedObject"), e),
        _ => {}
    }
    let id = f.get("metric");
    if id.get("name").is_empty() {
        id.get("name").required(e, "must specify a metric name");
    } else {
        id.get("name").all(e, names::path_segment(id.get("name").str()));
    }
    selector::label_selector(&id.get("selector"), e);
    self::target(&target, e);
    let average = target.get("averageValue");
    match (part, set("value"), set("averageValue")) {
        ("pods", ..) if Quantity::of(average.value).is_none_or(|q| q.0 <= 0) => {
            average.required(e, "must specify a positive target averageValue");
        }
        (_, false, false) => {
            average.required(e, "must set either a target value for metric or a per-pod target");
        }
        ("external", true, true) => {
            let words = "may not set both a target value for metric and a per-pod target";
            target.get("value").forbidden(e, words);
        }
        _ => {}
    }
}

fn target(f: &Field, e: &mut ErrorList) {
    let kind = f.get("type");
    if kind.is_empty() {
        kind.required(e, "must specify a metric target type");
    } else if !["Utilization", "Value", "AverageValue"].contains(&kind.str()) {
        kind.invalid(e, "must be either Utilization, Value, or AverageValue");
    }
    for name in ["value", "averageValue"] {
        if Quantity::of(f.get(name).value).is_some_and(|q| q.0 <= 0) {
            f.get(name).invalid(e, "must be positive");
        }
    }
    let percent = f.get("averageUtilization");
    if percent.int().is_some_and(|n| n < 1) {
        percent.invalid(e, "must be greater than 0");
    }
}

fn rules(f: &Field, e: &mut ErrorList) {
    if !f.is_set() {
        return;
    }
    let window = f.get("stabilizationWindowSeconds");
    if window.num() < 0 {
        window.invalid(e, "must be greater than or equal to zero");
    } else if window.num() > 3600 {
        window.invalid(e, "must be less than or equal to 3600");
    }
    f.get("selectPolicy").one_of(e, &["Disabled", "Max", "Min"]);
    let policies = f.get("policies");
    if policies.is_empty() {
        policies.required(e, "must specify at least one Policy");
    }
    for p in policies.items() {
        let (kind, value, period) = (p.get("type"), p.get("value"), p.get("periodSeconds"));
        if !["Percent", "Pods"].contains(&kind.str()) {
            kind.not_supported(e, &["Percent", "Pods"]);
        }
        if value.num() <= 0 {
            value.invalid(e, "must be greater than zero");
        }
        if period.num() <= 0 {
            period.invalid(e, "must be greater than zero");
        } else if period.num() > 1800 {
            period.invalid(e, "must be less than or equal to 1800");
        }
    }
}

/// The row of an autoscaler in the stored version.
pub fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let target = &spec["scaleTargetRef"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let min = spec["minReplicas"].as_i64().map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
    vec![
        c::name(o),
        json!(format!("{}/{}", text(&target["kind"]), text(&target["name"]))),
        json!(targets(spec, status)),
        json!(min),
        c::int(&spec["maxReplicas"]),
        c::int(&status["currentReplicas"]),
        c::age(o, p),
    ]
}

fn targets(spec: &Value, status: &Value) -> String {
    const SHOWN: usize = 2;
    let metrics = spec["metrics"].as_array().map_or(&[][..], Vec::as_slice);
    if metrics.is_empty() {
        return "<none>".into();
    }
    let mut words: Vec<String> =
        metrics.iter().enumerate().map(|(i, m)| one(m, &status["currentMetrics"][i])).collect();
    let more = words.len().saturating_sub(SHOWN);
    words.truncate(SHOWN);
    let text = words.join(", ");
    if more > 0 { format!("{text} + {more} more...") } else { text }
}

/// `cpu: 12%/80%`, with what is measured now first.
fn one(m: &Value, current: &Value) -> String {
    let part = match m["type"].as_str().unwrap_or_default() {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".into(),
    };
    let (source, now) = (&m[part], &current[part]["current"]);
    let target = &source["target"];
    let shown = |v: &Value, unit: &str| {
        if v.is_null() { "<unknown>".to_owned() } else { format!("{}{unit}", text(v)) }
    };
    let pair = |name: &str, unit: &str| format!("{}/{}", shown(&now[name], unit), shown(&target[name], unit));
    let average = target["averageValue"].is_string();
    match part {
        "resource" | "containerResource" => {
            let name = source["name"].as_str().unwrap_or_default();
            if average {
                format!("{name}: {}", pair("averageValue", ""))
            } else {
                format!("{name}: {}", pair("averageUtilization", "%"))
            }
        }
        "pods" => pair("averageValue", ""),
        _ if average => format!("{} (avg)", pair("averageValue", "")),
        _ => pair("value", ""),
    }
}
