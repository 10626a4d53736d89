//! storage.k8s.io/v1 VolumeAttributesClass.

use super::{cells as c, storageclass, strategy};
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, names};
use serde_json::Value;

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "VolumeAttributesClass",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    short_names: &["vac"],
    namespaced: false,
    schema: "io.k8s.api.storage.v1.VolumeAttributesClass",
    message: "api.storage.v1.VolumeAttributesClass",
    storage: "volumeattributesclasses",
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["driverName", "parameters"]),
    cells,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let (driver, parameters) = (Field::root(v).get("driverName"), Field::root(v).get("parameters"));
    if driver.present(&mut e) {
        driver.all(&mut e, names::qualified(&driver.str().to_lowercase()));
    }
    if parameters.is_empty() {
        parameters.required(&mut e, "must contain at least one key/value pair");
    }
    storageclass::parameters(&parameters, &mut e);
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), c::text(&o["driverName"]), c::age(o, p)]
}
