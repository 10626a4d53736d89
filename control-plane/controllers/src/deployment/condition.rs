//! Conditions of a deployment and their reasons, as `kubectl rollout` reads them.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};

use crate::clock;

/// The condition types.
pub const PROGRESSING: &str = "Progressing";
pub const AVAILABLE: &str = "Available";
pub const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Reasons that decisions read again later.
pub const DONE: &str = "NewReplicaSetAvailable";
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// A condition as of `now`.
pub fn make(type_: &str, status: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(clock::stamp(now)),
        last_transition_time: Some(clock::stamp(now)),
    }
}

/// The condition of that type.
pub fn get<'a>(deployment: &'a Deployment, type_: &str) -> Option<&'a DeploymentCondition> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Puts a condition in place. One of the same status and reason stays as it is; the transition time moves with the
/// status only.
pub fn set(conditions: &mut Vec<DeploymentCondition>, mut condition: DeploymentCondition) {
    let known = conditions.iter().position(|known| known.type_ == condition.type_);
    if let Some(known) = known.and_then(|index| conditions.get(index)) {
        if known.status == condition.status && known.reason == condition.reason {
            return;
        }
        if known.status == condition.status {
            condition.last_transition_time = known.last_transition_time.clone();
        }
    }
    conditions.retain(|known| known.type_ != condition.type_);
    conditions.push(condition);
}

/// Takes a condition away.
pub fn remove(conditions: &mut Vec<DeploymentCondition>, type_: &str) {
    conditions.retain(|condition| condition.type_ != type_);
}

/// A new ReplicaSet was made.
pub fn created(set: &str, now: Timestamp) -> DeploymentCondition {
    make(PROGRESSING, "True", "NewReplicaSetCreated", format!("Created new replica set {set:?}"), now)
}

/// A new ReplicaSet could not be made.
pub fn failed(message: String, now: Timestamp) -> DeploymentCondition {
    make(PROGRESSING, "False", "FailedCreate", message, now)
}

/// The ReplicaSet of the template was there already: noted when nothing is known about progress yet.
pub fn found(deployment: &Deployment, set: &str, now: Timestamp) -> Option<DeploymentCondition> {
    if get(deployment, PROGRESSING).is_some() {
        return None;
    }
    Some(make(PROGRESSING, "True", "FoundNewReplicaSet", format!("Found new replica set {set:?}"), now))
}

/// The conditions after a pause or its end, when that is not noted yet: a paused deployment never times out.
pub fn pause(deployment: &Deployment, now: Timestamp) -> Option<Vec<DeploymentCondition>> {
    if !super::status::has_deadline(deployment) {
        return None;
    }
    let reason = get(deployment, PROGRESSING).and_then(|condition| condition.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return None;
    }
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
    let change = match (paused, reason == Some(PAUSED)) {
        (true, false) => make(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".to_owned(), now),
        (false, true) => {
            make(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned(), now)
        }
        _ => return None,
    };
    let status = deployment.status.as_ref();
    let mut conditions = status.and_then(|status| status.conditions.clone()).unwrap_or_default();
    set(&mut conditions, change);
    Some(conditions)
}
