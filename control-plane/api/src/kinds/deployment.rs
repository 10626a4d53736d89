//! apps/v1 Deployment.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{self, Field, intstr, selector, template};
use crate::{
    field::{self, Cause, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.Deployment",
    message: "api.apps.v1.Deployment",
    storage: "deployments",
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
    prepare_create: strategy::create_blank_counted,
    prepare_update,
    prepare_status,
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["spec.selector"]),
    validate_status,
    warnings: super::warnings::workload,
    cells,
    generation: true,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::unset(spec, "replicas", json!(1));
    d::unset(spec, "revisionHistoryLimit", json!(10));
    d::unset(spec, "progressDeadlineSeconds", json!(600));
    if let Some(template) = d::object(spec, "template") {
        d::template(template);
    }
    let Some(strategy) = d::object(spec, "strategy") else { return };
    d::zero(strategy, "type", json!("RollingUpdate"));
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = d::object(strategy, "rollingUpdate")
    {
        d::unset(rolling, "maxUnavailable", json!("25%"));
        d::unset(rolling, "maxSurge", json!("25%"));
    }
}

/// Annotations count too: `rollout restart` and the revision are written there.
fn prepare_update(new: &mut Value, old: &Value) {
    strategy::update(new, old);
    strategy::count(new, old, |v| json!([v["spec"], v["metadata"]["annotations"]]));
}

fn prepare_status(new: &mut Value, old: &Value) {
    strategy::status(new, old);
    if let Some(meta) = new.get_mut("metadata") {
        strategy::take(meta, &old["metadata"], "labels");
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    s.get("replicas").non_negative(&mut e);
    replicated(&s, "deployment", &mut e);
    update_strategy(&s, &mut e);
    s.non_negatives(&mut e, &["minReadySeconds", "revisionHistoryLimit"]);
    let deadline = s.get("progressDeadlineSeconds");
    deadline.non_negative(&mut e);
    if deadline.is_set() && deadline.num() <= s.get("minReadySeconds").num() {
        deadline.invalid(&mut e, "must be greater than minReadySeconds");
    }
    e
}

/// Selector and template of what is turned into ReplicaSets.
pub(super) fn replicated(s: &Field, owner: &str, e: &mut ErrorList) {
    let choice = s.get("selector");
    template::required_selector(&choice, owner, e);
    let labels = s.get("template").get("metadata").get("labels");
    if selector::matches(choice.value, labels.value).is_none() {
        choice.invalid(e, "invalid label selector");
    } else {
        let at = s.get("template");
        if choice.is_set() && !selector::selects_all(choice.value) {
            template::match_labels(&at, &choice, e);
        }
        template::template(&at, e);
        template::running(&at, "ReplicaSet", e);
    }
}

fn update_strategy(s: &Field, e: &mut ErrorList) {
    let f = s.get("strategy");
    let rolling = f.get("rollingUpdate");
    match f.get("type").str() {
        "Recreate" if rolling.is_set() => {
            rolling.forbidden(e, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            intstr::non_negative(&unavailable, e);
            intstr::non_negative(&surge, e);
            if intstr::is_zero(unavailable.value) && intstr::is_zero(surge.value) {
                unavailable.invalid(e, "may not be 0 when `maxSurge` is 0");
            }
            intstr::at_most_all(&unavailable, e);
        }
        other => {
            let value = format!("{{\"Type\":{other:?},\"RollingUpdate\":null}}");
            e.push(validate::error(
                Cause::NotSupported,
                &f.path,
                Some(value),
                "supported values: \"Recreate\", \"RollingUpdate\"",
            ));
        }
    }
}

fn validate_status(new: &Value, old: &Value) -> ErrorList {
    const COUNTS: &[&str] = &[
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
    ];
    let mut e = ErrorList::new();
    let s = Field::root(new).get("status");
    s.non_negatives(&mut e, COUNTS);
    let total = s.get("replicas").num();
    for name in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
        if s.get(name).num() > total {
            s.get(name).invalid(&mut e, "cannot be greater than status.replicas");
        }
    }
    if s.get("availableReplicas").num() > s.get("readyReplicas").num() {
        s.get("availableReplicas").invalid(&mut e, "cannot be greater than readyReplicas");
    }
    let (now, was) = (s.get("collisionCount"), old["status"]["collisionCount"].as_i64());
    if was.is_some_and(|w| now.num() < w) {
        e.push(field::invalid(&now.path, &json!(now.num()), "cannot be decremented"));
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let ready = format!("{}/{}", c::int(&status["readyReplicas"]), c::int(&spec["replicas"]));
    let [names, images] = c::containers(&spec["template"]);
    vec![
        c::name(o),
        json!(ready),
        c::int(&status["updatedReplicas"]),
        c::int(&status["availableReplicas"]),
        c::age(o, p),
        names,
        images,
        c::selector(&spec["selector"]),
    ]
}
