//! networking.k8s.io/v1 ServiceCIDR.

use super::{cells as c, strategy};
use crate::field::{Cause, ErrorList};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, IMMUTABLE, error, net};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "ServiceCIDR",
    plural: "servicecidrs",
    singular: "servicecidr",
    namespaced: false,
    schema: "io.k8s.api.networking.v1.ServiceCIDR",
    message: "api.networking.v1.ServiceCIDR",
    storage: "servicecidrs",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    prepare_create: strategy::create_blank,
    prepare_update: strategy::update,
    prepare_status: strategy::status,
    validate,
    validate_update,
    cells,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let list = Field::root(v).get("spec").get("cidrs");
    if list.is_empty() {
        list.required(&mut e, "at least one CIDR required");
        return e;
    }
    if list.len() > 2 {
        let printed = Some(format!("{{\"CIDRs\":{}}}", list.value));
        e.push(error(Cause::Invalid, &list.path, printed, "may only hold up to 2 values"));
        return e;
    }
    let read: Vec<_> = list.items().filter_map(|f| net::cidr(&f, &mut e)).collect();
    if let [a, b] = read[..]
        && a.addr().is_ipv4() == b.addr().is_ipv4()
    {
        list.invalid(
            &mut e,
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
    e
}

/// What is there stays; a second family may come.
fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let list = Field::root(new).get("spec").get("cidrs");
    let was = Field::root(old).get("spec").get("cidrs");
    if list.len() != was.len() && (was.len(), list.len()) != (1, 2) {
        list.invalid(&mut e, IMMUTABLE);
        return e;
    }
    for (block, before) in list.items().zip(was.items()) {
        block.immutable(&mut e, before.value);
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), json!(c::joined(&o["spec"]["cidrs"], ",")), c::age(o, p)]
}
