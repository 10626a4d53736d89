//! Node lifecycle: notices nodes that fell silent, and says so on the node, in taints and on its pods.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::event::Recorder;
use crate::informer::{Informer, Key};
use crate::pod::Pod;
use crate::queue::{Failure, Queue};
use crate::{Context, clock, disruption, pod, write};

const PERIOD: Duration = Duration::from_secs(5);
/// A node that never reported has this long to begin.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// At most one node is given up in this time, so that a mistake of ours does not empty the cluster.
const EVICTION_PAUSE: Duration = Duration::from_secs(10);
const LEASES: &str = "kube-node-lease";

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition and status -> key of the NoSchedule taint that says the same.
const BY_CONDITION: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// Conditions that become Unknown with the node's silence.
const REPORTED: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What was last heard of a node, by our own clock: theirs may be wrong.
struct Health {
    heartbeat: Option<Time>,
    renewed: Option<MicroTime>,
    heard: Instant,
    was_ready: bool,
}

struct Controller {
    context: Context,
    recorder: Recorder,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    changed: Queue<Key>,
    health: HashMap<String, Health>,
    next_eviction: Instant,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let mut controller = Controller {
        recorder: context.recorder.of("node-controller"),
        nodes: context.nodes(),
        leases: Informer::new(|_| {}),
        pods: context.pods(),
        changed: Queue::default(),
        health: HashMap::new(),
        next_eviction: clock::instant(),
        context: context.clone(),
    };
    let queue = controller.changed.clone();
    controller.nodes.on_change(move |change| queue.add_all(change.latest().map(|node| Key::of(&**node))));
    async move {
        let leases = controller.leases.clone();
        let api = Api::namespaced(controller.context.client.clone(), LEASES);
        let follow = leases.follow(api, watcher::Config::default(), controller.context.shutdown.clone());
        futures::join!(follow, controller.run());
    }
    .boxed()
}

impl Controller {
    async fn run(&mut self) {
        self.nodes.synced().await;
        self.leases.synced().await;
        self.pods.synced().await;
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.look_at_all().await,
                key = self.changed.next() => {
                    self.changed.done(&key);
                    match self.nodes.get(&key) {
                        Some(node) => self.look_at(&node).await,
                        None => drop(self.health.remove(&key.name)),
                    }
                }
            }
        }
    }

    async fn look_at_all(&mut self) {
        for node in self.nodes.list() {
            self.look_at(&node).await;
        }
    }

    async fn look_at(&mut self, node: &Node) {
        if let Err(failure) = self.sync(node).await
            && !failure.is_conflict()
            && !failure.is_not_found()
        {
            let cause = std::error::Error::source(&failure).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(node = node.name_any(), %failure, cause, "node not updated");
        }
    }

    async fn sync(&mut self, node: &Node) -> Result<(), Failure> {
        if node.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let name = node.name_any();
        let silent = self.hear(node, &name);
        let api: Api<Node> = Api::all(self.context.client.clone());
        let mut current = node.clone();
        if silent && let Some(conditions) = unknown(node, clock::now()) {
            let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "status": {"conditions": conditions}});
            let patch = kube::api::Patch::Merge(patch);
            let written = api.patch_status(&name, &kube::api::PatchParams::default(), &patch).await;
            current = crate::queue::Step::step(written, "write that the node is silent")?;
        }
        let ready = is_ready(&current);
        let was_ready = self.health.get(&name).is_some_and(|health| health.was_ready);
        if was_ready && !ready {
            let message = format!("Node {name} status is now: NodeNotReady");
            self.recorder.normal(&current, "NodeNotReady", message);
        }
        if !ready && condition(&current, "Ready").is_some() {
            self.unready_pods(&name).await?;
        }
        if let Some(health) = self.health.get_mut(&name) {
            health.was_ready = ready;
        }
        self.taint(&api, &current).await
    }

    /// Notes what the node said since the last look; true when it has been silent for too long.
    fn hear(&mut self, node: &Node, name: &str) -> bool {
        let heartbeat = condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.clone());
        let lease = self.leases.get(&Key::new(LEASES, name));
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let now = clock::instant();
        let never = heartbeat.is_none();
        let health = self.health.entry(name.to_owned()).or_insert_with(|| Health {
            heartbeat: None,
            renewed: None,
            heard: now,
            was_ready: is_ready(node),
        });
        if health.heartbeat != heartbeat || health.renewed != renewed {
            health.heartbeat = heartbeat;
            health.renewed = renewed;
            health.heard = now;
        }
        let grace = if never { STARTUP_GRACE } else { self.context.options.node_monitor_grace };
        now.duration_since(health.heard) > grace
    }

    /// The pods of a node that is not ready serve nobody.
    async fn unready_pods(&self, node: &str) -> Result<(), Failure> {
        for pod in self.pods.find(pod::BY_NODE, node) {
            let Some(ready) = pod::condition(&pod, "Ready").filter(|ready| ready.status == "True") else {
                continue;
            };
            let mut ready = ready.clone();
            ready.status = "False".to_owned();
            ready.last_transition_time = Some(clock::stamp(clock::now()));
            let namespace = pod.namespace().unwrap_or_default();
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &namespace);
            let change = json!({"conditions": disruption::with(&pod, ready)});
            self.recorder.warning(&*pod, "NodeNotReady", "Node is not ready".to_owned());
            disruption::write(&api, &pod, change).await?;
        }
        Ok(())
    }

    async fn taint(&mut self, api: &Api<Node>, node: &Node) -> Result<(), Failure> {
        let known = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        // With every node unready the fault is likely ours or the network's: nobody is evicted then.
        let all_unready = self.nodes.list().iter().all(|node| !is_ready(node));
        let may_evict = !all_unready && clock::instant() >= self.next_eviction;
        let wanted = taints(node, &known, may_evict, all_unready, clock::now());
        if wanted == known {
            return Ok(());
        }
        let evicts = |taints: &[Taint]| taints.iter().any(is_eviction);
        if evicts(&wanted) && !evicts(&known) {
            self.next_eviction = clock::instant() + EVICTION_PAUSE;
        }
        let taints = if wanted.is_empty() { json!(null) } else { json!(wanted) };
        write::guarded(api, node, json!({"spec": {"taints": taints}}), "write the node's taints").await?;
        Ok(())
    }
}

