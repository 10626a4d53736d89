//! storage.k8s.io/v1 StorageClass.

use super::{cells as c, strategy};
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, names};
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

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
    for term in f.get("allowedTopologies").items() {
        for label in term.get("matchLabelExpressions").items() {
            label.get("key").all(&mut e, names::qualified(label.get("key").str()));
            if label.get("values").is_empty() {
                label.get("values").required(&mut e, "");
            }
        }
    }
    e
}

/// At most 512 of them, 256 KiB together, none with an empty key.
pub(super) fn parameters(f: &Field, e: &mut ErrorList) {
    const BYTES_MAX: usize = 256 * 1024;
    if f.len() > 512 {
        e.push(field::too_long(&field::Path::new("Provisioner Parameters exceeded max allowed"), 512));
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
