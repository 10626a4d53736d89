//! v1 ConfigMap.

use super::cells as c;
use crate::field::{self, ErrorList};
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, names, same};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    schema: "io.k8s.api.core.v1.ConfigMap",
    message: "api.core.v1.ConfigMap",
    storage: "configmaps",
    validate,
    validate_update: |new, old| frozen(new, old, &["data", "binaryData"]),
    cells,
    ..Kind::BASE
};

/// Upstream's bound on the sum of all values.
const SIZE_MAX: usize = 1024 * 1024;

/// The keys of a map of contents.
pub(super) fn keys(f: &Field, errors: &mut ErrorList) {
    for (key, value) in f.entries() {
        let wrong = names::config_key(key);
        errors.extend(wrong.into_iter().map(|m| field::invalid_str(&value.path, key, m)));
    }
}

/// The whole must stay below one MiB.
pub(super) fn size(f: &Field, bytes: usize, errors: &mut ErrorList) {
    if bytes > SIZE_MAX {
        f.too_long(errors, SIZE_MAX);
    }
}

/// An object that says it is immutable stays so, and keeps these fields.
pub(super) fn frozen(new: &Value, old: &Value, fields: &[&str]) -> ErrorList {
    const WORDS: &str = "field is immutable when `immutable` is set";
    let mut errors = ErrorList::new();
    if old["immutable"] != true {
        return errors;
    }
    let f = Field::root(new);
    if !f.get("immutable").is_true() {
        f.get("immutable").forbidden(&mut errors, WORDS);
    }
    for name in fields {
        if !same(&new[*name], &old[*name]) {
            f.get(name).forbidden(&mut errors, WORDS);
        }
    }
    errors
}

fn validate(v: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let f = Field::root(v);
    let (data, binary) = (f.get("data"), f.get("binaryData"));
    keys(&data, &mut errors);
    for (key, value) in data.entries() {
        if binary.value.get(key).is_some() {
            errors.push(field::invalid_str(&value.path, key, "duplicate of key present in binaryData"));
        }
    }
    keys(&binary, &mut errors);
    let text: usize = data.entries().map(|(_, d)| d.len()).sum();
    let bytes: usize = binary.entries().map(|(_, d)| d.len() / 4 * 3).sum();
    if text + bytes > SIZE_MAX {
        // Upstream reports the whole object.
        errors.push(field::too_long(&field::Path::new(""), SIZE_MAX));
    }
    errors
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let count = |field: &str| o[field].as_object().map_or(0, |m| m.len());
    vec![c::name(o), json!(count("data") + count("binaryData")), c::age(o, p)]
}
