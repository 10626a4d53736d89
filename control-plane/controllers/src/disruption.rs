//! Telling a pod why the system takes it away.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodCondition;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::clock;
use crate::pod::Pod;
use crate::queue::{Failure, Step};

const TARGET: &str = "DisruptionTarget";

/// The pod's conditions with `DisruptionTarget` set.
pub fn conditions(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Vec<PodCondition> {
    with(
        pod,
        PodCondition {
            type_: TARGET.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(clock::stamp(now)),
            ..Default::default()
        },
    )
}

/// The pod's conditions with that one put in place.
pub fn with(pod: &Pod, condition: PodCondition) -> Vec<PodCondition> {
    let known = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut all: Vec<_> = known.into_iter().filter(|known| known.type_ != condition.type_).collect();
    all.push(condition);
    all
}

/// Writes `change` to the pod's status, which must be as it was read: the kubelet writes there too.
pub async fn write(api: &Api<Pod>, pod: &Pod, change: Value) -> Result<(), Failure> {
    let meta = json!({"uid": pod.uid(), "resourceVersion": pod.resource_version()});
    let patch = Patch::Merge(json!({"metadata": meta, "status": change}));
    match api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error).step("write the pod's status"),
    }
}
