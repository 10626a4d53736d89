//! The embedded store: one directory, one process, no other program.
//!
//! Writers hand their transactions to one thread. It takes all that wait, checks and numbers them in order, writes
//! them as one batch with one fsync, and answers after that: the more writers, the fewer fsyncs for each. Readers use
//! a snapshot that the writer publishes after the fsync, so that nobody can see what a crash could take back.
//!
//! Three keyspaces hold the data: `current` (key to newest value), `log` (revision to change, with the value before
//! it, for watches and for lists at an older revision) and `expiry` (second to keys that end then). `meta` holds the
//! two revisions.
//!
//! A write that fails (a full disk, as a rule) leaves open what of it is on disk. The database is closed then, and
//! opened again as soon as there is space: what it holds after that is the truth, and watchers go on from its log.

mod engine;
mod record;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use engine::{COMPACTED, Engine, Place, REVISION};
use fjall::{Readable, Snapshot};
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};

use crate::hub::{History, Hub};
use crate::{
    Entry, Event, Page, Read, Result, Revision, Store, StoreError, WatchStream, Write, check_writes,
};

/// The limits of an [`Embedded`] store.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// How long a change stays available to watches and to lists at older revisions.
    pub history: Duration,
    /// The most changes that stay available, however young they are, and the most bytes of them.
    pub history_changes: usize,
    pub history_bytes: u64,
    /// The memory for blocks read from disk, in bytes.
    pub cache_bytes: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions {
            history: Duration::from_secs(300),
            history_changes: 10_000,
            history_bytes: 32 << 20,
            cache_bytes: 4 << 20,
        }
    }
}

/// A store in a directory of this machine.
pub struct Embedded {
    shared: Arc<Shared>,
    requests: Option<mpsc::Sender<writer::Request>>,
    writer: Option<JoinHandle<()>>,
}

/// Requests that wait for the writer; more writers wait for a place.
const QUEUE: usize = 4096;

/// How much of the log one step of a watcher reads.
const STEP_CHANGES: usize = 256;
const STEP_BYTES: usize = 2 << 20;

struct Shared {
    place: Place,
    /// What readers see: durable, and of one revision. While the database is closed, why it is.
    view: RwLock<Result<View>>,
    /// Why a write would fail now, although the database is open.
    trouble: Mutex<Option<StoreError>>,
    index: Mutex<LogIndex>,
    hub: Arc<Hub>,
    options: EmbeddedOptions,
}

#[derive(Clone)]
struct View {
    snapshot: Snapshot,
    revision: Revision,
    /// Last, so that nothing outlives the database that was taken from it.
    engine: Arc<Engine>,
}

/// A change in the log.
#[derive(Clone)]
struct Logged {
    revision: Revision,
    place: u16,
    bytes: u32,
    key: Arc<str>,
}

/// Which keys changed when, for the changes in the log.
#[derive(Default)]
struct LogIndex {
    changes: VecDeque<Logged>,
    bytes: u64,
    compacted: Revision,
}

impl LogIndex {
    fn push(&mut self, change: Logged) {
        self.bytes += u64::from(change.bytes);
        self.changes.push_back(change);
    }

    /// The place of the first change after `revision`.
    fn after(&self, revision: Revision) -> usize {
        self.changes.partition_point(|change| change.revision <= revision)
    }

    /// Forgets changes up to `revision`, and gives them.
    fn compact(&mut self, revision: Revision) -> Vec<Logged> {
        self.compacted = revision;
        let end = self.after(revision);
        let dropped: Vec<_> = self.changes.drain(..end).collect();
        self.bytes -= dropped.iter().map(|change| u64::from(change.bytes)).sum::<u64>();
        dropped
    }

