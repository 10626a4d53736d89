//! Writes that carry only what changed.

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::queue::{Failure, Step};

/// The JSON merge patch (RFC 7386) from `old` to `new`; none when they are equal.
#[must_use]
pub fn difference(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in after {
        let change = match before.get(key) {
            Some(known) => difference(known, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Some(Value::Object(patch))
}

fn value_of<T: Serialize>(value: &T) -> Result<Value, Failure> {
    serde_json::to_value(value)
        .map_err(|error| Failure::Object(format!("cannot be written as JSON: {error}")))
}

/// Writes the status of `object` as `new` where it differs from `old`; the object's uid must still be the same.
/// Returns the object after the write, none when there was nothing to write.
///
/// # Errors
/// What the API answered.
pub async fn status<K, S>(api: &Api<K>, object: &K, old: Option<&S>, new: &S) -> Result<Option<K>, Failure>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    S: Serialize,
{
    let before = old.map(value_of).transpose()?.unwrap_or_else(|| json!({}));
    let Some(patch) = difference(&before, &value_of(new)?) else { return Ok(None) };
    let patch = json!({"metadata": {"uid": object.meta().uid}, "status": patch});
    let name = object.name_any();
    let answer = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    answer.map(Some).step("write status")
}

/// Applies a merge patch to the object, which must be unchanged since it was read.
///
/// # Errors
/// What the API answered; a conflict when somebody else wrote first.
pub async fn guarded<K>(api: &Api<K>, object: &K, mut patch: Value, step: &'static str) -> Result<K, Failure>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    patch["metadata"]["uid"] = json!(object.meta().uid);
    patch["metadata"]["resourceVersion"] = json!(object.meta().resource_version);
    api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.step(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(old: Value, new: Value, expected: Option<Value>) {
        let patch = difference(&old, &new);
        assert_eq!(patch, expected);
        let mut patched = old;
        if let Some(patch) = patch {
            json_patch::merge(&mut patched, &patch);
        }
        assert_eq!(patched, new);
    }

    #[test]
    fn a_difference_leads_from_the_old_to_the_new_value() {
        check(json!({"a": 1}), json!({"a": 1}), None);
        check(json!({"a": 1}), json!({"a": 2}), Some(json!({"a": 2})));
        check(json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null})));
        check(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 1}}), Some(json!({"a": {"c": null}})));
        check(json!({"a": [1, 2]}), json!({"a": [2]}), Some(json!({"a": [2]})));
        check(json!({}), json!({"a": {"b": [1]}}), Some(json!({"a": {"b": [1]}})));
    }
}
