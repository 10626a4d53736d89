//! What most kinds' strategies do: who owns `status`, when the generation counts, what a status update may touch.

use serde_json::{Map, Value, json};

use crate::{
    field::{ErrorList, invalid},
    validate::{Field, IMMUTABLE, same},
};

/// Whether the object is about to be created: what is stored has a version.
pub fn is_new(v: &Value) -> bool {
    v["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty)
}

/// A new object starts with this status, whatever the client says.
pub fn create(v: &mut Value, status: Value) {
    if let Some(map) = v.as_object_mut() {
        map.insert("status".into(), status);
    }
}

/// A new object without a status of its own.
pub fn first_generation(v: &mut Value) {
    v["metadata"]["generation"] = json!(1);
}

/// `create` for kinds whose generation counts.
pub fn create_counted(v: &mut Value, status: Value) {
    create(v, status);
    first_generation(v);
}

/// An empty status, counted.
pub fn create_blank_counted(v: &mut Value) {
    create_counted(v, json!({}));
}

/// An empty status.
pub fn create_blank(v: &mut Value) {
    create(v, json!({}));
}

/// Puts the old object's `key` into the new one, or takes it away.
pub fn take(new: &mut Value, old: &Value, key: &str) {
    if let Some(map) = new.as_object_mut() {
        match old.get(key) {
            Some(value) => map.insert(key.into(), value.clone()),
            None => map.remove(key),
        };
    }
}

/// An update of the object leaves its status alone.
pub fn update(new: &mut Value, old: &Value) {
    take(new, old, "status");
}

/// `update`, and a changed spec is a new generation.
pub fn update_counted(new: &mut Value, old: &Value) {
    take(new, old, "status");
    count(new, old, |v| v["spec"].clone());
}

/// A change of what `part` shows is a new generation.
pub fn count(new: &mut Value, old: &Value, part: fn(&Value) -> Value) {
    let was = old["metadata"]["generation"].as_i64().unwrap_or_default();
    let changed = !same(&part(new), &part(old));
    let generation = was + i64::from(changed);
    if generation > 0 {
        new["metadata"]["generation"] = json!(generation);
    }
}

/// An update of the status takes all but metadata and status from the old object.
pub fn status(new: &mut Value, old: &Value) {
    let mut kept: Map<String, Value> = old.as_object().cloned().unwrap_or_default();
    for key in ["metadata", "status"] {
        match new.get_mut(key).map(Value::take) {
            Some(value) if !value.is_null() => kept.insert(key.into(), value),
            _ => kept.remove(key),
        };
    }
    *new = Value::Object(kept);
    take_meta(new, old, &["generation", "deletionTimestamp", "deletionGracePeriodSeconds"]);
}

/// `status` for kinds that also keep their metadata (`ResetObjectMetaForStatus`).
pub fn status_only(new: &mut Value, old: &Value) {
    status(new, old);
    take_meta(new, old, &["labels", "annotations", "finalizers", "ownerReferences"]);
}

fn take_meta(new: &mut Value, old: &Value, keys: &[&str]) {
    if let Some(meta) = new.get_mut("metadata") {
        for key in keys {
            take(meta, &old["metadata"], key);
        }
    }
}

/// These fields may not change.
pub fn immutable(new: &Value, old: &Value, paths: &[&str]) -> ErrorList {
    let mut errors = ErrorList::new();
    for path in paths {
        let (mut f, mut was) = (Field::root(new), old);
        for step in path.split('.') {
            f = f.get(step);
            was = &was[step];
        }
        if !same(f.value, was) {
            errors.push(invalid(&f.path, f.value, IMMUTABLE));
        }
    }
    errors
}
