//! v1 Namespace.

use super::{cells as c, fields::label, strategy};
use crate::kind::{Act, Kind, Subresource};
use crate::kind::{FieldLabel, NameRule, Printing};
use crate::validate::{Field, names};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
    schema: "io.k8s.api.core.v1.Namespace",
    message: "api.core.v1.Namespace",
    storage: "namespaces",
    subresources: &[
        Subresource { name: "finalize", verbs: &["update"], act: Act::Finalize },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    name: NameRule::DnsLabel,
    default,
    prepare_create,
    prepare_update,
    prepare_status: strategy::status,
    validate,
    validate_status,
    cells,
    fields: &[
        FieldLabel { label: "name", value: |o| label(&o["metadata"]["name"]) },
        FieldLabel { label: "status.phase", value: |o| label(&o["status"]["phase"]) },
    ],
    ..Kind::BASE
};

/// The label by which a selector can name a namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn default(v: &mut Value) {
    if let Some(name) = v["metadata"]["name"].as_str().filter(|n| !n.is_empty()).map(str::to_owned)
        && let Some(labels) = d::object(&mut v["metadata"], "labels")
    {
        labels[NAME_LABEL] = json!(name);
    }
    d::with(v, "status", |status| d::zero(status, "phase", json!("Active")));
}

fn prepare_create(v: &mut Value) {
    default(v);
    strategy::create(v, json!({"phase": "Active"}));
    let Some(spec) = d::object(v, "spec") else { return };
    d::unset(spec, "finalizers", json!([]));
    if let Some(list) = spec["finalizers"].as_array_mut().filter(|l| !l.contains(&json!("kubernetes"))) {
        list.push(json!("kubernetes"));
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    strategy::take(new, old, "spec");
    strategy::update(new, old);
}

fn validate(v: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let list = Field::root(v).get("spec").get("finalizers");
    for finalizer in list.items() {
        // Upstream's path leaves the index out.
        finalizer_name(&Field::at(finalizer.value, list.path.clone()), &mut errors);
    }
    errors
}

/// A finalizer of a namespace's spec: qualified, and with a domain unless it is upstream's own.
pub(crate) fn finalizer_name(f: &Field, errors: &mut ErrorList) {
    let wrong = names::qualified(f.str());
    let formed = wrong.is_empty();
    f.all(errors, wrong);
    if formed && !f.str().contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&f.str())
    {
        f.invalid(errors, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

fn validate_status(new: &Value, _: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let f = Field::root(new);
    let phase = Field::at(&new["status"]["phase"], f.path.child("status").child("Phase"));
    let deleted = f.get("metadata").get("deletionTimestamp").is_set();
    if !deleted && phase.str() != "Active" {
        phase.invalid_text(&mut errors, "may only be 'Active' if `deletionTimestamp` is empty");
    }
    if deleted && phase.str() != "Terminating" {
        phase.invalid_text(&mut errors, "may only be 'Terminating' if `deletionTimestamp` is not empty");
    }
    errors
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), c::text(&o["status"]["phase"]), c::age(o, p)]
}
