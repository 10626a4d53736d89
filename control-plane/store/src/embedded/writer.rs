//! The one thread that changes the embedded store.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fjall::{OwnedWriteBatch, PersistMode};
use tokio::sync::{mpsc, oneshot};

use super::engine::{COMPACTED, Engine, REVISION};
use super::{Logged, Shared, View, record};
use crate::{Change, Entry, Event, Expect, Result, Revision, StoreError, Write};

/// The most transactions, and bytes of values, that share one fsync.
const GROUP: usize = 1024;
const GROUP_BYTES: usize = 8 << 20;

/// Keys that one tick removes because their time is over; the rest follow with the next.
const EXPIRE_AT_ONCE: usize = 1000;

const TICK: Duration = Duration::from_millis(500);

/// How precisely the age of history is known.
const MARK_EVERY: Duration = Duration::from_secs(10);

pub(super) enum Request {
    Commit { writes: Vec<Write>, answer: oneshot::Sender<Result<Revision>> },
    Compact { revision: Revision, answer: oneshot::Sender<Result<()>> },
    Tick,
}

/// Wakes the writer for expiry and compaction. Ends with the store.
pub(super) fn start_ticker(requests: mpsc::WeakSender<Request>) -> std::io::Result<()> {
    let run = move || {
        loop {
            std::thread::sleep(TICK);
            let Some(requests) = requests.upgrade() else { return };
            // A full queue means that the writer is awake anyway.
            if let Err(mpsc::error::TrySendError::Closed(_)) = requests.try_send(Request::Tick) {
                return;
            }
        }
    };
    std::thread::Builder::new().name("store-tick".to_owned()).spawn(run).map(drop)
}

pub(super) fn start(shared: Arc<Shared>, queue: mpsc::Receiver<Request>) -> std::io::Result<JoinHandle<()>> {
    let run = move || Writer::new(shared).run(queue);
    std::thread::Builder::new().name("store-write".to_owned()).spawn(run)
}

struct Writer {
    shared: Arc<Shared>,
    revision: Revision,
    /// At these times the store was at these revisions.
    marks: VecDeque<(Instant, Revision)>,
    /// The database; while it is closed, the failure of the write that was the reason.
    engine: Result<Arc<Engine>>,
}

/// Transactions that become durable together.
struct Group {
    batch: OwnedWriteBatch,
    engine: Arc<Engine>,
    /// What the keys of this group hold after its transactions so far.
    pending: HashMap<Arc<str>, Option<Entry>>,
    events: Vec<Arc<Event>>,
    /// The size of each event's change in the log.
    sizes: Vec<u32>,
    answers: Vec<(oneshot::Sender<Result<Revision>>, Result<Revision>)>,
    bytes: usize,
}

impl Writer {
    fn new(shared: Arc<Shared>) -> Self {
        let revision = shared.hub.published();
        let engine = shared.view().map(|view| view.engine);
        Writer { shared, revision, marks: VecDeque::from([(Instant::now(), revision)]), engine }
    }

    fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        while let Some(first) = queue.blocking_recv() {
            match self.engine.clone() {
                Ok(engine) => self.turn(engine, first, &mut queue),
                Err(failure) => self.refuse(first, failure),
            }
        }
    }

    /// Takes what waits, writes it as one group and answers.
    fn turn(&mut self, engine: Arc<Engine>, first: Request, queue: &mut mpsc::Receiver<Request>) {
        let mut group = Group::new(engine);
        let mut next = Some(first);
        let mut compact = None;
        let mut tick = false;
        while let Some(request) = next {
            match request {
                Request::Commit { writes, answer } => {
                    let result = self.apply(&mut group, writes);
                    group.answers.push((answer, result));
                }
                Request::Compact { revision, answer } => {
                    compact = Some((revision, answer));
                    break;
                }
                Request::Tick => tick = true,
            }
            let full = group.answers.len() >= GROUP || group.bytes >= GROUP_BYTES;
            next = if full { None } else { queue.try_recv().ok() };
        }
        if tick {
            self.expire(&mut group);
        }
        self.finish(group);
        if let Some((revision, answer)) = compact {
            // The one who asked may have gone.
            let _gone = answer.send(self.compact(revision));
        }
        if tick && self.engine.is_ok() {
            self.forget();
            self.look_around();
        }
    }

    /// Answers while the database is closed; tries to open it with every tick.
    fn refuse(&mut self, request: Request, failure: StoreError) {
        // The one who asked may have gone.
        match request {
            Request::Commit { answer, .. } => drop(answer.send(Err(failure))),
            Request::Compact { answer, .. } => drop(answer.send(Err(failure))),
            Request::Tick => match self.shared.reopen() {
                Ok(revision) => {
                    tracing::info!(revision, "the store takes writes again");
                    self.revision = revision;
                    self.engine = self.shared.view().map(|view| view.engine);
                }
                // A reader still has the old one open: the next tick will do.
                Err(StoreError::Locked { .. }) => {}
                Err(failure) => self.close(failure),
            },
        }
    }

    /// Finds out about a disk that is about to be full, and about a directory that is gone: what is written to files
    /// that have no name any more would be lost.
    fn look_around(&mut self) {
        if let Err(failure) = self.shared.place.check() {
            tracing::error!(error = %failure, "the store is gone");
            return self.close(failure);
        }
        *self.shared.trouble.lock() = self.shared.place.check_space().err();
    }

    fn close(&mut self, failure: StoreError) {
        self.shared.close(&failure);
        self.engine = Err(failure);
    }

    /// Checks one transaction and adds it to the group, or leaves the group as it was.
    fn apply(&mut self, group: &mut Group, writes: Vec<Write>) -> Result<Revision> {
        let mut before = Vec::with_capacity(writes.len());
        for write in &writes {
            let current = self.holds(group, &write.key)?;
            let as_expected = match write.expect {
                Expect::Any => true,
                Expect::Absent => current.is_none(),
                Expect::Revision(revision) => {
                    current.as_ref().is_some_and(|entry| entry.mod_revision == revision)
                }
            };
            if !as_expected {
                return Err(StoreError::Conflict { key: write.key.clone(), current: current.map(Box::new) });
            }
            before.push(current);
        }
        let revision = self.revision + 1;
        let mut place = 0;
        for (write, previous) in writes.into_iter().zip(before) {
            if self.change(group, write, previous, revision, place) {
                place += 1;
            }
        }
        if place > 0 {
            self.revision = revision;
        }
        Ok(self.revision)
    }

    fn holds(&self, group: &Group, key: &str) -> Result<Option<Entry>> {
        if let Some(entry) = group.pending.get(key) {
            return Ok(entry.clone());
        }
        self.shared.read_current(&self.shared.view()?, key)
    }

    /// Adds one key's change; answers whether there is one.
    fn change(
        &self,
        group: &mut Group,
        write: Write,
        previous: Option<Entry>,
        revision: Revision,
        place: u16,
    ) -> bool {
        let (value, ttl) = match write.change {
            Change::Check => return false,
            Change::Delete if previous.is_none() => return false,
            Change::Delete => (None, None),
            Change::Put(value) => (Some(value), None),
            Change::PutFor(value, ttl) => (Some(value), Some(ttl)),
        };
        let key: Arc<str> = write.key.into();
        let create_revision = previous.as_ref().map_or(revision, |entry| entry.create_revision);
        let engine = &group.engine;
        let entry =
            value.map(|value| Entry { key: key.clone(), value, create_revision, mod_revision: revision });
        match &entry {
            Some(entry) => group.batch.insert(&engine.current, key.as_bytes(), record::encode_current(entry)),
            None => group.batch.remove(&engine.current, key.as_bytes()),
        }
        if let Some(ttl) = ttl {
            let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
            let end = unix_seconds().saturating_add(seconds).saturating_add(1);
            group.batch.insert(&engine.expiry, record::log_key(end, 0, &key), revision.to_be_bytes());
        }
        let value = entry.as_ref().map(|entry| entry.value.clone());
        let event = Event { key: key.clone(), revision, create_revision, value, previous };
        let change = record::encode_change(&event);
        group.bytes += change.len();
        group.sizes.push(u32::try_from(change.len()).unwrap_or(u32::MAX));
        group.batch.insert(&engine.log, record::log_key(revision, place, &key), change);
        group.pending.insert(key, entry);
        group.events.push(Arc::new(event));
        true
    }

    /// Makes the group durable, shows it to readers and watchers, then answers.
    fn finish(&mut self, group: Group) {
        let Group { mut batch, engine, events, sizes, answers, .. } = group;
        let outcome = if batch.is_empty() {
            Ok(())
        } else {
            batch.insert(&engine.meta, REVISION, self.revision.to_be_bytes());
            batch.commit().map_err(|error| self.shared.error(&error))
        };
        if let Err(failure) = &outcome {
            tracing::error!(error = %failure, "a write failed, the store takes no more until it could be opened again");
            self.close(failure.clone());
        } else if !events.is_empty() {
            self.show(engine, events, sizes);
        }
        for (answer, result) in answers {
            // The one who asked may have gone.
            let _gone = answer.send(outcome.clone().and(result));
        }
    }

    fn show(&self, engine: Arc<Engine>, events: Vec<Arc<Event>>, sizes: Vec<u32>) {
        {
            let mut index = self.shared.index.lock();
            let (mut last, mut place) = (0, 0);
            for (event, bytes) in events.iter().zip(sizes) {
                place = if event.revision == last { place + 1 } else { 0 };
                last = event.revision;
                index.push(Logged { revision: last, place, bytes, key: event.key.clone() });
            }
        }
        let view = View { snapshot: engine.database.snapshot(), revision: self.revision, engine };
        *self.shared.view.write() = Ok(view);
        self.shared.hub.publish(self.revision, events);
    }

    /// Deletes keys whose time is over, each in its own transaction.
    fn expire(&mut self, group: &mut Group) {
        let end = record::log_key(unix_seconds(), 0, "");
        let due: Vec<_> = group.engine.expiry.range(..end).take(EXPIRE_AT_ONCE).collect();
        for guard in due {
            if let Err(error) = self.expire_one(group, guard) {
                tracing::error!(%error, "a key whose time is over could not be removed");
            }
        }
    }

    fn expire_one(&mut self, group: &mut Group, guard: fjall::Guard) -> Result<()> {
        let (at, written) = guard.into_inner().map_err(|error| self.shared.error(&error))?;
        let (_, _, key) = record::decode_log_key(&at).map_err(|error| self.shared.damaged(&error))?;
        let written = record::revision_at(&written, 0).unwrap_or(0);
        // A key that was written again since has another end, or none.
        match self.apply(group, vec![Write::delete(key, Expect::Revision(written))]) {
            Ok(_) | Err(StoreError::Conflict { .. }) => group.batch.remove(&group.engine.expiry, at),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Drops history that is too old or too much.
    fn forget(&mut self) {
        if self.marks.back().is_none_or(|(at, _)| at.elapsed() >= MARK_EVERY) {
            self.marks.push_back((Instant::now(), self.revision));
        }
        let mut oldest = 0;
        while let Some((at, revision)) = self.marks.front()
            && at.elapsed() >= self.shared.options.history
        {
            oldest = *revision;
            self.marks.pop_front();
        }
        {
            let index = self.shared.index.lock();
            oldest = oldest.max(index.surplus(&self.shared.options));
            if oldest <= index.compacted {
                return;
            }
        }
        if let Err(error) = self.compact(oldest) {
            tracing::error!(%error, "old changes could not be dropped");
        }
    }

    fn compact(&mut self, revision: Revision) -> Result<()> {
        let engine = self.engine.clone()?;
        if revision > self.revision {
            return Err(StoreError::Future { requested: revision, current: self.revision });
        }
        let dropped = {
            let mut index = self.shared.index.lock();
            if revision <= index.compacted {
                return Err(StoreError::Compacted { requested: revision, oldest: index.compacted });
            }
            index.compact(revision)
        };
        self.shared.hub.forget(revision);
        let mut batch = engine.database.batch().durability(Some(PersistMode::Buffer));
        batch.insert(&engine.meta, COMPACTED, revision.to_be_bytes());
        for Logged { revision, place, key, .. } in dropped {
            batch.remove(&engine.log, record::log_key(revision, place, &key));
        }
        batch.commit().map_err(|error| self.shared.error(&error)).inspect_err(|e| self.close(e.clone()))?;
        let view = View { snapshot: engine.database.snapshot(), revision: self.revision, engine };
        *self.shared.view.write() = Ok(view);
        Ok(())
    }
}

impl Group {
    fn new(engine: Arc<Engine>) -> Self {
        Group {
            batch: engine.database.batch().durability(Some(PersistMode::SyncData)),
            engine,
            pending: HashMap::new(),
            events: Vec::new(),
            sizes: Vec::new(),
            answers: Vec::new(),
            bytes: 0,
        }
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
