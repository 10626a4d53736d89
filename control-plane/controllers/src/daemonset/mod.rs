//! DaemonSet: one pod on every node that is asked for.

mod place;
mod revision;
mod rollout;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt};

use crate::Context;
use crate::event::Recorder;
use crate::expectation::Expectations;
use crate::informer::{Change, Informer, Key};
use crate::pod::Pod;
use crate::queue::{Failure, Outcome, Queue, Step, work};
use crate::{clock, owner, pod, replica, selector, write};
use place::Eligible;

const WORKERS: usize = 3;
/// The label that names the revision a pod was made from.
const HASH_LABEL: &str = "controller-revision-hash";

/// The pods of a DaemonSet by the node they are on or meant for.
type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;

struct Controller {
    context: Context,
    recorder: Recorder,
    sets: Informer<DaemonSet>,
    revisions: Informer<ControllerRevision>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    queue: Queue<Key>,
    expectations: Expectations,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        recorder: context.recorder.of("daemonset-controller"),
        sets: context.informers.get(|_| {}),
        revisions: context.informers.get(|_| {}),
        pods: context.pods(),
        nodes: context.nodes(),
        queue: Queue::default(),
        expectations: Expectations::default(),
        context: context.clone(),
    });
    controller.listen();
    async move {
        controller.sets.synced().await;
        controller.revisions.synced().await;
        controller.pods.synced().await;
        controller.nodes.synced().await;
        let queue = controller.queue.clone();
        let shutdown = controller.context.shutdown.clone();
        work("daemonset", &queue, WORKERS, &shutdown, |key| controller.sync(key)).await;
    }
    .boxed()
}

/// What one sync wants done: pods to take away, and nodes to give one.
#[derive(Debug, Default)]
struct Work {
    delete: Vec<Arc<Pod>>,
    create: Vec<String>,
}

impl Controller {
    fn listen(self: &Arc<Self>) {
        let listener = self.clone();
        self.sets.on_change(move |change| {
            let Some(key) = change.latest().map(|set| Key::of(&**set)) else { return };
            if change.new.is_none() {
                listener.expectations.forget(&key);
            }
            listener.queue.add(key);
        });
        let listener = self.clone();
        self.revisions.on_change(move |change| {
            listener.queue.add_all(change.both().filter_map(|revision| owner_key(&**revision)));
        });
        let listener = self.clone();
        self.pods.on_change(move |change| listener.pod_changed(change));
        let listener = self.clone();
        self.nodes.on_change(move |change| {
            let same = change.old.zip(change.new).is_some_and(|(old, new)| place::same(old, new));
            if !same {
                listener.queue.add_all(listener.sets.list().iter().map(|set| Key::of(&**set)));
            }
        });
    }

    fn pod_changed(&self, change: &Change<'_, Pod>) {
        let Some(pod) = change.latest() else { return };
        if let Some(key) = owner_key(&**pod) {
            if change.old.is_none() {
                self.expectations.created(&key, 1);
            }
            if change.new.is_none() || pod::is_terminating(pod) {
                self.expectations.deleted(&key, &pod.uid().unwrap_or_default());
            }
            self.queue.add(key);
        } else if owner::controller_of(&**pod).is_none() && change.new.is_some() {
            for set in self.sets.list_in(&pod.namespace().unwrap_or_default()) {
                let selected = set.spec.as_ref().map(|spec| &spec.selector);
                if selected.is_some_and(|selected| selector::matches(selected, pod.metadata.labels.as_ref()))
                {
                    self.queue.add(Key::of(&*set));
                }
            }
        }
    }

    async fn sync(&self, key: Key) -> Outcome {
        let Some(set) = self.sets.get(&key) else { return Ok(None) };
        let Some(spec) = &set.spec else { return Ok(None) };
        if selector::is_everything(&spec.selector) {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&*set, "SelectingAll", message.to_owned());
            return Ok(None);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let hash = self.current_revision(&set).await?;
        let uid = set.uid().unwrap_or_default();
        let mut candidates = self.pods.find(pod::BY_CONTROLLER, &uid);
        candidates.extend(self.pods.find(pod::BY_CONTROLLER, &pod::orphans_of(&key.namespace)));
        let pods = owner::claim_all(&self.context.client, &*set, &spec.selector, candidates).await?;
        let by_node = place::by_node(&pods);
        let nodes = self.nodes.list();
        let eligible: Vec<(Arc<Node>, Eligible)> =
            nodes.into_iter().map(|node| (node.clone(), place::eligible(&set, &node))).collect();
        let mut failure = None;
        if self.expectations.satisfied(&key, clock::instant()) {
            let mut work = self.missing_and_surplus(&set, &eligible, &by_node);
            if work.delete.is_empty() && work.create.is_empty() {
                work = rollout::next(&set, &hash, &eligible, &by_node, clock::now());
            }
            failure = self.carry_out(&key, &set, &hash, work).await.err();
        }
        let status = status_of(&set, &hash, &eligible, &by_node);
        let api: Api<DaemonSet> = Api::namespaced(self.context.client.clone(), &key.namespace);
        write::status(&api, &*set, set.status.as_ref(), &status).await?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.forget_revisions(&set, &pods).await?;
        let unripe = status.number_available.unwrap_or_default() < status.number_ready;
        let min_ready = u64::try_from(spec.min_ready_seconds.unwrap_or_default()).unwrap_or_default();
        Ok((unripe && min_ready > 0).then(|| Duration::from_secs(min_ready)))
    }

