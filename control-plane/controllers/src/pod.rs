//! What controllers ask about a pod.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{
    self, Affinity, ContainerPort, PersistentVolumeClaimVolumeSource, PodCondition, PodIP, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

use crate::clock;

/// Index of pods by the uid of their controller; pods without one are under `orphan/<namespace>`.
pub const BY_CONTROLLER: &str = "controller";
/// Index of pods by the node they are bound to.
pub const BY_NODE: &str = "node";

/// A pod as controllers keep it: the fields that one of them reads. Thousands are kept, and the whole type takes five
/// times the memory.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: Option<PodSpec>,
    pub status: Option<PodStatus>,
}

/// What controllers read of a pod's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub hostname: Option<String>,
    pub subdomain: Option<String>,
    /// A daemon pod that waits for its node names it here only.
    pub affinity: Option<Box<Affinity>>,
    pub tolerations: Option<Vec<Toleration>>,
    #[serde(default)]
    pub containers: Vec<Container>,
    pub init_containers: Option<Vec<Container>>,
    pub volumes: Option<Vec<Volume>>,
}

/// What controllers read of a volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    pub ephemeral: Option<Ephemeral>,
}

/// A claim that is made for the pod; its template is no matter of controllers here.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Ephemeral {}

/// What controllers read of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    pub ports: Option<Vec<ContainerPort>>,
    pub restart_policy: Option<String>,
}

/// What controllers read of a pod's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    pub phase: Option<String>,
    pub conditions: Option<Vec<PodCondition>>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIP>>,
    pub container_statuses: Option<Vec<ContainerStatus>>,
}

/// What controllers read of a container's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    #[serde(default)]
    pub restart_count: i32,
}

impl Resource for Pod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        v1::Pod::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        v1::Pod::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        v1::Pod::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        v1::Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Takes from a pod what no controller reads, and the room that reading it left over.
pub fn strip(pod: &mut Pod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|key, _| key.starts_with("controller.kubernetes.io/"));
    }
    pod.metadata.annotations = pod.metadata.annotations.take().filter(|kept| !kept.is_empty());
    fit(&mut pod.metadata.owner_references);
    if let Some(spec) = &mut pod.spec {
        if spec.node_name.is_some() {
            spec.affinity = None;
        }
        // Of its volumes only the claims matter.
        spec.volumes.iter_mut().for_each(|volumes| {
            volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
        });
        spec.volumes = spec.volumes.take().filter(|volumes| !volumes.is_empty());
        fit(&mut spec.volumes);
        fit(&mut spec.tolerations);
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            fit(&mut container.ports);
        }
        spec.containers.shrink_to_fit();
        fit(&mut spec.init_containers);
    }
    if let Some(status) = &mut pod.status {
        fit(&mut status.conditions);
        fit(&mut status.pod_ips);
        fit(&mut status.container_statuses);
    }
}

fn fit<T>(list: &mut Option<Vec<T>>) {
    if let Some(list) = list {
        list.shrink_to_fit();
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
