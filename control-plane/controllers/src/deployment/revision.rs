//! Revisions: the numbers that `kubectl rollout history` shows and `undo` goes back to, kept as annotations.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{Resource, ResourceExt};
use serde_json::{Map, Value, json};

use super::plan::Limits;

/// The revision of a ReplicaSet, and the newest one on the deployment.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions that the same ReplicaSet stood for.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The deployment's size when the ReplicaSet was last sized.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The size with surge at that time.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The history annotation is cut at this length.
const HISTORY_LENGTH: usize = 2000;

/// Annotations of the deployment that are not the ReplicaSet's business.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];

/// A number kept as an annotation.
pub fn number<K: Resource>(object: &K, name: &str) -> Option<i32> {
    object.meta().annotations.as_ref()?.get(name)?.parse().ok()
}

/// The revision of a ReplicaSet or deployment.
pub fn of<K: Resource>(object: &K) -> Option<i64> {
    object.meta().annotations.as_ref()?.get(REVISION)?.parse().ok()
}

/// The revision after all of `old`.
pub fn next(old: &[ReplicaSet]) -> i64 {
    old.iter().filter_map(of).max().unwrap_or_default().saturating_add(1)
}

/// Older first, then by name.
pub fn by_creation(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.clone();
    created(a).cmp(&created(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

/// The annotations that note the deployment's size on a ReplicaSet.
pub fn size_annotations(limits: &Limits) -> Value {
    json!({DESIRED_REPLICAS: limits.replicas.to_string(), MAX_REPLICAS: limits.most().to_string()})
}

/// Whether the ReplicaSet has those annotations.
pub fn sizes_are_noted(set: &ReplicaSet, limits: &Limits) -> bool {
    number(set, DESIRED_REPLICAS) == Some(limits.replicas) && number(set, MAX_REPLICAS) == Some(limits.most())
}

/// The annotations of a ReplicaSet that is about to be made.
pub fn first_annotations(
    deployment: &Deployment,
    limits: &Limits,
    revision: i64,
) -> BTreeMap<String, String> {
    let mut annotations: BTreeMap<String, String> =
        copied(deployment).map(|(key, value)| (key.clone(), value.clone())).collect();
    annotations.insert(REVISION.to_owned(), revision.to_string());
    annotations.insert(DESIRED_REPLICAS.to_owned(), limits.replicas.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), limits.most().to_string());
    annotations
}

fn copied(deployment: &Deployment) -> impl Iterator<Item = (&String, &String)> {
    deployment.annotations().iter().filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
}

/// The patch that brings an existing ReplicaSet to the current revision, when it is not there.
pub fn annotate_existing(deployment: &Deployment, set: &ReplicaSet, next: i64) -> Option<Value> {
    let known = set.annotations();
    let mut changes = Map::new();
    for (key, value) in copied(deployment) {
        if known.get(key) != Some(value) {
            changes.insert(key.clone(), json!(value));
        }
    }
    let current = of(set).unwrap_or_default();
    if current < next {
        changes.insert(REVISION.to_owned(), json!(next.to_string()));
        if current > 0 {
            let history = history_with(known.get(HISTORY).map(String::as_str), current);
            changes.insert(HISTORY.to_owned(), json!(history));
        }
    }
    let seconds = |value: Option<i32>| value.unwrap_or_default();
    let wanted = seconds(deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
    let differs = wanted != seconds(set.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
    if changes.is_empty() && !differs {
        return None;
    }
    let mut patch = json!({"metadata": {"annotations": changes}});
    if differs {
        patch["spec"] = json!({"minReadySeconds": wanted});
    }
    Some(patch)
}

fn history_with(known: Option<&str>, revision: i64) -> String {
    let mut numbers: Vec<&str> = known.into_iter().flat_map(|known| known.split(',')).collect();
    let revision = revision.to_string();
    numbers.push(&revision);
    let mut length: usize = numbers.iter().map(|number| number.len() + 1).sum();
    let mut first = 0;
    while length > HISTORY_LENGTH && first + 1 < numbers.len() {
        length -= numbers[first].len() + 1;
        first += 1;
    }
    numbers[first..].join(",")
}

/// The empty ReplicaSets that the history has no place for, oldest revision first.
pub fn beyond_history<'a>(deployment: &Deployment, old: &'a [ReplicaSet]) -> Vec<&'a ReplicaSet> {
    let limit = deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
    let mut kept: Vec<&ReplicaSet> =
        old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let surplus = kept.len().saturating_sub(limit);
    kept.sort_by(|a, b| of(*a).cmp(&of(*b)).then_with(|| by_creation(a, b)));
    kept.truncate(surplus);
    kept.retain(|set| {
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        set.status.as_ref().map_or(0, |status| status.replicas) == 0
            && set.spec.as_ref().and_then(|spec| spec.replicas) == Some(0)
            && observed >= set.metadata.generation
    });
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(revision: i64, replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": format!("r{revision}"), "generation": 1,
                "annotations": {REVISION: revision.to_string()}},
            "spec": {"replicas": replicas, "selector": {}},
            "status": {"replicas": replicas, "observedGeneration": 1}
        }))
        .unwrap()
    }

    #[test]
    fn the_oldest_empty_sets_leave_the_history_first() {
        let deployment: Deployment = serde_json::from_value(json!({
            "spec": {"revisionHistoryLimit": 1, "selector": {}, "template": {}}}))
        .unwrap();
        let old = [set(4, 0), set(2, 0), set(3, 1)];
        let names: Vec<_> = beyond_history(&deployment, &old).iter().map(|set| set.name_any()).collect();
        assert_eq!(names, ["r2"]);
    }

    #[test]
    fn a_set_that_becomes_current_again_remembers_its_old_revision() {
        let deployment = Deployment::default();
        let patch = annotate_existing(&deployment, &set(2, 0), next(&[set(5, 1)])).unwrap();
        let annotations = &patch["metadata"]["annotations"];
        assert_eq!((&annotations[REVISION], &annotations[HISTORY]), (&json!("6"), &json!("2")));
        assert_eq!(annotate_existing(&deployment, &set(6, 0), 6), None);
    }
}
