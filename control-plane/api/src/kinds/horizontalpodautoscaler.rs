//! autoscaling/v2 HorizontalPodAutoscaler.

use super::{hpa, strategy};
use crate::kind::{Act, Kind, Subresource};
use crate::validate::Field;
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "autoscaling",
    version: "v2",
    kind: "HorizontalPodAutoscaler",
    plural: "horizontalpodautoscalers",
    singular: "horizontalpodautoscaler",
    short_names: &["hpa"],
    categories: &["all"],
    schema: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    message: "api.autoscaling.v2.HorizontalPodAutoscaler",
    storage: "horizontalpodautoscalers",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default,
    prepare_create: |v| strategy::create(v, json!({"currentMetrics": null, "desiredReplicas": 0})),
    prepare_update: strategy::update,
    prepare_status: strategy::status,
    validate,
    validate_status: |new, _| {
        let mut e = ErrorList::new();
        Field::root(new).get("status").non_negatives(&mut e, &["currentReplicas", "desiredReplicas"]);
        e
    },
    cells: hpa::cells,
    ..Kind::BASE
};

pub(super) fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::unset(spec, "minReplicas", json!(1));
    if spec["metrics"].as_array().is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
    }
    d::with(spec, "behavior", |b| {
        let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        if let Some(up) = d::object(b, "scaleUp") {
            d::unset(up, "stabilizationWindowSeconds", json!(0));
            d::unset(up, "selectPolicy", json!("Max"));
            d::unset(up, "policies", json!([pods, percent]));
        }
        if let Some(down) = d::object(b, "scaleDown") {
            d::unset(down, "selectPolicy", json!("Max"));
            d::unset(down, "policies", json!([percent]));
        }
    });
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    hpa::spec(&Field::root(v).get("spec"), &mut e);
    e
}
