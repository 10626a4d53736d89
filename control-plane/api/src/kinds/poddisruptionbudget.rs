//! policy/v1 PodDisruptionBudget.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, error, intstr, selector};
use crate::{
    field::{self, Cause, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: &["pdb"],
    schema: "io.k8s.api.policy.v1.PodDisruptionBudget",
    message: "api.policy.v1.PodDisruptionBudget",
    storage: "poddisruptionbudgets",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    prepare_create: |v| {
        strategy::create_counted(
            v,
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}),
        )
    },
    default: |v| {
        d::object(v, "spec");
    },
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status,
    validate,
    validate_status: |new, _| {
        let mut e = ErrorList::new();
        Field::root(new).get("status").non_negatives(
            &mut e,
            &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"],
        );
        e
    },
    cells,
    generation: true,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let (min, max) = (s.get("minAvailable"), s.get("maxUnavailable"));
    if min.is_set() && max.is_set() {
        let value = Some(field::shown(s.value));
        e.push(error(Cause::Invalid, &s.path, value, "minAvailable and maxUnavailable cannot be both set"));
    }
    for f in [min, max] {
        if f.is_set() {
            intstr::non_negative(&f, &mut e);
            intstr::at_most_all(&f, &mut e);
        }
    }
    selector::label_selector(&s.get("selector"), &mut e);
    s.get("unhealthyPodEvictionPolicy").one_of(&mut e, &["AlwaysAllow", "IfHealthyBudget"]);
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let limit = |v: &Value| match v {
        Value::Null => json!("N/A"),
        Value::String(s) => json!(s),
        n => json!(n.to_string()),
    };
    let spec = &o["spec"];
    let allowed = c::int(&o["status"]["disruptionsAllowed"]);
    vec![c::name(o), limit(&spec["minAvailable"]), limit(&spec["maxUnavailable"]), allowed, c::age(o, p)]
}
