//! A queue of keys: each key is worked on by one worker at a time, is held once however often it is added, and is
//! retried with growing delay when its work fails.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First delay of a failing key; it doubles with each failure.
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// No key waits longer than this for its next try.
const LAST_RETRY: Duration = Duration::from_secs(120);

struct State<T> {
    ready: VecDeque<T>,
    /// Keys that are in `ready`, or were added while a worker holds them.
    dirty: HashSet<T>,
    active: HashSet<T>,
    delayed: BTreeMap<(Instant, u64), T>,
    failures: HashMap<T, u32>,
    serial: u64,
}

struct Inner<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

/// A handle on the queue; clones share it.
pub struct Queue<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<T: Clone + Eq + Hash> Default for Queue<T> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            active: HashSet::new(),
            delayed: BTreeMap::new(),
            failures: HashMap::new(),
            serial: 0,
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), wake: Notify::new() }) }
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, key: T) -> bool {
        if !self.dirty.insert(key.clone()) || self.active.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn release_due(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.add(key);
        }
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    /// Adds a key, unless it waits already.
    pub fn add(&self, key: T) {
        if self.inner.state.lock().add(key) {
            self.inner.wake.notify_one();
        }
    }

    /// Adds every key.
    pub fn add_all(&self, keys: impl IntoIterator<Item = T>) {
        keys.into_iter().for_each(|key| self.add(key));
    }

    /// Adds a key when `delay` has passed.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.inner.state.lock();
        state.serial += 1;
        let at = (Instant::now() + delay, state.serial);
        state.delayed.insert(at, key);
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Adds a key after a failure; returns how often it failed in a row.
    pub fn retry(&self, key: T) -> u32 {
        let failures = {
            let mut state = self.inner.state.lock();
            let count = state.failures.entry(key.clone()).or_insert(0);
            *count = count.saturating_add(1);
            *count
        };
        let delay = FIRST_RETRY.saturating_mul(1 << (failures - 1).min(20)).min(LAST_RETRY);
        self.add_after(key, delay);
        failures
    }

    /// The key worked: its next failure starts with the first delay again.
    pub fn forget(&self, key: &T) {
        self.inner.state.lock().failures.remove(key);
    }

    /// The next key; the caller must hand it back with `done`.
    pub async fn next(&self) -> T {
        loop {
            let woken = self.inner.wake.notified();
            let due = {
                let mut state = self.inner.state.lock();
                state.release_due(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.active.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.inner.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.keys().next().map(|(at, _)| *at)
            };
            match due {
                Some(at) => {
                    tokio::select! {
                        () = woken => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => woken.await,
            }
        }
    }

    /// Ends the work on a key; if it was added meanwhile it becomes ready again.
    pub fn done(&self, key: &T) {
        let mut state = self.inner.state.lock();
        state.active.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.inner.wake.notify_one();
        }
    }

    /// Keys that are ready now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.state.lock().ready.len()
    }

    /// Whether no key is ready now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A step of a controller that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The API refused or could not be reached.
    #[error("{step}")]
    Api {
        /// What was tried.
        step: &'static str,
        /// The API's answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The object cannot be worked on as it is.
    #[error("{0}")]
    Object(String),
}

impl Failure {
    /// Whether somebody else wrote first (the next try reads what they wrote).
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.is_conflict()))
    }

    /// Whether the object of the step does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.is_not_found()))
    }
}

/// Names the step that an API call belongs to.
pub trait Step<T> {
    /// Turns the API's error into a [`Failure`] of that step.
    ///
    /// # Errors
    /// The call's own error.
    fn step(self, step: &'static str) -> Result<T, Failure>;
}

impl<T> Step<T> for Result<T, kube::Error> {
    fn step(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|source| Failure::Api { step, source: Box::new(source) })
    }
}

/// What a controller's work on one key ends with: nothing more to do, or a time to look again.
pub type Outcome = Result<Option<Duration>, Failure>;

/// Works on the queue's keys, `workers` at a time, until `shutdown`.
pub async fn work<T, F, W>(
    name: &'static str,
    queue: &Queue<T>,
    workers: usize,
    shutdown: &CancellationToken,
    sync: F,
) where
    T: Clone + Eq + Hash + Display,
    F: Fn(T) -> W,
    W: Future<Output = Outcome>,
{
    let one = || async {
        loop {
            let key = tokio::select! {
                () = shutdown.cancelled() => return,
                key = queue.next() => key,
            };
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = sync(key.clone()) => outcome,
            };
            queue.done(&key);
            settle(name, queue, key, outcome);
        }
    };
    futures::future::join_all((0..workers).map(|_| one())).await;
}

fn settle<T: Clone + Eq + Hash + Display>(name: &str, queue: &Queue<T>, key: T, outcome: Outcome) {
    match outcome {
        Ok(None) => queue.forget(&key),
        Ok(Some(delay)) => {
            queue.forget(&key);
            queue.add_after(key, delay);
        }
        Err(failure) => {
            let cause = std::error::Error::source(&failure).map(ToString::to_string).unwrap_or_default();
            // Both are answered by the informer: it shows what was written, or that the object is gone.
            if failure.is_conflict() || failure.is_not_found() {
                tracing::debug!(controller = name, %key, %failure, cause, "somebody else wrote first");
            } else {
                tracing::warn!(controller = name, %key, %failure, cause, "trying again");
            }
            queue.retry(key);
        }
    }
}
