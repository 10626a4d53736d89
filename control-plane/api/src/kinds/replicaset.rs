//! apps/v1 ReplicaSet.

use super::{cells as c, deployment, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::Field;
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.ReplicaSet",
    message: "api.apps.v1.ReplicaSet",
    storage: "replicasets",
    subresources: &[
        Subresource {
            name: "scale",
            verbs: &["get", "patch", "update"],
            act: Act::Scale {
                spec: "/spec/replicas",
                status: "/status/replicas",
                selector: "/spec/selector",
            },
        },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    default,
    prepare_create: |v| strategy::create_counted(v, json!({"replicas": 0})),
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status,
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["spec.selector"]),
    validate_status: |new, _| status_counts(new),
    warnings: super::warnings::workload,
    cells,
    generation: true,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::unset(spec, "replicas", json!(1));
    if let Some(template) = d::object(spec, "template") {
        d::template(template);
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    s.non_negatives(&mut e, &["replicas", "minReadySeconds"]);
    deployment::replicated(&s, "deployment", &mut e);
    e
}

/// Counts of pods: none negative, none above their whole.
pub(super) fn status_counts(new: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(new).get("status");
    let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    s.non_negatives(&mut e, &["replicas"]);
    s.non_negatives(&mut e, &parts);
    s.non_negatives(&mut e, &["observedGeneration"]);
    for name in parts {
        if s.get(name).num() > s.get("replicas").num() {
            s.get(name).invalid(&mut e, "cannot be greater than status.replicas");
        }
    }
    if s.get("availableReplicas").num() > s.get("readyReplicas").num() {
        s.get("availableReplicas").invalid(&mut e, "cannot be greater than readyReplicas");
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let [names, images] = c::containers(&spec["template"]);
    vec![
        c::name(o),
        c::int(&spec["replicas"]),
        c::int(&status["replicas"]),
        c::int(&status["readyReplicas"]),
        c::age(o, p),
        names,
        images,
        c::selector(&spec["selector"]),
    ]
}
