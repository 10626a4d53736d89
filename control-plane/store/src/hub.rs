//! The newest events, shared by all watchers of a backend.
//!
//! A watcher owns no queue: it holds a position and reads from the ring, or from the backend's history when the ring
//! has moved on. So a slow watcher costs nothing, and cannot hold back another.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Event, Result, Revision, StoreError, WatchItem, WatchStream};

/// The most that the ring holds: enough for watchers that read on as events come, history has the rest.
const RING_EVENTS: usize = 4096;
const RING_BYTES: usize = 1 << 20;

/// The most events that one step of a watcher takes from the ring; more follow in the next step.
const STEP_EVENTS: usize = 512;

/// Events that the ring no longer holds.
pub(crate) trait History: Send + Sync + 'static {
    /// Events after `after`, whole revisions only, at least one; and the revision up to which they are complete.
    fn read(&self, after: Revision) -> BoxFuture<'_, Result<(Vec<Arc<Event>>, Revision)>>;
}

struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Every event after this revision, up to `published`, is in the ring.
    floor: Revision,
    published: Revision,
    failure: Option<StoreError>,
}

/// The ring and the signal that it grew.
pub(crate) struct Hub {
    ring: Mutex<Ring>,
    signal: watch::Sender<Revision>,
}

enum Step {
    /// The events after the position, complete up to this revision.
    Events(Vec<Arc<Event>>, Revision),
    /// The ring does not reach back to the position.
    Behind,
}

impl Hub {
    pub(crate) fn new(revision: Revision) -> Self {
        let ring =
            Ring { events: VecDeque::new(), bytes: 0, floor: revision, published: revision, failure: None };
        Hub { ring: Mutex::new(ring), signal: watch::Sender::new(revision) }
    }

    pub(crate) fn published(&self) -> Revision {
        self.ring.lock().published
    }

    /// Adds the events of revisions up to `revision`, in order. What was published before is ignored.
    pub(crate) fn publish(&self, revision: Revision, events: Vec<Arc<Event>>) {
        {
            let mut ring = self.ring.lock();
            if revision <= ring.published {
                return;
            }
            let before = ring.published;
            for event in events.into_iter().filter(|event| event.revision > before) {
                ring.bytes += weight(&event);
                ring.events.push_back(event);
            }
            ring.published = revision;
            ring.trim();
        }
        self.signal.send_replace(revision);
    }

    /// Forgets events up to `revision`, so that a watcher behind it learns that history is gone.
    pub(crate) fn forget(&self, revision: Revision) {
        let mut ring = self.ring.lock();
        ring.floor = ring.floor.max(revision);
        ring.trim();
    }

    /// Starts again at `revision` after events were lost: older watchers turn to history, which knows whether
    /// they can go on.
    pub(crate) fn restart(&self, revision: Revision) {
        {
            let mut ring = self.ring.lock();
            ring.events.clear();
            ring.bytes = 0;
            ring.floor = revision;
            ring.published = ring.published.max(revision);
        }
        self.signal.send_replace(revision);
    }

    /// Ends every watch with `failure`, now and later.
    pub(crate) fn fail(&self, failure: StoreError) {
        let published = {
            let mut ring = self.ring.lock();
            ring.failure.get_or_insert(failure);
            ring.published
        };
        self.signal.send_replace(published);
    }

    fn step(&self, after: Revision) -> Result<Step> {
        let ring = self.ring.lock();
        if let Some(failure) = &ring.failure {
            return Err(failure.clone());
        }
        if after < ring.floor {
            return Ok(Step::Behind);
        }
        let start = ring.events.partition_point(|event| event.revision <= after);
        let mut end = ring.events.len().min(start + STEP_EVENTS);
        // A revision is never cut in two.
        while end > start
            && end < ring.events.len()
            && ring.events[end].revision == ring.events[end - 1].revision
        {
            end += 1;
        }
        let upto = match ring.events.get(end.wrapping_sub(1)) {
            Some(last) if end < ring.events.len() => last.revision,
            _ => ring.published.max(after),
        };
        Ok(Step::Events(ring.events.range(start..end).cloned().collect(), upto))
    }

    /// A watcher of `prefix` that starts after `after`.
    pub(crate) fn watch(
        self: &Arc<Self>,
        history: Arc<dyn History>,
        prefix: &str,
        after: Revision,
    ) -> WatchStream {
        let watcher = Watcher {
            signal: self.signal.subscribe(),
            hub: self.clone(),
            history,
            prefix: prefix.to_owned(),
            position: after,
            pending: VecDeque::new(),
            announced: false,
            ended: false,
        };
        Box::pin(futures::stream::unfold(watcher, |mut watcher| async move {
            let item = watcher.next().await?;
            watcher.ended = item.is_err();
            Some((item, watcher))
        }))
    }
}

impl Ring {
    fn trim(&mut self) {
        while self.events.len() > RING_EVENTS || self.bytes > RING_BYTES {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= weight(&oldest);
            self.floor = oldest.revision;
        }
        // The floor's revision may have more events: without its first one it is of no use.
        while self.events.front().is_some_and(|event| event.revision <= self.floor) {
            if let Some(rest) = self.events.pop_front() {
                self.bytes -= weight(&rest);
            }
        }
    }
}

fn weight(event: &Event) -> usize {
    let previous = event.previous.as_ref().map_or(0, |entry| entry.value.len());
    event.key.len() + event.value.as_ref().map_or(0, |value| value.len()) + previous + size_of::<Event>()
}

struct Watcher {
    hub: Arc<Hub>,
    history: Arc<dyn History>,
    signal: watch::Receiver<Revision>,
    prefix: String,
    position: Revision,
    pending: VecDeque<WatchItem>,
    announced: bool,
    ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<WatchItem>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(item) = self.pending.pop_front() {
                return Some(Ok(item));
            }
            self.signal.borrow_and_update();
            let (events, upto) = match self.hub.step(self.position) {
                Err(failure) => return Some(Err(failure)),
                Ok(Step::Events(events, upto)) => (events, upto),
                Ok(Step::Behind) => match self.history.read(self.position).await {
                    Ok(found) => found,
                    Err(failure) => return Some(Err(failure)),
                },
            };
            if upto > self.position || !self.announced {
                self.take(events, upto);
                continue;
            }
            if self.signal.changed().await.is_err() {
                return Some(Err(StoreError::Unavailable("the store was closed".to_owned())));
            }
        }
    }

    /// Moves to `upto`, keeping what lies below the prefix, one item for each revision.
    fn take(&mut self, events: Vec<Arc<Event>>, upto: Revision) {
        let mut last = 0;
        for event in events {
            if event.revision <= self.position || !event.key.starts_with(&self.prefix) {
                continue;
            }
            let revision = event.revision;
            match self.pending.back_mut() {
                Some(WatchItem::Events(of, group)) if *of == revision => group.push(event),
                _ => self.pending.push_back(WatchItem::Events(revision, vec![event])),
            }
            last = revision;
        }
        self.position = upto.max(self.position);
        self.announced = true;
        if last < self.position {
            self.pending.push_back(WatchItem::Progress(self.position));
        }
    }
}
