//! Writing a pod's status: only what differs from what the API has.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use super::status::OWN;

/// Fields of a status that the kubelet owns besides conditions.
const FIELDS: [&str; 13] = [
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "initContainerStatuses",
    "containerStatuses",
    "observedGeneration",
    "resize",
];

/// Lists that a strategic merge would join instead of replacing.
const JOINED: [&str; 2] = ["hostIPs", "podIPs"];

/// Drops what says nothing, so that a round trip through the API changes nothing.
fn tidy(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept =
                map.into_iter().map(|(key, value)| (key, tidy(value))).filter(|(_, value)| !is_empty(value));
            Value::Object(kept.collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(tidy).collect()),
        other => other,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The strategic merge patch from `old` to `new`; `None` when nothing differs.
#[must_use]
pub fn difference(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (old, new) = (object(old), object(new));
    let mut out = Map::new();
    for field in FIELDS {
        let before = old.get(field).cloned().unwrap_or_default();
        let after = new.get(field).cloned().unwrap_or_default();
        let (tidy_before, tidy_after) = (tidy(before), tidy(after.clone()));
        if tidy_before == tidy_after || (is_empty(&tidy_before) && is_empty(&tidy_after)) {
            continue;
        }
        let joined = JOINED.contains(&field) && !is_empty(&tidy_before);
        let value = match after {
            Value::Array(mut list) if joined => {
                list.insert(0, json!({"$patch": "replace"}));
                Value::Array(list)
            }
            other => other,
        };
        out.insert(field.to_owned(), value);
    }
    let conditions = changed_conditions(&old, &new);
    if !conditions.is_empty() {
        out.insert("conditions".to_owned(), Value::Array(conditions));
    }
    (!out.is_empty()).then(|| json!({ "status": out }))
}

/// Own conditions that differ; they are merged by type, so those of others stay.
fn changed_conditions(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<Value> {
    let list = |map: &Map<String, Value>| {
        map.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let (before, after) = (list(old), list(new));
    let of_type =
        |condition: &Value| condition.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let own = after.into_iter().filter(|condition| OWN.contains(&of_type(condition).as_str()));
    own.filter_map(|mut condition| {
        let known = before.iter().find(|known| of_type(known) == of_type(&condition));
        if known.is_some_and(|known| tidy(known.clone()) == tidy(condition.clone())) {
            return None;
        }
        // Words that are over must be taken back: a merge keeps what is not named.
        for word in ["reason", "message"] {
            let had = known.and_then(|known| known.get(word)).is_some_and(|value| !is_empty(value));
            if let (true, Some(map)) = (had, condition.as_object_mut()) {
                map.entry(word).or_insert(Value::Null);
            }
        }
        Some(condition)
    })
    .collect()
}

/// Writes the difference; returns the pod as the API then has it, or `None` when there was nothing to write.
///
/// # Errors
/// Fails when the API does; a pod that is gone or was replaced is such a failure (404, 409).
pub async fn write(client: &Client, pod: &Pod, status: &PodStatus) -> Result<Option<Pod>, kube::Error> {
    let old = pod.status.clone().unwrap_or_default();
    let Some(mut patch) = difference(&old, status) else { return Ok(None) };
    if let Some(map) = patch.as_object_mut() {
        // The UID makes the API refuse the patch when another pod has taken the name.
        map.insert("metadata".to_owned(), json!({"uid": pod.metadata.uid}));
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let api = Api::<Pod>::namespaced(client.clone(), &namespace);
    let name = pod.metadata.name.clone().unwrap_or_default();
    api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(old: Value, new: Value, expected: Option<Value>) {
        let parse = |value: Value| serde_json::from_value::<PodStatus>(value).unwrap();
        assert_eq!(difference(&parse(old), &parse(new)), expected.map(|status| json!({"status": status})));
    }

    #[test]
    fn only_what_differs_is_written() {
        let base = json!({"phase": "Running", "podIP": "1.1.1.1", "podIPs": [{"ip": "1.1.1.1"}],
            "startTime": "2020-01-01T00:00:00Z"});
        check(base.clone(), base.clone(), None);
        let mut moved = base.clone();
        moved["podIPs"] = json!([{"ip": "2.2.2.2"}]);
        moved["podIP"] = json!("2.2.2.2");
        check(
            base.clone(),
            moved,
            Some(json!({"podIP": "2.2.2.2", "podIPs": [{"$patch": "replace"}, {"ip": "2.2.2.2"}]})),
        );
        check(
            json!({}),
            json!({"podIPs": [{"ip": "1.1.1.1"}]}),
            Some(json!({"podIPs": [{"ip": "1.1.1.1"}]})),
        );
        check(json!({"reason": "x"}), json!({}), Some(json!({"reason": null})));
    }

    #[test]
    fn empty_states_do_not_count_as_a_difference() {
        let with = |last: Value| {
            let mut container =
                json!({"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0});
            container["lastState"] = last;
            json!({"containerStatuses": [container]})
        };
        check(with(json!({})), with(Value::Null), None);
    }

    #[test]
    fn conditions_are_merged_and_those_of_others_left_alone() {
        let ready =
            |status: &str, reason: Option<&str>| json!({"type": "Ready", "status": status, "reason": reason});
        let other = json!({"type": "example.com/x", "status": "True"});
        check(
            json!({"conditions": [ready("False", Some("ContainersNotReady")), other]}),
            json!({"conditions": [ready("True", None), other]}),
            Some(json!({"conditions": [{"type": "Ready", "status": "True", "reason": null}]})),
        );
    }
}
