//! Events about this node and its pods, counted as upstream counts them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

use crate::clock;

/// Events that wait to be written; more than that are dropped, and that is logged.
const QUEUE: usize = 256;
/// Events of one object before the rate applies, and seconds for another one after that (upstream's spam filter).
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// How many distinct events are counted instead of repeated.
const REMEMBERED: usize = 1024;

/// Normal or Warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// As expected.
    Normal,
    /// Someone should look.
    Warning,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq)]
struct Notice {
    about: ObjectReference,
    level: Level,
    reason: &'static str,
    message: String,
    when: Timestamp,
}

type Key = (String, String, Level, &'static str, String);

fn key(notice: &Notice) -> Key {
    (
        notice.about.uid.clone().unwrap_or_default(),
        notice.about.field_path.clone().unwrap_or_default(),
        notice.level,
        notice.reason,
        notice.message.clone(),
    )
}

/// A tap for events; cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Notice>,
    node: ObjectReference,
}

/// What names a container in an event.
#[must_use]
pub fn field_path(init: bool, container: &str) -> String {
    let list = if init { "initContainers" } else { "containers" };
    format!("spec.{list}{{{container}}}")
}

impl Recorder {
    /// Starts the task that writes events.
    #[must_use]
    pub fn start(client: Client, node_name: &str) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let writer =
            Writer { client, node: node_name.to_owned(), known: HashMap::new(), budgets: BTreeMap::new() };
        tokio::spawn(writer.run(waiting));
        let node = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node_name.to_owned()),
            // Upstream refers to nodes by name in place of their UID.
            uid: Some(node_name.to_owned()),
            ..Default::default()
        };
        Self { queue, node }
    }

    fn send(&self, about: ObjectReference, level: Level, reason: &'static str, message: String) {
        let notice = Notice { about, level, reason, message, when: clock::now() };
        if let Err(error) = self.queue.try_send(notice) {
            tracing::warn!(reason, %error, "event dropped");
        }
    }

    /// Tells about a pod.
    pub fn pod(&self, pod: &Pod, level: Level, reason: &'static str, message: impl Into<String>) {
        self.send(reference(pod, None), level, reason, message.into());
    }

    /// Tells about a container of a pod; `path` is [`field_path`]'s.
    pub fn container(
        &self,
        pod: &Pod,
        path: String,
        level: Level,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.send(reference(pod, Some(path)), level, reason, message.into());
    }

    /// Tells about the node.
    pub fn node(&self, level: Level, reason: &'static str, message: impl Into<String>) {
        self.send(self.node.clone(), level, reason, message.into());
    }

    /// Uses the node's UID from now on in clones made of this recorder.
    #[must_use]
    pub fn for_node(mut self, node: &Node) -> Self {
        self.node.uid.clone_from(&node.metadata.uid);
        self
    }
}

fn reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

/// Whether an object may speak again, by a token bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Budget {
    tokens: f64,
    filled: Timestamp,
}

impl Budget {
    fn new(now: Timestamp) -> Self {
        Self { tokens: BURST, filled: now }
    }

    fn take(&mut self, now: Timestamp) -> bool {
        self.tokens = (self.tokens + clock::seconds_between(self.filled, now) / REFILL_SECONDS).min(BURST);
        self.filled = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

struct Known {
    namespace: String,
    name: String,
    count: i32,
    last: Timestamp,
}

struct Writer {
    client: Client,
    node: String,
    known: HashMap<Key, Known>,
    budgets: BTreeMap<String, Budget>,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Notice>) {
        while let Some(notice) = waiting.recv().await {
            let owner = notice.about.uid.clone().unwrap_or_default();
            let budget = self.budgets.entry(owner).or_insert_with(|| Budget::new(notice.when));
            if !budget.take(notice.when) {
                continue;
            }
            if let Err(error) = self.write(&notice).await {
                tracing::warn!(reason = notice.reason, %error, "cannot write an event");
            }
            self.forget(notice.when);
        }
    }

    fn forget(&mut self, now: Timestamp) {
        if self.known.len() > REMEMBERED {
            let mut times: Vec<_> = self.known.values().map(|known| known.last).collect();
            times.sort();
            let middle = times.get(times.len() / 2).copied().unwrap_or(now);
            self.known.retain(|_, known| known.last > middle);
        }
        if self.budgets.len() > REMEMBERED {
            self.budgets.retain(|_, budget| clock::seconds_between(budget.filled, now) < REFILL_SECONDS);
        }
    }

    async fn write(&mut self, notice: &Notice) -> Result<(), kube::Error> {
        if let Some(known) = self.known.get_mut(&key(notice)) {
            known.count += 1;
            known.last = notice.when;
            let patch = json!({"count": known.count, "lastTimestamp": Time(notice.when)});
            let api = Api::<Event>::namespaced(self.client.clone(), &known.namespace);
            match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                // It was deleted or has expired: a new one is made.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(|_| ()),
            }
        }
        let event = self.event(notice);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let name = event.metadata.name.clone().unwrap_or_default();
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        for attempt in 0..3 {
            match api.create(&PostParams::default(), &event).await {
                Ok(_) => break,
                // A refusal stays one; an API server that is away may come back.
                Err(error @ kube::Error::Api(_)) => return Err(error),
                Err(error) if attempt == 2 => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_secs(2)).await,
            }
        }
        self.known.insert(key(notice), Known { namespace, name, count: 1, last: notice.when });
        Ok(())
    }

    fn event(&self, notice: &Notice) -> Event {
        let object = notice.about.name.clone().unwrap_or_default();
        let namespace = notice.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{:x}", notice.when.as_nanosecond())),
                namespace: Some(namespace),
                ..Default::default()
            },
            involved_object: notice.about.clone(),
            type_: Some(notice.level.name().to_owned()),
            reason: Some(notice.reason.to_owned()),
            message: Some(notice.message.chars().take(1024).collect()),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node.clone()),
            }),
            first_timestamp: Some(Time(notice.when)),
            last_timestamp: Some(Time(notice.when)),
            count: Some(1),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_speaks_in_bursts_and_then_rarely() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut budget = Budget::new(at(0));
        assert_eq!((0..30).filter(|_| budget.take(at(1))).count(), 25);
        assert!(!budget.take(at(100)));
        assert!(budget.take(at(400)));
        assert!(!budget.take(at(401)));
    }
}
