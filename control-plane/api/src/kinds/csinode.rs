//! storage.k8s.io/v1 CSINode.

use super::cells as c;
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, volume};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    namespaced: false,
    schema: "io.k8s.api.storage.v1.CSINode",
    message: "api.storage.v1.CSINode",
    storage: "csinodes",
    default: |v| {
        if let Some(s) = d::object(v, "spec") {
            d::unset(s, "drivers", json!([]));
        }
    },
    validate,
    cells,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let mut seen: Vec<&str> = Vec::new();
    for driver in Field::root(v).get("spec").get("drivers").items() {
        let name = driver.get("name");
        volume::csi_driver(&name, &mut e);
        driver.get("nodeID").present(&mut e);
        driver.get("allocatable").get("count").non_negative(&mut e);
        if seen.contains(&name.str()) {
            name.duplicate(&mut e);
        }
        seen.push(name.str());
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), json!(o["spec"]["drivers"].as_array().map_or(0, Vec::len)), c::age(o, p)]
}