    /// The newest revision that has to go for the rest to be within the limits.
    fn surplus(&self, options: &EmbeddedOptions) -> Revision {
        let mut count = self.changes.len();
        let mut bytes = self.bytes;
        let mut oldest = 0;
        for change in &self.changes {
            if count <= options.history_changes && bytes <= options.history_bytes {
                break;
            }
            count -= 1;
            bytes -= u64::from(change.bytes);
            oldest = change.revision;
        }
        oldest
    }
}

impl Embedded {
    /// Opens the store in `directory`, which is made if it does not exist. Reads the disk: call it outside of
    /// asynchronous code or accept that it takes some milliseconds.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it open, [`StoreError::Storage`] if it cannot be read.
    pub fn open(directory: impl AsRef<Path>, options: EmbeddedOptions) -> Result<Self> {
        let shared = Arc::new(Shared::open(directory.as_ref(), options)?);
        let (requests, queue) = mpsc::channel(QUEUE);
        let failed = |reason: std::io::Error| StoreError::Storage {
            path: shared.place.to_string(),
            reason: reason.to_string(),
        };
        writer::start_ticker(requests.downgrade()).map_err(failed)?;
        let writer = writer::start(shared.clone(), queue).map_err(failed)?;
        Ok(Embedded { shared, requests: Some(requests), writer: Some(writer) })
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T>>) -> writer::Request) -> Result<T> {
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let (answer, wait) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(closed)?;
        requests.send(make(answer)).await.map_err(|_| closed())?;
        wait.await.map_err(|_| closed())?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer ended in a panic");
        }
        self.shared.hub.fail(StoreError::Unavailable("the store was closed".to_owned()));
    }
}

impl Shared {
    fn open(path: &Path, options: EmbeddedOptions) -> Result<Self> {
        let engine = Engine::open(path, &options)?;
        let place = Place::of(path)?;
        let revision = engine.revision(REVISION)?.unwrap_or(1);
        let shared = Shared {
            view: RwLock::new(Ok(View {
                snapshot: engine.database.snapshot(),
                revision,
                engine: engine.into(),
            })),
            trouble: Mutex::new(None),
            index: Mutex::default(),
            hub: Arc::new(Hub::new(revision)),
            place,
            options,
        };
        shared.load_index(&shared.view()?)?;
        Ok(shared)
    }

    /// Opens the database again after a failure, once nobody holds the old one any more. Answers with its revision.
    fn reopen(&self) -> Result<Revision> {
        self.place.check()?;
        self.place.check_space()?;
        let engine = Engine::open(self.place.path(), &self.options)?;
        let revision = engine.revision(REVISION)?.unwrap_or(1);
        let published = self.hub.published();
        if revision < published {
            let reason = format!("it went back from revision {published} to {revision}");
            return Err(StoreError::Storage { path: self.place.to_string(), reason });
        }
        // What was in doubt is settled by this: the revision that was found is durable.
        engine.write_revision(revision)?;
        let view = View { snapshot: engine.database.snapshot(), revision, engine: engine.into() };
        self.load_index(&view)?;
        *self.view.write() = Ok(view);
        *self.trouble.lock() = None;
        self.hub.restart(revision);
        Ok(revision)
    }

    /// Closes the database: readers and writers get `failure` until it is open again. Watches wait.
    fn close(&self, failure: &StoreError) {
        *self.trouble.lock() = Some(failure.clone());
        *self.view.write() = Err(failure.clone());
    }

    /// Reads which changes the log holds, but for those that a crash left behind during compaction.
    fn load_index(&self, view: &View) -> Result<()> {
        let compacted = view.engine.revision(COMPACTED)?.unwrap_or(1);
        let mut index = LogIndex { compacted, ..LogIndex::default() };
        let start = record::log_key(compacted + 1, 0, "");
        for guard in view.snapshot.range(&view.engine.log, start..) {
            let (key, value) = guard.into_inner().map_err(|error| self.error(&error))?;
            let (revision, place, key) =
                record::decode_log_key(&key).map_err(|error| self.damaged(&error))?;
            let bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
            index.push(Logged { revision, place, bytes, key: key.into() });
        }
        *self.index.lock() = index;
        Ok(())
    }

