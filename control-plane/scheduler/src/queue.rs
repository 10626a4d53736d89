//! Pods that wait for a node: by priority, then by age; those that did not fit wait for a change or for their back-off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A pod that did not fit is tried again after this long even if nothing seems to have changed.
const ANYWAY: Duration = Duration::from_secs(60);

struct Waiting {
    pod: Arc<Pod>,
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
    pods: HashMap<String, Waiting>,
}

impl Queue {
    /// Adds a pod, or takes its newer form; a newer form may fit where the older did not.
    pub fn put(&mut self, uid: String, pod: Arc<Pod>, now: Instant) {
        match self.pods.get_mut(&uid) {
            Some(waiting) => {
                let changed =
                    waiting.pod.spec != pod.spec || waiting.pod.metadata.labels != pod.metadata.labels;
                waiting.pod = pod;
                if changed {
                    waiting.next = now;
                    waiting.parked = false;
                }
            }
            None => {
                self.pods.insert(uid, Waiting { pod, tries: 0, next: now, parked: false, held: false });
            }
        }
    }

    pub fn remove(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// A decision was made: the pod waits for its binding to be seen, or to be reported as failed.
    pub fn hold(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.held = true;
        }
    }

    /// The cluster changed in a way that may make room.
    pub fn wake(&mut self, now: Instant) {
        for waiting in self.pods.values_mut().filter(|w| w.parked) {
            waiting.parked = false;
            waiting.next = waiting.next.min(now + pause(waiting.tries));
        }
    }

    /// Notes that a pod found no node (`parked`) or that its binding failed.
    pub fn failed(&mut self, uid: &str, parked: bool, now: Instant) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.tries = waiting.tries.saturating_add(1);
            waiting.parked = parked;
            waiting.held = false;
            waiting.next = now + if parked { ANYWAY } else { pause(waiting.tries) };
        }
    }

    /// The pod whose turn it is.
    pub fn next(&self, now: Instant) -> Option<(String, Arc<Pod>)> {
        let due = self.pods.iter().filter(|(_, w)| !w.held && w.next <= now);
        let rank = |pod: &Pod| {
            let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
            let born = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
            (std::cmp::Reverse(priority), born, pod.metadata.name.clone())
        };
        let (uid, waiting) = due.min_by_key(|(_, w)| rank(&w.pod))?;
        Some((uid.clone(), waiting.pod.clone()))
    }

    /// When the next pod is due.
    pub fn due(&self) -> Option<Instant> {
        self.pods.values().filter(|w| !w.held).map(|w| w.next).min()
    }
}

fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(5)).min(LONGEST_PAUSE)
}
