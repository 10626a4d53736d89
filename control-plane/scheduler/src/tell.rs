//! What the scheduler writes: bindings, conditions, events, evictions.

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde_json::json;

use crate::model::Placed;

/// Writes for one scheduler.
#[derive(Clone)]
pub struct Teller {
    client: Client,
    recorder: Recorder,
}

impl Teller {
    pub fn new(client: Client, name: &str) -> Teller {
        let reporter = Reporter { controller: name.to_owned(), instance: None };
        Teller { recorder: Recorder::new(client.clone(), reporter), client }
    }

    fn pods(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default())
    }

    /// Binds a pod to a node.
    ///
    /// # Errors
    /// What the API server said: the pod may be gone, or bound already.
    pub async fn bind(&self, pod: &Pod, node: &str) -> Result<(), kube::Error> {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                uid: pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let _: serde_json::Value =
            self.pods(pod).create_subresource("binding", &name, &PostParams::default(), &binding).await?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let note = format!("Successfully assigned {namespace}/{name} to {node}");
        self.event(pod, EventType::Normal, "Scheduled", "Binding", note).await;
        Ok(())
    }

    /// Says on the pod why it has no node.
    pub async fn unschedulable(&self, pod: &Pod, message: &str) {
        self.event(pod, EventType::Warning, "FailedScheduling", "Scheduling", message.to_owned()).await;
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let known =
            |c: &&k8s_openapi::api::core::v1::PodCondition| c.type_ == "PodScheduled" && c.status == "False";
        if conditions.into_iter().filter(known).any(|c| c.message.as_deref() == Some(message)) {
            return;
        }
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "observedGeneration": pod.metadata.generation,
            "lastProbeTime": null, "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        self.patch_status(pod, &json!({"status": {"conditions": [condition]}})).await;
    }

    /// Removes pods so that a more important one finds room, and notes where.
    pub async fn preempt(&self, pod: &Pod, node: &str, victims: &[std::sync::Arc<Placed>]) {
        self.patch_status(pod, &json!({"status": {"nominatedNodeName": node}})).await;
        let by = pod.metadata.uid.as_deref().unwrap_or_default();
        for victim in victims {
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &victim.namespace);
            let message = "default-scheduler: preempting to accommodate a higher priority pod";
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message});
            let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}});
            // A victim that is already gone has made its room.
            let _ = api.patch_status(&victim.name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
            let only = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
            let params = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
            if let Err(error) = api.delete(&victim.name, &params).await {
                tracing::warn!(pod = %victim.name, %error, "preempting failed");
            }
            let subject = ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(victim.namespace.clone()),
                name: Some(victim.name.clone()),
                uid: Some(victim.uid.clone()),
                ..ObjectReference::default()
            };
            let note = format!("Preempted by pod {by} on node {node}");
            self.publish(&subject, EventType::Normal, "Preempted", "Preempting", note).await;
        }
    }

    async fn patch_status(&self, pod: &Pod, patch: &serde_json::Value) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        if let Err(error) =
            self.pods(pod).patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await
        {
            tracing::debug!(pod = name, %error, "the pod's status was not written");
        }
    }

    async fn event(&self, pod: &Pod, kind: EventType, reason: &str, action: &str, note: String) {
        self.publish(&pod.object_ref(&()), kind, reason, action, note).await;
    }

    async fn publish(
        &self,
        subject: &ObjectReference,
        type_: EventType,
        reason: &str,
        action: &str,
        note: String,
    ) {
        let event =
            Event { type_, reason: reason.into(), note: Some(note), action: action.into(), secondary: None };
        // An event that is not recorded must not hold up scheduling.
        if let Err(error) = self.recorder.publish(&event, subject).await {
            tracing::debug!(%error, reason, "event not recorded");
        }
    }
}