    fn view(&self) -> Result<View> {
        self.view.read().clone()
    }

    fn error(&self, error: &fjall::Error) -> StoreError {
        engine::storage_error(self.place.path(), error)
    }

    fn damaged(&self, error: &record::Damaged) -> StoreError {
        StoreError::Storage { path: self.place.to_string(), reason: error.to_string() }
    }

    fn read_current(&self, view: &View, key: &str) -> Result<Option<Entry>> {
        let bytes = view.snapshot.get(&view.engine.current, key).map_err(|error| self.error(&error))?;
        bytes
            .map(|bytes| record::decode_current(key.as_bytes(), &bytes))
            .transpose()
            .map_err(|error| self.damaged(&error))
    }

    fn read_change(&self, view: &View, revision: Revision, place: u16, key: &str) -> Result<Event> {
        let at = record::log_key(revision, place, key);
        let bytes = view.snapshot.get(&view.engine.log, at).map_err(|error| self.error(&error))?;
        let bytes = bytes.ok_or_else(|| StoreError::Storage {
            path: self.place.to_string(),
            reason: format!("the change of {key:?} at revision {revision} is missing from the log"),
        })?;
        record::decode_change(revision, key, &bytes).map_err(|error| self.damaged(&error))
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<Revision>) -> Result<Page> {
        let view = self.view()?;
        let revision = at.unwrap_or(view.revision);
        if revision > view.revision {
            return Err(StoreError::Future { requested: revision, current: view.revision });
        }
        let past = self.changed_since(prefix, after, revision, &view)?;
        let start = match after {
            Some(after) if after >= prefix => format!("{after}\0"),
            _ => prefix.to_owned(),
        };
        let now = view.snapshot.range(&view.engine.current, start..);
        let merge = Merge { shared: self, view: &view, now, head: None, past, prefix };
        let mut entries = Vec::new();
        let mut more = false;
        for entry in merge {
            if limit > 0 && entries.len() == limit {
                more = true;
                break;
            }
            entries.push(entry?);
        }
        Ok(Page { entries, revision, more })
    }

    /// For each key below the prefix that changed after `revision`, where the log has what it held then.
    fn changed_since(
        &self,
        prefix: &str,
        after: Option<&str>,
        revision: Revision,
        view: &View,
    ) -> Result<BTreeMap<Arc<str>, (Revision, u16)>> {
        let mut past = BTreeMap::new();
        if revision == view.revision {
            return Ok(past);
        }
        let index = self.index.lock();
        if revision < index.compacted {
            return Err(StoreError::Compacted { requested: revision, oldest: index.compacted });
        }
        for change in index.changes.range(index.after(revision)..) {
            if change.revision > view.revision {
                break;
            }
            if change.key.starts_with(prefix) && after.is_none_or(|after| change.key.as_ref() > after) {
                past.entry(change.key.clone()).or_insert((change.revision, change.place));
            }
        }
        Ok(past)
    }

    /// The changes after `after` from the log, whole revisions, and up to which revision they are complete.
    fn read_log(&self, after: Revision) -> Result<(Vec<Arc<Event>>, Revision)> {
        let view = self.view()?;
        let (changes, upto) = {
            let index = self.index.lock();
            if after < index.compacted {
                return Err(StoreError::Compacted { requested: after, oldest: index.compacted });
            }
            let mut changes: Vec<Logged> = Vec::new();
            let mut upto = view.revision;
            let mut bytes = 0;
            for change in index.changes.range(index.after(after)..) {
                if change.revision > view.revision {
                    break;
                }
                let full = changes.len() >= STEP_CHANGES || bytes >= STEP_BYTES;
                if let Some(last) = changes.last().filter(|last| full && last.revision != change.revision) {
                    upto = last.revision;
                    break;
                }
                bytes += change.bytes as usize;
                changes.push(change.clone());
            }
            (changes, upto)
        };
        let read = |change: Logged| {
            self.read_change(&view, change.revision, change.place, &change.key).map(Arc::new)
        };
        Ok((changes.into_iter().map(read).collect::<Result<_>>()?, upto))
    }
}