    /// Nodes without their pod, and pods where none should be, or that ended.
    fn missing_and_surplus(
        &self,
        set: &DaemonSet,
        eligible: &[(Arc<Node>, Eligible)],
        by_node: &ByNode,
    ) -> Work {
        let mut work = Work::default();
        let surges = rollout::limits(set, 1).1 > 0;
        for (node, eligible) in eligible {
            let name = node.name_any();
            let pods = by_node.get(&name).map(Vec::as_slice).unwrap_or_default();
            if !eligible.stays {
                work.delete.extend(pods.iter().filter(|pod| !pod::is_terminating(pod)).cloned());
                continue;
            }
            if pods.is_empty() {
                if eligible.runs {
                    work.create.push(name);
                }
                continue;
            }
            let standing = pods.iter().filter(|pod| !pod::is_terminating(pod));
            let (ended, mut running): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
                standing.partition(|pod| pod::is_finished(pod));
            for pod in ended {
                self.tell_ended(set, pod, &name);
                work.delete.push(pod.clone());
            }
            if !surges && running.len() > 1 {
                running.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
                work.delete.extend(running.into_iter().skip(1).cloned());
            }
        }
        // Pods whose node is gone are the pod collector's; those that never got to it are ours.
        for (node, pods) in
            by_node.iter().filter(|(node, _)| !eligible.iter().any(|(known, _)| known.name_any() == **node))
        {
            let unbound = pods.iter().filter(|pod| pod::node_of(pod).is_none() && !pod::is_terminating(pod));
            work.delete.extend(unbound.cloned());
            tracing::debug!(node, "daemon pods of a node that does not exist");
        }
        work
    }

    fn tell_ended(&self, set: &DaemonSet, pod: &Pod, node: &str) {
        let key = Key::of(pod);
        if pod::phase(pod) == "Failed" {
            let message = format!("Found failed daemon pod {key} on node {node}, will try to kill it");
            self.recorder.warning(set, "FailedDaemonPod", message);
        } else {
            let message = format!("Found succeeded daemon pod {key} on node {node}, will try to delete it");
            self.recorder.normal(set, "SucceededDaemonPod", message);
        }
    }

    async fn carry_out(&self, key: &Key, set: &DaemonSet, hash: &str, work: Work) -> Result<(), Failure> {
        if work.delete.is_empty() && work.create.is_empty() {
            return Ok(());
        }
        let client = &self.context.client;
        let deletes = &work.delete[..work.delete.len().min(replica::BURST)];
        let creates = &work.create[..work.create.len().min(replica::BURST)];
        let uids = deletes.iter().map(|pod| pod.uid().unwrap_or_default());
        self.expectations.expect(key, creates.len(), uids, clock::instant());
        let create = |index: usize| async move {
            let Some(node) = creates.get(index) else { return Ok(()) };
            replica::create(client, &self.recorder, set, &place::compose(set, hash, node)).await
        };
        let (created, failed) = replica::slow_start(creates.len(), create).await;
        self.expectations.created(key, creates.len() - created);
        let deletions = deletes.iter().map(|pod| async move {
            let answer = replica::delete(client, &self.recorder, set, pod).await;
            if !matches!(answer, Ok(true)) {
                self.expectations.deleted(key, &pod.uid().unwrap_or_default());
            }
            answer
        });
        let answers = futures::future::join_all(deletions).await;
        if let Some(error) = failed.filter(|error| !replica::is_namespace_terminating(error)) {
            return Err(error).step("create daemon pods");
        }
        answers
            .into_iter()
            .find_map(Result::err)
            .map_or(Ok(()), |error| Err(error).step("delete daemon pods"))
    }
}

fn owner_key<K: kube::Resource>(object: &K) -> Option<Key> {
    let owner = owner::controller_of(object).filter(|owner| owner.kind == "DaemonSet")?;
    Some(Key::new(object.meta().namespace.as_deref().unwrap_or_default(), &owner.name))
}

fn status_of(
    set: &DaemonSet,
    hash: &str,
    eligible: &[(Arc<Node>, Eligible)],
    by_node: &ByNode,
) -> DaemonSetStatus {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    let now = clock::now();
    let (mut desired, mut current, mut misplaced, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
    for (node, eligible) in eligible {
        let pods = by_node.get(&node.name_any()).map(Vec::as_slice).unwrap_or_default();
        if !eligible.runs {
            misplaced += i32::from(!pods.is_empty());
            continue;
        }
        desired += 1;
        // The oldest pod stands for the node; during a surge there is a newer one beside it.
        let oldest = pods.iter().min_by_key(|pod| pod.metadata.creation_timestamp.clone());
        let Some(pod) = oldest else { continue };
        current += 1;
        let is_new = |pod: &Arc<Pod>| pod.labels().get(HASH_LABEL).is_some_and(|known| known == hash);
        ready += i32::from(pod::is_ready(pod));
        available += i32::from(pod::is_available(pod, min_ready, now));
        updated += i32::from(is_new(pod));
    }
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misplaced,
        number_ready: ready,
        number_available: (available != 0).then_some(available),
        number_unavailable: (desired != available).then_some(desired - available),
        updated_number_scheduled: (updated != 0).then_some(updated),
        observed_generation: set.metadata.generation,
        collision_count: set.status.as_ref().and_then(|status| status.collision_count),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    }
}
