//! The pods of this node: a watch that hands each pod to its worker, and the search for what nobody owns any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::worker::{Order, Worker};
use crate::clock;
use crate::docker::labels::{self, Owner};
use crate::shared::Shared;

/// How often Docker is searched for what nobody owns.
const ORPHANS: Duration = Duration::from_secs(30);

struct Handle {
    order: watch::Sender<Order>,
    wake: Arc<Notify>,
}

type Workers = Arc<Mutex<HashMap<String, Handle>>>;

/// All workers; cheap to clone.
#[derive(Clone)]
pub struct Manager {
    shared: Arc<Shared>,
    workers: Workers,
}

impl Manager {
    /// No pods yet.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, workers: Arc::default() }
    }

    /// What the workers share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The pods that have a worker.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.workers.lock().values().map(|handle| handle.order.borrow().pod.clone()).collect()
    }

    /// The pod of a name; with several of one name (a replaced one still ending) the newest.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let mut all = self.pods();
        all.retain(|pod| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        });
        all.into_iter().max_by_key(|pod| pod.metadata.creation_timestamp.clone())
    }

    /// Watches until the process ends.
    pub async fn run(self) {
        tokio::spawn(self.clone().listen());
        let mut orphans_started = false;
        let fields = format!("spec.nodeName={}", self.shared.args.node_name);
        let api = Api::<Pod>::all(self.shared.client.clone());
        let events = watcher(api, watcher::Config::default().fields(&fields)).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => seen.clear(),
                Ok(watcher::Event::InitApply(pod)) => {
                    seen.extend(pod.metadata.uid.clone());
                    self.apply(pod, false);
                }
                Ok(watcher::Event::InitDone) => {
                    self.remove_all_but(&seen);
                    if !orphans_started {
                        orphans_started = true;
                        tokio::spawn(self.clone().search_orphans());
                    }
                }
                Ok(watcher::Event::Apply(pod)) => self.apply(pod, false),
                Ok(watcher::Event::Delete(pod)) => self.forget(pod),
                Err(error) => tracing::warn!(%error, "watch of pods failed"),
            }
        }
    }

    fn apply(&self, mut pod: Pod, removed: bool) {
        pod.metadata.managed_fields = None;
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let order = Order { pod: Arc::new(pod), removed };
        let mut workers = self.workers.lock();
        if let Some(handle) = workers.get(&uid) {
            handle.order.send_replace(order);
            return;
        }
        let (sender, receiver) = watch::channel(order);
        let wake = Arc::new(Notify::new());
        let worker = Worker::new(self.shared.clone(), receiver, wake.clone());
        let finished = self.workers.clone();
        workers.insert(uid.clone(), Handle { order: sender, wake });
        tokio::spawn(async move {
            worker.run().await;
            finished.lock().remove(&uid);
        });
    }

    /// A pod whose object is gone; one that no worker has needs none any more.
    fn forget(&self, pod: Pod) {
        let known = pod.metadata.uid.as_ref().is_some_and(|uid| self.workers.lock().contains_key(uid));
        if known {
            self.apply(pod, true);
        }
    }

    /// Pods that a fresh list does not have were deleted while nobody watched.
    fn remove_all_but(&self, seen: &HashSet<String>) {
        for (uid, handle) in self.workers.lock().iter() {
            if !seen.contains(uid) {
                handle.order.send_modify(|order| order.removed = true);
            }
        }
    }

    fn wake(&self, uid: &str) {
        if let Some(handle) = self.workers.lock().get(uid) {
            handle.wake.notify_one();
        }
    }

    /// Follows Docker's events, so that an ended container is seen at once.
    async fn listen(self) {
        let mut since = clock::now();
        loop {
            let mut events = std::pin::pin!(self.shared.engine.events(since));
            while let Some(event) = events.next().await {
                let Ok(event) = event else { break };
                since = clock::now();
                let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
                if let Some(uid) = attributes.get(labels::POD_UID) {
                    self.wake(uid);
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            // Whatever happened meanwhile is found by looking.
            for handle in self.workers.lock().values() {
                handle.wake.notify_one();
            }
        }
    }

    /// Gives workers to what was left by pods that are gone: containers, directories, networks.
    async fn search_orphans(self) {
        loop {
            if let Err(error) = self.find_orphans().await {
                tracing::warn!(%error, "cannot search for orphans");
            }
            tokio::time::sleep(ORPHANS).await;
        }
    }

    async fn find_orphans(&self) -> Result<(), crate::docker::Error> {
        let listed = self.shared.engine.list(None).await?;
        let mut owners: HashMap<String, Owner> =
            listed.iter().map(|entry| (entry.owner.uid.clone(), entry.owner.clone())).collect();
        let directory = self.shared.args.state_dir().join("pods");
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if let Ok(uid) = entry.file_name().into_string() {
                let unnamed = Owner { uid: uid.clone(), namespace: String::new(), name: String::new() };
                owners.entry(uid).or_insert(unnamed);
            }
        }
        let running = listed.iter().filter(|entry| {
            entry.running && entry.labels.get(labels::TYPE).map(String::as_str) == Some(labels::TYPE_SANDBOX)
        });
        self.shared.metrics.running_pods.set(i64::try_from(running.count()).unwrap_or(i64::MAX));
        for (uid, owner) in owners {
            if !self.workers.lock().contains_key(&uid) {
                tracing::info!(%uid, namespace = %owner.namespace, pod = %owner.name, "found what a pod that is gone left");
                self.apply(orphan(owner), true);
            }
        }
        for attachment in self.shared.cni.attachments() {
            let owned = self.workers.lock().contains_key(&attachment.pod_uid);
            if !owned
                && !listed.iter().any(|entry| entry.id == attachment.container_id)
                && let Err(error) = self.shared.cni.del(&attachment.container_id, "").await
            {
                tracing::warn!(sandbox = %attachment.container_id, %error, "cannot detach what is gone");
            }
        }
        Ok(())
    }
}

/// A pod of which only labels are left.
fn orphan(owner: Owner) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(owner.name),
            namespace: Some(owner.namespace),
            uid: Some(owner.uid),
            ..Default::default()
        },
        spec: None,
        status: None,
    }
}
