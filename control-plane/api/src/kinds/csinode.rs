//! storage.k8s.io/v1 CSINode.

use super::cells as c;
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, IMMUTABLE, Seen, names, same, volume};
use crate::{
    field::{ErrorList, Path},
    pod::defaults as d,
};
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
    validate_update,
    cells,
    ..Kind::BASE
};

const NODE_ID_MAX: usize = 192;

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let mut seen = Seen::default();
    for driver in Field::root(v).get("spec").get("drivers").items() {
        let name = driver.get("name");
        volume::csi_driver(&name, &mut e);
        let node = driver.get("nodeID");
        if node.present(&mut e) && node.len() > NODE_ID_MAX {
            node.invalid(&mut e, format!("must be {NODE_ID_MAX} characters or less"));
        }
        driver.get("allocatable").get("count").non_negative(&mut e);
        seen.once(&name, &mut e);
        topology_keys(&driver.get("topologyKeys"), &mut e);
    }
    e
}

/// Errors name the list, not the key.
fn topology_keys(f: &Field, e: &mut ErrorList) {
    let mut seen = Seen::default();
    for key in f.items() {
        let at = Field::at(key.value, f.path.clone());
        if key.is_empty() {
            at.required(e, "");
        }
        seen.once(&at, e);
        for words in names::qualified(key.str()) {
            f.invalid(e, words);
        }
    }
}

/// A driver that is there stays as it is, but for how many volumes it can attach.
fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        driver["allocatable"] = Value::Null;
        driver
    };
    let mut e = ErrorList::new();
    let was = Field::root(old).get("spec").get("drivers");
    for driver in Field::root(new).get("spec").get("drivers").items() {
        let before = was.items().find(|other| other.get("name").str() == driver.get("name").str());
        if before.is_some_and(|before| !same(&fixed(before.value), &fixed(driver.value))) {
            Field::at(driver.value, Path::new("CSINodeDriver")).invalid(&mut e, IMMUTABLE);
        }
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), json!(o["spec"]["drivers"].as_array().map_or(0, Vec::len)), c::age(o, p)]
}
