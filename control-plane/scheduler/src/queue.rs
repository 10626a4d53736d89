//! Pods that wait for a node: by priority, then by age; those that did not fit wait for a change or for their back-off.
//!
//! Thousands may wait at once, so each is kept as the bytes of its JSON (a tenth of the object's size in memory), and
//! whose turn it is stands in an order that is kept, not looked for.

use std::cmp::Reverse;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A pod that did not fit is tried again after this long even if nothing seems to have changed.
const ANYWAY: Duration = Duration::from_secs(60);

/// The order of turns: greater priority first, then the older pod, then by name.
type Rank = (Reverse<i32>, Option<jiff::Timestamp>, Arc<str>);

struct Waiting {
    /// The pod as JSON.
    pod: Box<[u8]>,
    /// Of what decides where it may go.
    print: u64,
    rank: Rank,
    tries: u32,
    /// Not before this.
    next: Instant,
    /// It did not fit, so only a change of the cluster brings it back early.
    parked: bool,
    /// Its binding is under way.
    held: bool,
}

/// The queue, keyed by uid.
#[derive(Default)]
pub struct Queue {
    pods: HashMap<Arc<str>, Waiting>,
    /// Those whose time has come.
    due: BTreeSet<(Rank, Arc<str>)>,
    /// Those whose time comes.
    later: BTreeSet<(Instant, Arc<str>)>,
    parked: HashSet<Arc<str>>,
}

impl Queue {
    /// Adds a pod, or takes its newer form; a newer form may fit where the older did not.
    pub fn put(&mut self, uid: &str, pod: &Pod, now: Instant) {
        // Types of the API serialize without failing.
        let bytes: Box<[u8]> = serde_json::to_vec(pod).unwrap_or_default().into();
        let (print, rank) = (print(pod), rank(pod));
        let (uid, mut waiting) = match self.take(uid) {
            Some((uid, known)) => (uid, Waiting { pod: bytes, rank, ..known }),
            None => {
                let new =
                    Waiting { pod: bytes, print, rank, tries: 0, next: now, parked: false, held: false };
                (Arc::from(uid), new)
            }
        };
        if waiting.print != print {
            (waiting.print, waiting.next, waiting.parked) = (print, now, false);
        }
        self.place(uid, waiting);
    }

    pub fn remove(&mut self, uid: &str) {
        self.take(uid);
    }

    /// A decision was made: the pod waits for its binding to be seen, or to be reported as failed.
    pub fn hold(&mut self, uid: &str) {
        self.change(uid, |waiting| waiting.held = true);
    }

    /// The cluster changed in a way that may make room.
    pub fn wake(&mut self, now: Instant) {
        for uid in std::mem::take(&mut self.parked) {
            self.change(&uid, |waiting| {
                waiting.parked = false;
                waiting.next = waiting.next.min(now + pause(waiting.tries));
            });
        }
    }

    /// Notes that a pod found no node (`parked`) or that its binding failed.
    pub fn failed(&mut self, uid: &str, parked: bool, now: Instant) {
        self.change(uid, |waiting| {
            waiting.tries = waiting.tries.saturating_add(1);
            waiting.parked = parked;
            waiting.held = false;
            waiting.next = now + if parked { ANYWAY } else { pause(waiting.tries) };
        });
    }

    /// The pod whose turn it is; it stays in the queue.
    pub fn next(&mut self, now: Instant) -> Option<(String, Arc<Pod>)> {
        while let Some((next, uid)) = self.later.first().cloned().filter(|(next, _)| *next <= now) {
            if let Some(waiting) = self.pods.get(&uid) {
                self.due.insert((waiting.rank.clone(), uid.clone()));
            }
            self.later.remove(&(next, uid));
        }
        let (_, uid) = self.due.first().cloned()?;
        match serde_json::from_slice(&self.pods.get(&uid)?.pod) {
            Ok(pod) => Some((uid.to_string(), Arc::new(pod))),
            Err(error) => {
                tracing::error!(%uid, %error, "a waiting pod cannot be read again and is left out");
                self.take(&uid);
                None
            }
        }
    }

    /// When the next pod is due; a moment that has passed when one is due now.
    pub fn due(&self) -> Option<Instant> {
        let first = self.due.first().and_then(|(_, uid)| self.pods.get(uid)).map(|waiting| waiting.next);
        first.or_else(|| self.later.first().map(|(next, _)| *next))
    }

    fn change(&mut self, uid: &str, change: impl FnOnce(&mut Waiting)) {
        if let Some((uid, mut waiting)) = self.take(uid) {
            change(&mut waiting);
            self.place(uid, waiting);
        }
    }

    /// Takes a pod out of everything.
    fn take(&mut self, uid: &str) -> Option<(Arc<str>, Waiting)> {
        let (uid, waiting) = self.pods.remove_entry(uid)?;
        self.later.remove(&(waiting.next, uid.clone()));
        self.due.remove(&(waiting.rank.clone(), uid.clone()));
        self.parked.remove(&uid);
        Some((uid, waiting))
    }

    fn place(&mut self, uid: Arc<str>, waiting: Waiting) {
        if !waiting.held {
            self.later.insert((waiting.next, uid.clone()));
        }
        if waiting.parked {
            self.parked.insert(uid.clone());
        }
        self.pods.insert(uid, waiting);
    }
}

fn rank(pod: &Pod) -> Rank {
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    let born = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (Reverse(priority), born, pod.metadata.name.as_deref().unwrap_or_default().into())
}

/// Two pods that differ in what decides where they may go have different ones.
fn print(pod: &Pod) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(&(&pod.spec, &pod.metadata.labels)).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(5)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, priority: i32) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "uid": name, "labels": {"app": "a"}},
            "spec": {"containers": [], "priority": priority},
        }))
        .expect("a pod")
    }

    fn turn(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.next(now).map(|(uid, _)| uid)
    }

    #[test]
    fn turns_go_by_priority_and_a_pod_that_did_not_fit_waits_for_a_change() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("low", 1), ("high", 9), ("other", 1)] {
            queue.put(name, &pod(name, priority), now);
        }
        assert_eq!(turn(&mut queue, now).as_deref(), Some("high"));
        queue.failed("high", true, now);
        assert_eq!(turn(&mut queue, now).as_deref(), Some("low"));
        queue.hold("low");
        assert_eq!(turn(&mut queue, now).as_deref(), Some("other"));
        queue.remove("other");
        assert_eq!((turn(&mut queue, now), queue.due()), (None, Some(now + ANYWAY)));
        // The same pod with another status stays where it is; with another spec its turn comes.
        queue.put("high", &pod("high", 9), now);
        assert_eq!(turn(&mut queue, now), None);
        queue.wake(now);
        assert_eq!(queue.due(), Some(now + FIRST_PAUSE));
        queue.put("high", &pod("high", 8), now);
        assert_eq!(turn(&mut queue, now).as_deref(), Some("high"));
        // A binding that failed is tried again after a pause.
        queue.failed("low", false, now);
        queue.remove("high");
        assert_eq!((turn(&mut queue, now), queue.due()), (None, Some(now + FIRST_PAUSE)));
        assert_eq!(turn(&mut queue, now + FIRST_PAUSE).as_deref(), Some("low"));
    }
}
