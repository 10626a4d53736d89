//! apps/v1 StatefulSet.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, meta, same, selector, template};
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "apps",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short_names: &["sts"],
    categories: &["all"],
    schema: "io.k8s.api.apps.v1.StatefulSet",
    message: "api.apps.v1.StatefulSet",
    storage: "statefulsets",
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
    prepare_create: |v| strategy::create_counted(v, json!({"availableReplicas": 0, "replicas": 0})),
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status,
    validate,
    validate_update,
    validate_status: |new, _| super::replicaset::status_counts(new),
    warnings: super::warnings::workload,
    cells,
    generation: true,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::zero(spec, "podManagementPolicy", json!("OrderedReady"));
    d::unset(spec, "replicas", json!(1));
    d::unset(spec, "revisionHistoryLimit", json!(10));
    if let Some(strategy) = d::object(spec, "updateStrategy") {
        d::zero(strategy, "type", json!("RollingUpdate"));
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = d::object(strategy, "rollingUpdate")
        {
            d::unset(rolling, "partition", json!(0));
        }
    }
    if let Some(retention) = d::object(spec, "persistentVolumeClaimRetentionPolicy") {
        d::zero(retention, "whenDeleted", json!("Retain"));
        d::zero(retention, "whenScaled", json!("Retain"));
    }
    if let Some(template) = d::object(spec, "template") {
        d::template(template);
    }
    d::each(spec, "volumeClaimTemplates", |claim| {
        d::zero(claim, "apiVersion", json!("v1"));
        d::zero(claim, "kind", json!("PersistentVolumeClaim"));
        (super::persistentvolumeclaim::KIND.default)(claim);
    });
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let policy = s.get("podManagementPolicy");
    if !["OrderedReady", "Parallel"].contains(&policy.str()) {
        policy.invalid(&mut e, "must be 'OrderedReady' or 'Parallel'");
    }
    update_strategy(&s, &mut e);
    let retention = s.get("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"] {
        retention.get(name).one_of(&mut e, &["Retain", "Delete"]);
    }
    s.non_negatives(&mut e, &["replicas", "minReadySeconds", "revisionHistoryLimit"]);
    s.get("ordinals").get("start").non_negative(&mut e);
    template::required_selector(&s.get("selector"), "statefulset", &mut e);
    pods(&s, &mut e);
    e
}

/// Labels and annotations of the template are looked at twice, as upstream does.
fn pods(s: &Field, e: &mut ErrorList) {
    let (choice, at) = (s.get("selector"), s.get("template"));
    let labels = at.get("metadata").get("labels");
    if selector::matches(choice.value, labels.value).is_none() {
        e.push(field::invalid(&choice.path, choice.value, ""));
        return;
    }
    if !choice.is_set() || !selector::selects_all(choice.value) {
        template::match_labels(&at, &choice, e);
    }
    meta::template(&at, e);
    template::template(&at, e);
    template::running(&at, "StatefulSet", e);
}

fn update_strategy(s: &Field, e: &mut ErrorList) {
    let f = s.get("updateStrategy");
    let rolling = f.get("rollingUpdate");
    match f.get("type").str() {
        "" => f.required(e, ""),
        "OnDelete" if rolling.is_set() => {
            rolling.invalid(e, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").non_negative(e);
            let unavailable = rolling.get("maxUnavailable");
            crate::validate::intstr::non_negative(&unavailable, e);
            crate::validate::intstr::at_most_all(&unavailable, e);
        }
        _ => f.invalid(e, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    const MUTABLE: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    const WORDS: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    let mut e = ErrorList::new();
    let (mut now, was) = (new["spec"].clone(), &old["spec"]);
    for name in MUTABLE {
        now[*name] = was[*name].clone();
    }
    if !same(&now, was) {
        Field::root(new).get("spec").forbidden(&mut e, WORDS);
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let ready = format!("{}/{}", c::int(&o["status"]["readyReplicas"]), c::int(&o["spec"]["replicas"]));
    let [names, images] = c::containers(&o["spec"]["template"]);
    vec![c::name(o), json!(ready), c::age(o, p), names, images]
}
