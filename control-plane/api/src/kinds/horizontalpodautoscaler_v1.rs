//! autoscaling/v1 HorizontalPodAutoscaler.

use super::{horizontalpodautoscaler as v2, hpa, strategy};
use crate::kind::Conversion;
use crate::kind::{Act, Kind, Subresource};
use crate::pod::defaults as d;
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "autoscaling",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    schema: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler",
    message: "api.autoscaling.v1.HorizontalPodAutoscaler",
    storage: "horizontalpodautoscalers",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    convert: Some(Conversion { to_storage, lift, from_storage }),
    default: |v| {
        if let Some(spec) = d::object(v, "spec") {
            d::unset(spec, "minReplicas", json!(1));
        }
    },
    prepare_create: |v| strategy::create(v, json!({"currentReplicas": 0, "desiredReplicas": 0})),
    prepare_update: strategy::update,
    prepare_status: strategy::status,
    validate: |v| {
        let mut v = v.clone();
        to_storage(&mut v);
        (v2::KIND.validate)(&v)
    },
    cells: |o, p| {
        let mut o = o.clone();
        to_storage(&mut o);
        hpa::cells(&o, p)
    },
    ..Kind::BASE
};

/// Where this version keeps what it has no fields for.
const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const KEPT: &[(&str, &str, &str)] = &[
    (METRICS, "spec", "metrics"),
    (BEHAVIOR, "spec", "behavior"),
    (CURRENT, "status", "currentMetrics"),
    (CONDITIONS, "status", "conditions"),
];

fn is_cpu(m: &Value) -> bool {
    m["type"] == "Resource" && m["resource"]["name"] == "cpu"
}

fn to_storage(v: &mut Value) {
    lift(v);
    v2::default(v);
}

fn lift(v: &mut Value) {
    for (note, part, name) in KEPT {
        let notes = v["metadata"]["annotations"].as_object_mut();
        let Some(Value::String(text)) = notes.and_then(|n| n.remove(*note)) else { continue };
        if let (Ok(value), Some(part)) = (serde_json::from_str::<Value>(&text), d::object(v, part)) {
            part[*name] = value;
        }
    }
    if let Some(spec) = v.get_mut("spec").and_then(Value::as_object_mut)
        && let Some(percent) = spec.remove("targetCPUUtilizationPercentage").filter(|p| !p.is_null())
    {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        let list = spec.entry("metrics").or_insert(json!([]));
        if let Some(list) = list.as_array_mut().filter(|l| !l.iter().any(is_cpu)) {
            list.insert(0, metric);
        }
    }
    if let Some(status) = v.get_mut("status").and_then(Value::as_object_mut)
        && let Some(percent) = status.remove("currentCPUUtilizationPercentage").filter(|p| !p.is_null())
    {
        let current = json!({"averageUtilization": percent, "averageValue": "0"});
        status.insert(
            "currentMetrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]),
        );
    }
    v["apiVersion"] = json!("autoscaling/v2");
}

fn from_storage(v: &mut Value) {
    if let Some(spec) = v.get_mut("spec").and_then(Value::as_object_mut) {
        let mut metrics = spec.get("metrics").and_then(Value::as_array).cloned().unwrap_or_default();
        let plain = |m: &Value| is_cpu(m) && m["resource"]["target"]["averageUtilization"].is_i64();
        if let Some(i) = metrics.iter().position(plain) {
            let cpu = metrics.remove(i);
            let percent = cpu["resource"]["target"]["averageUtilization"].clone();
            spec.insert("targetCPUUtilizationPercentage".into(), percent);
        }
        if metrics.is_empty() {
            spec.remove("metrics");
        } else {
            spec.insert("metrics".into(), Value::Array(metrics));
        }
    }
    if let Some(status) = v.get_mut("status").and_then(Value::as_object_mut) {
        let cpu = status
            .get("currentMetrics")
            .and_then(Value::as_array)
            .and_then(|l| l.iter().find(|m| is_cpu(m)).cloned());
        if let Some(percent) =
            cpu.map(|c| c["resource"]["current"]["averageUtilization"].clone()).filter(Value::is_i64)
        {
            status.insert("currentCPUUtilizationPercentage".into(), percent);
        }
        if status.get("currentMetrics").is_some_and(Value::is_null) {
            status.remove("currentMetrics");
        }
        status.entry("currentReplicas").or_insert(json!(0));
        status.entry("desiredReplicas").or_insert(json!(0));
    }
    for (note, part, name) in KEPT {
        let Some(value) = v.get_mut(*part).and_then(Value::as_object_mut).and_then(|p| p.remove(*name))
        else {
            continue;
        };
        let blank = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if let (false, Some(notes)) = (blank, d::object(&mut v["metadata"], "annotations")) {
            notes[*note] = json!(value.to_string());
        }
    }
    v["apiVersion"] = json!("autoscaling/v1");
}
