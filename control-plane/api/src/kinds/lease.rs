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
    let (strategy, preferred) = (spec.get("strategy"), spec.get("preferredHolder"));
    if !preferred.is_empty() && strategy.is_empty() {
        preferred.forbidden(&mut e, "may only be specified when `strategy` is defined");
    }
    if strategy.is_set() && strategy.str() != "OldestEmulationVersion" {
        strategy.all(&mut e, crate::validate::names::domain_prefixed_path(strategy.str()));
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), c::text(&o["spec"]["holderIdentity"]), c::age(o, p)]
}
