//! coordination.k8s.io/v1 Lease.

use super::cells as c;
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, GREATER_THAN_ZERO};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::Value;

pub static KIND: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    schema: "io.k8s.api.coordination.v1.Lease",
    message: "api.coordination.v1.Lease",
    storage: "leases",
    default: |v| {
        d::object(v, "spec");
    },
    prepare_create: |v| drop_election(v, &Value::Null),
    prepare_update: drop_election,
    validate,
    cells,
    unconditional_update: false,
    create_on_update: true,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let spec = Field::root(v).get("spec");
    let duration = spec.get("leaseDurationSeconds");
    if duration.int().is_some_and(|n| n <= 0) {
        duration.invalid(&mut e, GREATER_THAN_ZERO);
    }
    spec.get("leaseTransitions").non_negative(&mut e);
    e
}

/// Coordinated leader election is a feature that is off unless a cluster asks for it: what belongs to it is not kept.
fn drop_election(new: &mut Value, old: &Value) {
    for name in ["strategy", "preferredHolder"] {
        if let (true, Some(spec)) = (old["spec"][name].is_null(), new["spec"].as_object_mut()) {
            spec.remove(name);
        }
    }
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), c::text(&o["spec"]["holderIdentity"]), c::age(o, p)]
}
