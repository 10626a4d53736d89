//! storage.k8s.io/v1 StorageClass.

use super::{cells as c, strategy};
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, Seen, names};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    namespaced: false,
    schema: "io.k8s.api.storage.v1.StorageClass",
    message: "api.storage.v1.StorageClass",
    storage: "storageclasses",
    default: |v| {
        d::unset(v, "reclaimPolicy", json!("Delete"));
        d::unset(v, "volumeBindingMode", json!("Immediate"));
    },
    validate,
    validate_update: |new, old| {
        strategy::immutable(new, old, &["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"])
    },
    cells,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(v);
    let provisioner = f.get("provisioner");
    if provisioner.present(&mut e) {
        provisioner.all(&mut e, names::qualified(&provisioner.str().to_lowercase()));
    }
    parameters(&f.get("parameters"), &mut e);
    f.get("reclaimPolicy").one_of(&mut e, &["Delete", "Retain"]);
    f.get("volumeBindingMode").required_one_of(&mut e, &["Immediate", "WaitForFirstConsumer"]);
    topologies(&f.get("allowedTopologies"), &mut e);
    e
}

/// Terms of which none says what another one says, each key and each value once.
fn topologies(f: &Field, e: &mut ErrorList) {
    let mut terms: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for term in f.items() {
        let mut meaning: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for label in term.get("matchLabelExpressions").items() {
            let (key, values) = (label.get("key"), label.get("values"));
            if values.is_empty() {
                values.required(e, "");
            }
            let mut seen = Seen::default();
            values.items().for_each(|value| seen.once(&value, e));
            key.all(e, names::qualified(key.str()));
            if meaning.insert(key.str(), values.items().map(|value| value.str()).collect()).is_some() {
                key.duplicate(e);
            }
        }
        if terms.contains(&meaning) {
            let blank = Value::from("");
            Field::at(&blank, term.path.child("matchLabelExpressions")).duplicate(e);
        }
        terms.push(meaning);
    }
}

/// At most 512 of them, 256 KiB together, none with an empty key.
pub(super) fn parameters(f: &Field, e: &mut ErrorList) {
    const BYTES_MAX: usize = 256 * 1024;
    if f.len() > 512 {
        f.too_long(e, 512);
        return;
    }
    let mut total = 0;
    for (key, value) in f.entries() {
        if key.is_empty() {
            f.invalid(e, "field can not be empty.");
        }
        total += key.len() + value.len();
    }
    if total > BYTES_MAX {
        f.too_long(e, BYTES_MAX);
    }
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let default =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|a| o["metadata"]["annotations"][*a] == "true");
    let name = o["metadata"]["name"].as_str().unwrap_or_default();
    vec![
        if default { json!(format!("{name} (default)")) } else { json!(name) },
        c::text(&o["provisioner"]),
        c::text_or(&o["reclaimPolicy"], "Delete"),
        c::text_or(&o["volumeBindingMode"], "<unset>"),
        json!(o["allowVolumeExpansion"] == true),
        c::age(o, p),
    ]
}
