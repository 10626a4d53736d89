//! resource.k8s.io/v1 ResourceClaim.

use super::{cells as c, devices, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::Field;
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceClaim",
    plural: "resourceclaims",
    singular: "resourceclaim",
    schema: "io.k8s.api.resource.v1.ResourceClaim",
    message: "api.resource.v1.ResourceClaim",
    storage: "resourceclaims",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default: |v| {
        if let Some(s) = d::object(v, "spec") {
            devices::default(s);
        }
    },
    prepare_create: strategy::create_blank,
    prepare_update: strategy::update,
    prepare_status: strategy::status_only,
    // What cannot change is not judged again.
    validate: |v| {
        let mut e = ErrorList::new();
        if strategy::is_new(v) {
            devices::spec(&Field::root(v).get("spec"), &mut e);
        }
        e
    },
    validate_status: devices::claim_status,
    validate_update: |new, old| strategy::immutable(new, old, &["spec"]),
    cells,
    ..Kind::BASE
};

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let (meta, status) = (&o["metadata"], &o["status"]);
    let mut states: Vec<&str> = Vec::new();
    if !meta["deletionTimestamp"].is_null() {
        states.push("deleted");
    }
    if status["allocation"].is_null() {
        if meta["deletionTimestamp"].is_null() {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if status["reservedFor"].as_array().is_some_and(|l| !l.is_empty()) {
            states.push("reserved");
        }
    }
    vec![c::name(o), json!(states.join(",")), c::age(o, p)]
}
