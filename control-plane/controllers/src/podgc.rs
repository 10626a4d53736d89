//! Pod garbage collection: pods that nobody will ever finish.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use crate::informer::Informer;
use crate::pod::Pod;
use crate::queue::{Failure, Step};
use crate::{Context, clock, disruption, pod};

const PERIOD: Duration = Duration::from_secs(20);
/// A node must be missing this long before its pods are taken for lost.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods beyond this number are removed, oldest first.
const ENDED_LIMIT: usize = 12_500;
/// The taint by which an administrator says that a node is switched off for certain.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    missing: Mutex<HashMap<String, Instant>>,
}

/// Why a pod is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// It ended, and there are too many such.
    Ended,
    /// Its node is gone.
    Orphaned,
    /// It is being deleted and was never given a node.
    Unscheduled,
    /// It is being deleted on a node that is out of service.
    OutOfService,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Controller {
        pods: context.pods(),
        nodes: context.nodes(),
        missing: Mutex::default(),
        context: context.clone(),
    };
    async move {
        controller.pods.synced().await;
        controller.nodes.synced().await;
        loop {
            tokio::time::sleep(PERIOD).await;
            controller.collect().await;
        }
    }
    .boxed()
}

impl Controller {
    async fn collect(&self) {
        let pods = self.pods.list();
        let lost = self.lost_nodes(&pods).await;
        let nodes: HashMap<String, Arc<Node>> =
            self.nodes.list().into_iter().map(|node| (node.name_any(), node)).collect();
        for (pod, reason) in doomed(&pods, &lost, &nodes) {
            if let Err(failure) = self.remove(&pod, reason).await {
                tracing::warn!(pod = pod.name_any(), ?reason, %failure, "pod not collected");
            }
        }
    }

    /// Nodes that pods name, that have been missing for the whole quarantine, and that the API does not know.
    async fn lost_nodes(&self, pods: &[Arc<Pod>]) -> Vec<String> {
        let now = clock::instant();
        let due: Vec<String> = {
            let mut missing = self.missing.lock();
            let named = pods.iter().filter_map(|pod| pod::node_of(pod));
            let gone: std::collections::HashSet<&str> =
                named.filter(|node| self.nodes.get(&crate::informer::Key::new("", node)).is_none()).collect();
            missing.retain(|node, _| gone.contains(node.as_str()));
            for node in gone {
                missing.entry(node.to_owned()).or_insert(now);
            }
            let old = missing.iter().filter(|(_, since)| now.duration_since(**since) >= QUARANTINE);
            old.map(|(node, _)| node.clone()).collect()
        };
        let api: Api<Node> = Api::all(self.context.client.clone());
        let mut lost = Vec::new();
        for node in due {
            if matches!(api.get_metadata_opt(&node).await, Ok(None)) {
                lost.push(node);
            }
        }
        lost
    }

    async fn remove(&self, pod: &Pod, reason: Reason) -> Result<(), Failure> {
        let api: Api<Pod> =
            Api::namespaced(self.context.client.clone(), &pod.namespace().unwrap_or_default());
        let message = match reason {
            Reason::Orphaned => Some("PodGC: node no longer exists"),
            Reason::OutOfService => Some("PodGC: node is out of service"),
            Reason::Ended | Reason::Unscheduled => None,
        };
        if !pod::is_finished(pod) {
            let mut change = json!({"phase": "Failed"});
            if let Some(message) = message {
                let conditions = disruption::conditions(pod, "DeletionByPodGC", message, clock::now());
                change["conditions"] = json!(conditions);
            }
            disruption::write(&api, pod, change).await?;
        }
        let same = Preconditions { uid: pod.uid(), resource_version: None };
        let now = DeleteParams::default().grace_period(0).preconditions(same);
        match api.delete(&pod.name_any(), &now).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
            Err(error) => Err(error).step("delete the pod"),
        }
    }
}

fn doomed(pods: &[Arc<Pod>], lost: &[String], nodes: &HashMap<String, Arc<Node>>) -> Vec<(Arc<Pod>, Reason)> {
    let mut found = Vec::new();
    let mut ended: Vec<&Arc<Pod>> = Vec::new();
    for pod in pods {
        match pod::node_of(pod) {
            None if pod::is_terminating(pod) => found.push((pod.clone(), Reason::Unscheduled)),
            Some(node) if lost.iter().any(|lost| lost == node) => found.push((pod.clone(), Reason::Orphaned)),
            Some(node) if pod::is_terminating(pod) && nodes.get(node).is_some_and(|node| is_off(node)) => {
                found.push((pod.clone(), Reason::OutOfService));
            }
            _ if pod::is_finished(pod) && !pod::is_terminating(pod) => ended.push(pod),
            _ => {}
        }
    }
    ended.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    let surplus = ended.len().saturating_sub(ENDED_LIMIT);
    found.extend(ended.into_iter().take(surplus).map(|pod| (pod.clone(), Reason::Ended)));
    found
}

fn is_off(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let tainted = taints.into_iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE);
    tainted && !crate::nodelifecycle::is_ready(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pod: serde_json::Value, expected: Option<Reason>) {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let node = json!({"metadata": {"name": "off"}, "spec": {"taints": [
            {"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}});
        let nodes = HashMap::from([("off".to_owned(), Arc::new(serde_json::from_value(node).unwrap()))]);
        let found = doomed(&[Arc::new(pod)], &["lost".to_owned()], &nodes);
        assert_eq!(found.first().map(|(_, reason)| *reason), expected);
    }

    #[test]
    fn pods_that_nobody_can_finish_are_found() {
        let spec = |node: &str| json!({"containers": [], "nodeName": node});
        let leaving = json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        check(json!({"metadata": {"name": "a"}, "spec": spec("lost")}), Some(Reason::Orphaned));
        check(json!({"metadata": {"name": "a"}, "spec": spec("here")}), None);
        check(json!({"metadata": leaving, "spec": {"containers": []}}), Some(Reason::Unscheduled));
        check(json!({"metadata": leaving, "spec": spec("here")}), None);
        check(json!({"metadata": leaving, "spec": spec("off")}), Some(Reason::OutOfService));
        check(json!({"metadata": {"name": "a"}, "spec": spec("off")}), None);
    }
}
