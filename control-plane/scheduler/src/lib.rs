//! The scheduler: picks a node for every pod that has none, and binds it there.
//!
//! One task holds the picture of the cluster and decides; writes run beside it. A pod counts on its node from the
//! moment of the decision, and is taken off again if the binding fails.

mod decide;
mod filter;
mod model;
mod preempt;
mod queue;
mod score;
mod selector;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use rand::seq::IndexedRandom;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::decide::{Decision, decide, explain};
use crate::filter::Search;
use crate::model::{Cluster, Placed, placed};
use crate::queue::Queue;
use crate::tell::Teller;

/// Bindings under way at once.
const WRITES: usize = 64;

/// What the scheduler answers to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Pods whose `spec.schedulerName` is this name are scheduled; all others are left alone.
    pub scheduler_name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".to_owned() }
    }
}

/// Why the scheduler could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An empty scheduler name selects nothing.
    #[error("the scheduler needs a name")]
    NoName,
}

/// Schedules pods until `shutdown` is cancelled.
///
/// # Errors
/// Only for options that cannot work; failures of the API are retried for as long as it takes.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    if options.scheduler_name.is_empty() {
        return Err(Error::NoName);
    }
    let (failures, mut failed) = mpsc::channel(WRITES);
    let mut scheduler = Scheduler {
        teller: Teller::new(client.clone(), &options.scheduler_name),
        name: options.scheduler_name,
        cluster: Cluster::default(),
        namespaces: BTreeMap::new(),
        queue: Queue::default(),
        writes: Arc::new(tokio::sync::Semaphore::new(WRITES)),
        failures,
    };
    let mut pods = events::<Pod>(&client);
    let mut nodes = events::<Node>(&client);
    let mut namespaces = events::<Namespace>(&client);
    // No decision is made while one of the three is being listed: a half-known cluster gives wrong answers.
    let mut listed = [false; 3];
    loop {
        let ready = listed == [true; 3];
        let due = scheduler.queue.due().filter(|_| ready);
        let wait = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            Some(event) = namespaces.next() => {
                listed[0] &= !matches!(event, watcher::Event::Init);
                listed[0] |= scheduler.on_namespace(event);
            }
            Some(event) = nodes.next() => {
                listed[1] &= !matches!(event, watcher::Event::Init);
                listed[1] |= scheduler.on_node(event);
            }
            Some(event) = pods.next() => {
                listed[2] &= !matches!(event, watcher::Event::Init);
                listed[2] |= scheduler.on_pod(event);
            }
            Some(uid) = failed.recv() => {
                scheduler.cluster.remove(&uid);
                scheduler.queue.failed(&uid, false, Instant::now());
            }
            () = tokio::time::sleep_until(wait) => scheduler.step().await,
        }
    }
}

type Events<K> = std::pin::Pin<Box<dyn Stream<Item = watcher::Event<K>> + Send>>;

fn events<K>(client: &Client) -> Events<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let stream =
        watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff().into_stream();
    let said = stream.filter_map(|event| async move {
        match event {
            Ok(event) => Some(event),
            Err(error) => {
                tracing::warn!(kind = %K::kind(&()), %error, "watch failed, trying again");
                None
            }
        }
    });
    Box::pin(said)
}

struct Scheduler {
    name: String,
    teller: Teller,
    cluster: Cluster,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    queue: Queue,
    writes: Arc<tokio::sync::Semaphore>,
    /// Uids of pods whose binding failed.
    failures: mpsc::Sender<String>,
}

impl Scheduler {
    /// Takes in an event; true when a list is complete.
    fn on_namespace(&mut self, event: watcher::Event<Namespace>) -> bool {
        match event {
            watcher::Event::Apply(n) | watcher::Event::InitApply(n) => {
                self.namespaces
                    .insert(n.metadata.name.unwrap_or_default(), n.metadata.labels.unwrap_or_default());
            }
            watcher::Event::Delete(n) => {
                self.namespaces.remove(&n.metadata.name.unwrap_or_default());
            }
            watcher::Event::Init => self.namespaces.clear(),
            watcher::Event::InitDone => return true,
        }
        false
    }

