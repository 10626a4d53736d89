//! Taint eviction: pods leave a node with NoExecute taints when they do not tolerate them, or no longer.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint, Toleration};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::event::Recorder;
use crate::informer::{Informer, Key};
use crate::pod::Pod;
use crate::queue::{Outcome, Queue, Step, work};
use crate::toleration::tolerates;
use crate::{Context, clock, disruption, pod};

struct Controller {
    context: Context,
    recorder: Recorder,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        recorder: context.recorder.of("taint-eviction-controller"),
        pods: context.pods(),
        nodes: context.nodes(),
        context: context.clone(),
    });
    let queue: Queue<Key> = Queue::default();
    let (target, pods) = (queue.clone(), controller.pods.clone());
    controller.nodes.on_change(move |change| {
        let Some(node) = change.new else { return };
        if change.old.map(|old| evicting(old)) != Some(evicting(node)) {
            let bound = pods.find(pod::BY_NODE, &node.name_any());
            target.add_all(bound.iter().map(|pod| Key::of(&**pod)));
        }
    });
    let target = queue.clone();
    controller.pods.on_change(move |change| {
        let Some(pod) = change.new else { return };
        let node = pod::node_of(pod);
        if node.is_some() && change.old.and_then(|old| pod::node_of(old)) != node {
            target.add(Key::of(&**pod));
        }
    });
    async move {
        controller.nodes.synced().await;
        controller.pods.synced().await;
        let shutdown = controller.context.shutdown.clone();
        work("eviction", &queue, 4, &shutdown, |key| controller.sync(key)).await;
    }
    .boxed()
}

impl Controller {
    async fn sync(&self, key: Key) -> Outcome {
        let Some(pod) = self.pods.get(&key).filter(|pod| !pod::is_terminating(pod)) else { return Ok(None) };
        let node = pod::node_of(&pod).and_then(|node| self.nodes.get(&Key::new("", node)));
        let Some(node) = node else { return Ok(None) };
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        let now = clock::now();
        match verdict(&evicting(&node), tolerations, now) {
            Verdict::Stay => return Ok(None),
            Verdict::StayFor(time) => return Ok(Some(time)),
            Verdict::Leave => {}
        }
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        self.recorder.normal(&*pod, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let message = "Taint manager: deleting due to NoExecute taint";
        let conditions = disruption::conditions(&pod, "DeletionByTaintManager", message, now);
        disruption::write(&api, &pod, json!({"conditions": conditions})).await?;
        let same = Preconditions { uid: pod.uid(), resource_version: None };
        match api.delete(&key.name, &DeleteParams::default().preconditions(same)).await {
            Ok(_) => Ok(None),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(error).step("delete the pod"),
        }
    }
}

fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stay,
    StayFor(Duration),
    Leave,
}

/// Whether a pod may stay with those taints. The shortest time that a used toleration grants counts, from when its
/// taint was added.
fn verdict(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Verdict {
    let mut shortest: Option<Duration> = None;
    for taint in taints {
        let mut used = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if used.peek().is_none() {
            return Verdict::Leave;
        }
        let granted = used.filter_map(|toleration| toleration.toleration_seconds).min();
        if let Some(seconds) = granted {
            let granted = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            let spent = taint.time_added.as_ref().map(|added| clock::since(added.0, now)).unwrap_or_default();
            let left = granted.saturating_sub(spent);
            shortest = Some(shortest.map_or(left, |known| known.min(left)));
        }
    }
    match shortest {
        None => Verdict::Stay,
        Some(left) if left.is_zero() => Verdict::Leave,
        Some(left) => Verdict::StayFor(left),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[track_caller]
    fn check(tolerations: Value, expected: Verdict) {
        let taints: Vec<Taint> = serde_json::from_value(json!([
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}
        ]))
        .unwrap();
        let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
        assert_eq!(verdict(&taints, &tolerations, "2026-01-01T00:01:40Z".parse().unwrap()), expected);
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates() {
        let key = "node.kubernetes.io/unreachable";
        check(json!([]), Verdict::Leave);
        check(json!([{"operator": "Exists"}]), Verdict::Stay);
        check(
            json!([{"key": key, "operator": "Exists", "tolerationSeconds": 300}]),
            Verdict::StayFor(Duration::from_secs(200)),
        );
        check(json!([{"key": key, "operator": "Exists", "tolerationSeconds": 100}]), Verdict::Leave);
        check(json!([{"key": key, "operator": "Exists", "tolerationSeconds": -1}]), Verdict::Leave);
        check(json!([{"key": "other", "operator": "Exists"}]), Verdict::Leave);
    }
}
