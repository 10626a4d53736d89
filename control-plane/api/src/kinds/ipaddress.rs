//! networking.k8s.io/v1 IPAddress.

use super::{cells as c, strategy};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, names, net};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IPAddress",
    plural: "ipaddresses",
    singular: "ipaddress",
    short_names: &["ip"],
    namespaced: false,
    schema: "io.k8s.api.networking.v1.IPAddress",
    message: "api.networking.v1.IPAddress",
    storage: "ipaddresses",
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["spec.parentRef"]),
    cells,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let name = Field::root(v).get("metadata").get("name");
    if let Some(ip) = net::ip(&name, &mut e)
        && e.is_empty()
        && ip.to_string() != name.str()
    {
        name.invalid(&mut e, format!("must be in canonical form ({:?})", ip.to_string()));
    }
    let parent = Field::root(v).get("spec").get("parentRef");
    if !parent.is_set() {
        parent.required(&mut e, "");
        return e;
    }
    let group = parent.get("group");
    if !group.is_empty() {
        group.all(&mut e, names::dns_subdomain(group.str()));
    }
    for name in ["resource", "name"] {
        let at = parent.get(name);
        if at.present(&mut e) {
            at.all(&mut e, names::path_segment(at.str()));
        }
    }
    let space = parent.get("namespace");
    if !space.is_empty() {
        space.all(&mut e, names::path_segment(space.str()));
    }
    e
}

fn cells(o: &Value, _: &Printing) -> Vec<Value> {
    let parent = &o["spec"]["parentRef"];
    let text = |k: &str| parent[k].as_str().unwrap_or_default();
    let mut kind = text("resource").to_owned();
    if !text("group").is_empty() {
        kind = format!("{kind}.{}", text("group"));
    }
    let of = if text("namespace").is_empty() {
        text("name").to_owned()
    } else {
        format!("{}/{}", text("namespace"), text("name"))
    };
    vec![c::name(o), json!(format!("{kind}/{of}"))]
}
