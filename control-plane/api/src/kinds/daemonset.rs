//! apps/v1 DaemonSet.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{self, Field, intstr, selector, template};
use crate::{
    field::{Cause, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.DaemonSet",
    message: "api.apps.v1.DaemonSet",
    storage: "daemonsets",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default,
    prepare_create,
    prepare_update,
    prepare_status: strategy::status,
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["spec.selector"]),
    validate_status: |new, _| {
        let mut e = ErrorList::new();
        Field::root(new).get("status").non_negatives(&mut e, COUNTS);
        e
    },
    warnings: super::warnings::workload,
    cells,
    generation: true,
    ..Kind::BASE
};

const COUNTS: &[&str] = &[
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];
/// How often the template has changed; written down for clients of old.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::unset(spec, "revisionHistoryLimit", json!(10));
    if let Some(template) = d::object(spec, "template") {
        d::template(template);
    }
    let Some(strategy) = d::object(spec, "updateStrategy") else { return };
    d::zero(strategy, "type", json!("RollingUpdate"));
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = d::object(strategy, "rollingUpdate")
    {
        d::unset(rolling, "maxUnavailable", json!(1));
        d::unset(rolling, "maxSurge", json!(0));
    }
}

fn set_template_generation(v: &mut Value, generation: i64) {
    if let Some(notes) = d::object(&mut v["metadata"], "annotations") {
        notes[TEMPLATE_GENERATION] = json!(generation.to_string());
    }
}

fn prepare_create(v: &mut Value) {
    let zeros = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
    strategy::create_counted(v, zeros);
    set_template_generation(v, 1);
}

fn prepare_update(new: &mut Value, old: &Value) {
    let was = old["metadata"]["annotations"][TEMPLATE_GENERATION].as_str();
    let was: i64 = was.and_then(|s| s.parse().ok()).unwrap_or_default();
    let changed = !validate::same(&new["spec"]["template"], &old["spec"]["template"]);
    set_template_generation(new, was + i64::from(changed));
    strategy::update_counted(new, old);
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let (choice, at) = (s.get("selector"), s.get("template"));
    selector::label_selector(&choice, &mut e);
    let empty = choice.is_set() && selector::selects_all(choice.value);
    if !empty {
        template::match_labels(&at, &choice, &mut e);
    } else {
        choice.invalid(&mut e, "empty selector is invalid for daemonset");
    }
    template::template(&at, &mut e);
    template::running(&at, "DaemonSet", &mut e);
    s.non_negatives(&mut e, &["minReadySeconds", "templateGeneration"]);
    update_strategy(&s, &mut e);
    s.get("revisionHistoryLimit").non_negative(&mut e);
    e
}

fn update_strategy(s: &Field, e: &mut ErrorList) {
    let f = s.get("updateStrategy");
    let rolling = f.get("rollingUpdate");
    match f.get("type").str() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => rolling.required(e, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            intstr::non_negative(&unavailable, e);
            intstr::at_most_all(&unavailable, e);
            intstr::non_negative(&surge, e);
            intstr::at_most_all(&surge, e);
            match (intstr::is_zero(unavailable.value), intstr::is_zero(surge.value)) {
                (false, false) => surge.invalid(e, "may not be set when maxUnavailable is non-zero"),
                (true, true) => unavailable.required(e, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        other => {
            let value = format!("{{\"Type\":{other:?},\"RollingUpdate\":null}}");
            let words = "supported values: \"RollingUpdate\", \"OnDelete\"";
            e.push(validate::error(Cause::NotSupported, &f.path, Some(value), words));
        }
    }
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let [names, images] = c::containers(&spec["template"]);
    let mut row = vec![c::name(o)];
    for name in [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ] {
        row.push(c::int(&status[name]));
    }
    row.push(c::labels(&spec["template"]["spec"]["nodeSelector"]));
    row.extend([c::age(o, p), names, images, c::selector(&spec["selector"])]);
    row
}