/// The state at an older revision: the present one, with the keys that changed since replaced by what they held.
struct Merge<'a> {
    shared: &'a Shared,
    view: &'a View,
    now: fjall::Iter,
    /// The next entry of `now`, once read.
    head: Option<Entry>,
    past: BTreeMap<Arc<str>, (Revision, u16)>,
    prefix: &'a str,
}

impl Merge<'_> {
    fn advance(&mut self) -> Result<()> {
        if self.head.is_some() {
            return Ok(());
        }
        let Some(guard) = self.now.next() else { return Ok(()) };
        let (key, value) = guard.into_inner().map_err(|error| self.shared.error(&error))?;
        if key.starts_with(self.prefix.as_bytes()) {
            let entry = record::decode_current(&key, &value).map_err(|error| self.shared.damaged(&error))?;
            self.head = Some(entry);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Entry>> {
        loop {
            self.advance()?;
            let Some(past) = self.past.first_entry() else { return Ok(self.head.take()) };
            match &self.head {
                Some(head) if head.key < *past.key() => return Ok(self.head.take()),
                Some(head) if head.key == *past.key() => self.head = None,
                _ => {}
            }
            let (key, (revision, place)) = past.remove_entry();
            let change = self.shared.read_change(self.view, revision, place, &key)?;
            if change.previous.is_some() {
                return Ok(change.previous);
            }
        }
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// The log as the hub reads it.
struct Log(Arc<Shared>);

impl History for Log {
    fn read(&self, after: Revision) -> BoxFuture<'_, Result<(Vec<Arc<Event>>, Revision)>> {
        let shared = self.0.clone();
        Box::pin(blocking(move || shared.read_log(after)))
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Read>> {
        Box::pin(async move {
            // A point read is served from memory or one block: cheaper than a change of thread.
            let view = self.shared.view()?;
            let entry = self.shared.read_current(&view, key)?;
            Ok(Read { entry, revision: view.revision })
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Page>> {
        let shared = self.shared.clone();
        let (prefix, after) = (prefix.to_owned(), start_after.map(str::to_owned));
        Box::pin(blocking(move || shared.list(&prefix, after.as_deref(), limit, at)))
    }

    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move {
            check_writes(&writes)?;
            self.ask(|answer| writer::Request::Commit { writes, answer }).await
        })
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> BoxFuture<'a, Result<WatchStream>> {
        Box::pin(async move {
            let current = self.shared.hub.published();
            if after > current {
                return Err(StoreError::Future { requested: after, current });
            }
            let oldest = self.shared.index.lock().compacted;
            if after < oldest {
                return Err(StoreError::Compacted { requested: after, oldest });
            }
            Ok(self.shared.hub.watch(Arc::new(Log(self.shared.clone())), prefix, after))
        })
    }

    fn current_revision(&self) -> BoxFuture<'_, Result<Revision>> {
        // Also while the database is closed: what was in doubt then is not yet part of the store.
        Box::pin(async move { Ok(self.shared.hub.published()) })
    }

    fn oldest_revision(&self) -> BoxFuture<'_, Result<Revision>> {
        Box::pin(async move { Ok(self.shared.index.lock().compacted) })
    }

    fn check(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.shared.trouble.lock().clone().map_or(Ok(()), Err) })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.ask(move |answer| writer::Request::Compact { revision, answer }))
    }

    fn size_bytes(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            self.shared.view()?.engine.database.disk_space().map_err(|error| self.shared.error(&error))
        })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Unavailable(error.to_string())),
    }
}
