//! The status of a deployment: counts, and what they say about progress.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::condition::{self, AVAILABLE, PROGRESSING, REPLICA_FAILURE};
use super::plan::{Limits, Scale};
use super::{LookAgain, template};
use crate::clock;

/// Whether the deployment has a progress deadline (the largest number means none).
pub fn has_deadline(deployment: &Deployment) -> bool {
    deadline(deployment).is_some()
}

fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds =
        deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// Counts over all ReplicaSets, with condition `Available`; other conditions are kept.
pub fn compute<'a>(
    deployment: &Deployment,
    sets: impl Iterator<Item = &'a ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let known = deployment.status.clone().unwrap_or_default();
    let (mut actual, mut ready, mut available, mut asked, mut updated, mut terminating) =
        (0, 0, 0, 0, 0, None);
    for set in sets {
        let scale = Scale::of(set);
        asked += scale.replicas;
        available += scale.available;
        if let Some(status) = &set.status {
            actual += status.replicas;
            ready += status.ready_replicas.unwrap_or_default();
            if let Some(count) = status.terminating_replicas {
                *terminating.get_or_insert(0) += count;
            }
            if template::is_current(set, deployment) {
                updated += status.replicas;
            }
        }
    }
    let limits = Limits::of(deployment);
    let change = if available >= limits.replicas - limits.max_unavailable {
        let message = "Deployment has minimum availability.".to_owned();
        condition::make(AVAILABLE, "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        condition::make(AVAILABLE, "False", "MinimumReplicasUnavailable", message, now)
    };
    let mut conditions = known.conditions.unwrap_or_default();
    condition::set(&mut conditions, change);
    // Counts of zero are left out, as the API omits them.
    let some = |count: i32| (count != 0).then_some(count);
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(actual),
        updated_replicas: some(updated),
        ready_replicas: some(ready),
        available_replicas: some(available),
        unavailable_replicas: some((asked - available).max(0)),
        terminating_replicas: terminating,
        collision_count: known.collision_count,
        conditions: Some(conditions),
    }
}

/// Whether every replica asked for is new and available, and nothing else is left.
pub fn is_complete(deployment: &Deployment, status: Option<&DeploymentStatus>) -> bool {
    let wanted = Limits::of(deployment).replicas;
    let Some(status) = status else { return false };
    let is = |count: Option<i32>| count.unwrap_or_default() == wanted;
    is(status.updated_replicas)
        && is(status.replicas)
        && is(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

fn moved(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |value: Option<i32>| value.unwrap_or_default();
    let stale = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || stale(new) < stale(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

fn timed_out(deployment: &Deployment, now: Timestamp) -> bool {
    let Some(progress) = condition::get(deployment, PROGRESSING) else { return false };
    let Some(deadline) = deadline(deployment) else { return false };
    match progress.reason.as_deref() {
        Some(condition::DONE) => false,
        Some(condition::TIMED_OUT) => true,
        _ => progress.last_update_time.as_ref().is_some_and(|time| clock::since(time.0, now) > deadline),
    }
}

/// Adds what the counts say about progress and failed replicas.
pub fn with_progress<'a>(
    deployment: &Deployment,
    mut status: DeploymentStatus,
    old: impl Iterator<Item = &'a ReplicaSet>,
    new: Option<&'a ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let current = condition::get(deployment, PROGRESSING).cloned();
    let conditions = status.conditions.take();
    let mut conditions = conditions.unwrap_or_default();
    if has_deadline(deployment) {
        let was_done =
            current.as_ref().and_then(|current| current.reason.as_deref()) == Some(condition::DONE);
        let settled = was_done && status.replicas == status.updated_replicas;
        if !settled {
            let change = progress(deployment, &status, &before, new, now);
            put_progress(&mut conditions, change, current);
        }
    } else {
        condition::remove(&mut conditions, PROGRESSING);
    }
    match failure(old, new) {
        Some(failure) => condition::set(&mut conditions, failure),
        None => condition::remove(&mut conditions, REPLICA_FAILURE),
    }
    status.conditions = Some(conditions);
    status
}

fn progress(
    deployment: &Deployment,
    status: &DeploymentStatus,
    before: &DeploymentStatus,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> Option<DeploymentCondition> {
    let subject = match new.and_then(|set| set.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet {name:?}"),
        None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    if is_complete(deployment, Some(status)) {
        let message = format!("{subject} has successfully progressed.");
        Some(condition::make(PROGRESSING, "True", condition::DONE, message, now))
    } else if moved(before, status) {
        let message = format!("{subject} is progressing.");
        Some(condition::make(PROGRESSING, "True", "ReplicaSetUpdated", message, now))
    } else if timed_out(deployment, now) {
        let message = format!("{subject} has timed out progressing.");
        Some(condition::make(PROGRESSING, "False", condition::TIMED_OUT, message, now))
    } else {
        None
    }
}

/// Progress renews the update time even when its reason stays, since the deadline counts from there.
fn put_progress(
    conditions: &mut Vec<DeploymentCondition>,
    change: Option<DeploymentCondition>,
    current: Option<DeploymentCondition>,
) {
    let Some(mut change) = change else { return };
    if change.reason.as_deref() == Some("ReplicaSetUpdated") {
        if let Some(current) = current.filter(|current| current.status == "True") {
            change.last_transition_time = current.last_transition_time;
        }
        condition::remove(conditions, PROGRESSING);
    }
    condition::set(conditions, change);
}

fn failure<'a>(
    old: impl Iterator<Item = &'a ReplicaSet>,
    new: Option<&'a ReplicaSet>,
) -> Option<DeploymentCondition> {
    let found = new.into_iter().chain(old).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)
    })?;
    Some(DeploymentCondition {
        type_: REPLICA_FAILURE.to_owned(),
        status: found.status.clone(),
        reason: found.reason.clone(),
        message: found.message.clone(),
        last_update_time: found.last_transition_time.clone(),
        last_transition_time: found.last_transition_time.clone(),
    })
}

/// When to look at the deployment again if nothing changes: at its deadline.
pub fn look_again(deployment: &Deployment, now: Timestamp) -> LookAgain {
    let deadline = deadline(deployment)?;
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    if paused || is_complete(deployment, deployment.status.as_ref()) {
        return None;
    }
    let progress = condition::get(deployment, PROGRESSING)?;
    if matches!(progress.reason.as_deref(), Some(condition::DONE | condition::TIMED_OUT)) {
        return None;
    }
    let spent = clock::since(progress.last_update_time.as_ref()?.0, now);
    Some(deadline.saturating_sub(spent) + Duration::from_secs(1))
}
