//! v1 ReplicationController.

use super::{cells as c, fields::number, strategy};
use crate::kind::{Act, Kind, Subresource};
use crate::kind::{Deletion, FieldLabel, Printing};
use crate::validate::{Field, selector, template};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    schema: "io.k8s.api.core.v1.ReplicationController",
    message: "api.core.v1.ReplicationController",
    storage: "replicationcontrollers",
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
    validate_status: |new, _| super::replicaset::status_counts(new),
    warnings: super::warnings::workload,
    cells,
    fields: &[FieldLabel { label: "status.replicas", value: |o| number(&o["status"]["replicas"]) }],
    generation: true,
    deletion: Deletion::Orphan,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    let labels = v["spec"]["template"]["metadata"]["labels"].clone();
    let bare = |v: &Value| v.as_object().is_none_or(|m| m.is_empty());
    if !bare(&labels) {
        if bare(&v["spec"]["selector"]) {
            v["spec"]["selector"] = labels.clone();
        }
        if bare(&v["metadata"]["labels"]) {
            v["metadata"]["labels"] = labels;
        }
    }
    let Some(spec) = d::object(v, "spec") else { return };
    d::unset(spec, "replicas", json!(1));
    if spec["selector"].is_null()
        && let Some(map) = spec.as_object_mut()
    {
        map.remove("selector");
    }
    d::with(spec, "template", d::template);
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    s.get("minReadySeconds").non_negative(&mut e);
    let (choice, at) = (s.get("selector"), s.get("template"));
    choice.present(&mut e);
    s.get("replicas").non_negative(&mut e);
    if !at.is_set() {
        at.required(&mut e, "");
        return e;
    }
    let whole = json!({"matchLabels": choice.value});
    if !choice.is_empty() && selector::matches(&whole, at.get("metadata").get("labels").value) == Some(false)
    {
        template::match_labels(&at, &Field::at(&whole, choice.path.clone()), &mut e);
    }
    template::template(&at, &mut e);
    template::running(&at, "ReplicationController", &mut e);
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
        c::labels(&spec["selector"]),
    ]
}