    fn on_node(&mut self, event: watcher::Event<Node>) -> bool {
        match event {
            watcher::Event::Apply(node) | watcher::Event::InitApply(node) => {
                let name = node.metadata.name.clone().unwrap_or_default();
                let before =
                    self.cluster.nodes.get(&name).map(|n| {
                        (n.labels.clone(), n.taints.clone(), n.unschedulable, n.allocatable.clone())
                    });
                self.cluster.put_node(&node);
                let after =
                    self.cluster.nodes.get(&name).map(|n| {
                        (n.labels.clone(), n.taints.clone(), n.unschedulable, n.allocatable.clone())
                    });
                if before != after {
                    self.queue.wake(Instant::now());
                }
            }
            watcher::Event::Delete(node) => self.cluster.remove_node(&node.metadata.name.unwrap_or_default()),
            watcher::Event::Init => {
                for name in self.cluster.nodes.keys().cloned().collect::<Vec<_>>() {
                    self.cluster.remove_node(&name);
                }
            }
            watcher::Event::InitDone => return true,
        }
        false
    }

    fn on_pod(&mut self, event: watcher::Event<Pod>) -> bool {
        match event {
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => self.pod_is(pod),
            watcher::Event::Delete(pod) => {
                let uid = pod.metadata.uid.unwrap_or_default();
                self.queue.remove(&uid);
                if self.cluster.remove(&uid) {
                    self.queue.wake(Instant::now());
                }
            }
            watcher::Event::Init => {
                self.cluster.forget_pods();
                self.queue = Queue::default();
            }
            watcher::Event::InitDone => return true,
        }
        false
    }

    fn pod_is(&mut self, mut pod: Pod) {
        pod.metadata.managed_fields = None;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("");
        let now = Instant::now();
        if phase == "Succeeded" || phase == "Failed" {
            self.queue.remove(&uid);
            if self.cluster.remove(&uid) {
                self.queue.wake(now);
            }
            return;
        }
        let spec = pod.spec.as_ref();
        if let Some(node) = spec.and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()) {
            self.queue.remove(&uid);
            self.cluster.place(&node, Arc::new(placed(&pod)));
            return;
        }
        let ours = spec.and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler") == self.name;
        let gated = spec.and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty());
        if ours && !gated && pod.metadata.deletion_timestamp.is_none() {
            // A pod whose binding is under way is not decided twice.
            if !self.cluster.is_placed(&uid) {
                self.queue.put(&uid, &pod, now);
            }
        } else {
            self.queue.remove(&uid);
        }
    }

    /// Decides for the pod whose turn it is.
    async fn step(&mut self) {
        let Some((uid, pod)) = self.queue.next(Instant::now()) else { return };
        let own = Arc::new(placed(&pod));
        let search =
            Search { pod: &pod, placed: &own, nodes: &self.cluster.nodes, namespaces: &self.namespaces };
        match decide(&search) {
            Decision::Fits(best) => {
                let Some(node) = best.choose(&mut rand::rng()).map(|node| node.name.clone()) else { return };
                self.bind(uid, pod, node, own).await;
            }
            Decision::None(refused) => {
                let policy = pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref());
                let never = policy == Some("Never");
                let message = explain(&refused, never);
                let victims = if never { None } else { preempt::find(&search, &refused) };
                self.queue.failed(&uid, true, Instant::now());
                self.refuse(pod, message, victims).await;
            }
        }
    }

    async fn bind(&mut self, uid: String, pod: Arc<Pod>, node: String, own: Arc<Placed>) {
        self.cluster.place(&node, own);
        self.queue.hold(&uid);
        let (teller, failures) = (self.teller.clone(), self.failures.clone());
        let Ok(permit) = self.writes.clone().acquire_owned().await else { return };
        tokio::spawn(async move {
            if let Err(error) = teller.bind(&pod, &node).await {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(pod = name, %node, %error, "binding failed");
                // The receiver is gone only when the scheduler ends.
                let _ = failures.send(uid).await;
            }
            drop(permit);
        });
    }

    async fn refuse(&self, pod: Arc<Pod>, message: String, victims: Option<preempt::Victims>) {
        let teller = self.teller.clone();
        let Ok(permit) = self.writes.clone().acquire_owned().await else { return };
        tokio::spawn(async move {
            teller.unschedulable(&pod, &message).await;
            if let Some(victims) = victims {
                teller.preempt(&pod, &victims.node, &victims.pods).await;
            }
            drop(permit);
        });
    }
}
