//! What controllers ask about a pod.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use crate::clock;

/// Index of pods by the uid of their controller; pods without one are under `orphan/<namespace>`.
pub const BY_CONTROLLER: &str = "controller";
/// Index of pods by the node they are bound to.
pub const BY_NODE: &str = "node";

/// Takes from a pod what no controller reads.
pub fn strip(pod: &mut Pod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|key, _| key.starts_with("controller.kubernetes.io/"));
    }
    if let Some(spec) = &mut pod.spec {
        // A daemon pod that waits for its node names it here only.
        if spec.node_name.is_some() {
            spec.affinity = None;
        }
        // Of its volumes only the claims matter.
        spec.volumes.iter_mut().for_each(|volumes| {
            volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
        });
        spec.ephemeral_containers = None;
        spec.topology_spread_constraints = None;
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            container.args = None;
            container.command = None;
            container.env = None;
            container.env_from = None;
            container.lifecycle = None;
            container.liveness_probe = None;
            container.readiness_probe = None;
            container.startup_probe = None;
            container.resources = None;
            container.security_context = None;
            container.volume_mounts = None;
        }
    }
    if let Some(status) = &mut pod.status {
        for state in status.container_statuses.iter_mut().chain(&mut status.init_container_statuses).flatten()
        {
            state.last_state = None;
            state.state = None;
            state.volume_mounts = None;
            state.allocated_resources = None;
            state.resources = None;
        }
    }
}

/// Values of [`BY_CONTROLLER`].
#[must_use]
pub fn controller_index(pod: &Pod) -> Vec<String> {
    match crate::owner::controller_of(pod) {
        Some(owner) => vec![owner.uid.clone()],
        None => vec![orphans_of(pod.metadata.namespace.as_deref().unwrap_or_default())],
    }
}

/// The value of [`BY_CONTROLLER`] for the pods of a namespace that nobody controls.
#[must_use]
pub fn orphans_of(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// Values of [`BY_NODE`].
#[must_use]
pub fn node_index(pod: &Pod) -> Vec<String> {
    node_of(pod).map(ToOwned::to_owned).into_iter().collect()
}

/// The node the pod is bound to.
#[must_use]
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// `status.phase`, empty when not reported.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether the pod ended for good.
#[must_use]
pub fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether somebody asked for the pod's deletion.
#[must_use]
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod counts as a replica: neither ended nor being deleted.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// A condition of the pod.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Whether condition `Ready` is True.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// When the pod became ready, if it is.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether the pod has been ready for `min_ready` seconds.
#[must_use]
pub fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    let wanted = Duration::from_secs(u64::try_from(min_ready).unwrap_or_default());
    wanted.is_zero() || ready_since(pod).is_some_and(|since| clock::since(since, now) >= wanted)
}

/// Restarts of the pod's containers; the highest of them.
#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or_default()
}