/// A condition of a node.
pub fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Whether condition `Ready` is True.
pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|condition| condition.status == "True")
}

/// The conditions of a node that fell silent; none when they say so already.
fn unknown(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions =
        node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let before = conditions.clone();
    for type_ in REPORTED {
        match conditions.iter_mut().find(|condition| condition.type_ == *type_) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(clock::stamp(now));
            }
            None => conditions.push(NodeCondition {
                type_: (*type_).to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(clock::stamp(now)),
            }),
        }
    }
    (conditions != before).then_some(conditions)
}

fn is_eviction(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

/// The taints a node should have. Those that are not this controller's stay as they are, and so does the time of
/// those that were there before.
fn taints(node: &Node, known: &[Taint], may_evict: bool, all_unready: bool, now: Timestamp) -> Vec<Taint> {
    let status_of = |type_: &str| condition(node, type_).map(|condition| condition.status.as_str());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (type_, status, key) in BY_CONDITION {
        if status_of(type_) == Some(status) {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if status_of("Ready").is_none() {
        // It registered and has not reported yet: nothing is known against or for it.
        wanted.extend(
            known
                .iter()
                .filter(|taint| taint.key == NOT_READY)
                .map(|taint| (NOT_READY, taint.effect.as_str())),
        );
    }
    let silent = match status_of("Ready") {
        Some("False") => Some(NOT_READY),
        Some("True") | None => None,
        Some(_) => Some(UNREACHABLE),
    };
    let evicted = known.iter().any(is_eviction);
    if let Some(key) = silent.filter(|_| !all_unready && (may_evict || evicted)) {
        wanted.push((key, "NoExecute"));
    }
    let ours = |taint: &Taint| {
        is_eviction(taint)
            || (taint.effect == "NoSchedule"
                && (taint.key == UNSCHEDULABLE || BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key)))
    };
    let mut result: Vec<Taint> = known
        .iter()
        .filter(|taint| !ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !result.iter().any(|taint| taint.key == key && taint.effect == effect) {
            result.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(clock::stamp(now)),
            });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    #[track_caller]
    fn check(spec: Value, conditions: &[(&str, &str)], may_evict: bool, expected: &[(&str, &str)]) {
        let conditions: Vec<_> =
            conditions.iter().map(|(type_, status)| json!({"type": type_, "status": status})).collect();
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": conditions}}),
        )
        .unwrap();
        let known = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let taints = taints(&node, &known, may_evict, false, NOW.parse().unwrap());
        let found: Vec<_> = taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn taints_follow_the_conditions() {
        let mine = json!({"taints": [{"key": "mine", "effect": "NoSchedule"}]});
        check(mine.clone(), &[("Ready", "True")], true, &[("mine", "NoSchedule")]);
        let both = [("mine", "NoSchedule"), (NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")];
        check(mine, &[("Ready", "False")], true, &both);
        check(json!({}), &[("Ready", "False")], false, &[(NOT_READY, "NoSchedule")]);
        let unreachable = [(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")];
        check(json!({}), &[("Ready", "Unknown")], true, &unreachable);
        let cordoned = json!({"unschedulable": true});
        check(cordoned, &[("Ready", "True")], true, &[(UNSCHEDULABLE, "NoSchedule")]);
        let pressed = [("node.kubernetes.io/memory-pressure", "NoSchedule")];
        check(json!({}), &[("Ready", "True"), ("MemoryPressure", "True")], true, &pressed);
        let tainted = json!({"taints": [
            {"key": UNREACHABLE, "effect": "NoExecute"}, {"key": UNREACHABLE, "effect": "NoSchedule"}]});
        check(tainted.clone(), &[("Ready", "True")], true, &[]);
        // A node that is evicted already stays so when it changes from silent to not ready.
        check(tainted, &[("Ready", "False")], false, &[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]);
        let fresh = json!({"taints": [{"key": NOT_READY, "effect": "NoSchedule"}]});
        check(fresh, &[], true, &[(NOT_READY, "NoSchedule")]);
    }

    #[test]
    fn a_silent_node_is_unknown_once() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"conditions": [
            {"type": "Ready", "status": "True"}]}}))
        .unwrap();
        let conditions = unknown(&node, NOW.parse().unwrap()).unwrap();
        assert_eq!(conditions.len(), REPORTED.len());
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        let mut silent = node;
        silent.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(unknown(&silent, NOW.parse().unwrap()), None);
    }
}
