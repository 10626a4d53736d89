//! resource.k8s.io/v1 ResourceSlice.

use super::{cells as c, fields::label, strategy};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{FieldLabel, Printing};
use crate::validate::{Field, names, volume};
use serde_json::Value;

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceSlice",
    plural: "resourceslices",
    singular: "resourceslice",
    namespaced: false,
    schema: "io.k8s.api.resource.v1.ResourceSlice",
    message: "api.resource.v1.ResourceSlice",
    storage: "resourceslices",
    prepare_create: strategy::first_generation,
    prepare_update: |new, old| strategy::count(new, old, |v| v["spec"].clone()),
    validate,
    validate_update: |new, old| {
        strategy::immutable(new, old, &["spec.driver", "spec.nodeName", "spec.pool.name"])
    },
    cells,
    generation: true,
    fields: &[
        FieldLabel { label: "spec.nodeName", value: |o| label(&o["spec"]["nodeName"]) },
        FieldLabel { label: "spec.driver", value: |o| label(&o["spec"]["driver"]) },
    ],
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    volume::csi_driver(&s.get("driver"), &mut e);
    let (pool, count) = (s.get("pool").get("name"), s.get("pool").get("resourceSliceCount"));
    if pool.present(&mut e) {
        for part in pool.str().split('/') {
            pool.all(&mut e, names::dns_subdomain(part));
        }
    }
    if count.num() <= 0 {
        count.invalid(&mut e, "must be greater than zero");
    }
    s.get("pool").get("generation").non_negative(&mut e);
    let set = |name: &str| s.get(name).is_set() && s.get(name).value != &Value::Bool(false);
    let places =
        ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"].iter().filter(|n| set(n)).count();
    if places == 0 {
        s.required(
            &mut e,
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        );
    } else if places > 1 {
        s.invalid(
            &mut e,
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        );
    }
    let mut seen: Vec<&str> = Vec::new();
    for device in s.get("devices").items() {
        let name = device.get("name");
        if name.present(&mut e) {
            name.all(&mut e, names::dns_label(name.str()));
            if seen.contains(&name.str()) {
                name.duplicate(&mut e);
            }
        }
        seen.push(name.str());
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let s = &o["spec"];
    let node =
        if s["nodeName"].is_string() { c::text(&s["nodeName"]) } else { c::text_or(&Value::Null, "<unset>") };
    vec![c::name(o), node, c::text(&s["driver"]), c::text(&s["pool"]["name"]), c::age(o, p)]
}
