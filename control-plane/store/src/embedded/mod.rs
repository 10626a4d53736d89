//! The embedded store: one directory, one process, no other program.
//!
//! Writers hand their transactions to one thread. It takes all that wait, checks and numbers them in order, writes
//! them as one batch with one fsync, and answers after that: the more writers, the fewer fsyncs for each. Readers use
//! a snapshot that the writer publishes after the fsync, so that nobody can see what a crash could take back.
//!
//! Three keyspaces hold the data: `current` (key to newest value), `log` (revision to change, with the value before
//! it, for watches and for lists at an older revision) and `expiry` (second to keys that end then). `meta` holds the
//! two revisions.

mod record;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, Readable, Snapshot};
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
    /// The most changes that stay available, however young they are.
    pub history_changes: usize,
    /// The memory for blocks read from disk, in bytes.
    pub cache_bytes: u64,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        EmbeddedOptions { history: Duration::from_secs(300), history_changes: 10_000, cache_bytes: 4 << 20 }
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

const REVISION: &str = "revision";
const COMPACTED: &str = "compacted";
const FORMAT: &str = "format";
const FORMAT_NOW: &[u8] = b"1";

struct Shared {
    path: PathBuf,
    database: Database,
    meta: Keyspace,
    current: Keyspace,
    log: Keyspace,
    expiry: Keyspace,
    /// What readers see: durable, and of one revision.
    view: RwLock<View>,
    index: Mutex<LogIndex>,
    hub: Arc<Hub>,
    options: EmbeddedOptions,
}

#[derive(Clone)]
struct View {
    snapshot: Snapshot,
    revision: Revision,
}

/// Which keys changed when, for the changes in the log.
#[derive(Default)]
struct LogIndex {
    changes: VecDeque<(Revision, u16, Arc<str>)>,
    compacted: Revision,
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
            path: shared.path.display().to_string(),
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
        let failed = |error: fjall::Error| storage_error(path, &error);
        let database = Database::builder(path)
            .cache_size(options.cache_bytes)
            .worker_threads(1)
            .max_journaling_size(64 << 20)
            .manual_journal_persist(true)
            .open()
            .map_err(failed)?;
        let keyspace = |name: &str, memtable: u64| {
            database.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memtable))
        };
        let meta = keyspace("meta", 1 << 20).map_err(failed)?;
        let current = keyspace("current", 8 << 20).map_err(failed)?;
        let log = keyspace("log", 8 << 20).map_err(failed)?;
        let expiry = keyspace("expiry", 1 << 20).map_err(failed)?;
        check_format(path, &meta)?;
        let read = |name: &str| -> Result<Option<Revision>> {
            let bytes = meta.get(name).map_err(failed)?;
            Ok(bytes.and_then(|bytes| record::revision_at(&bytes, 0)))
        };
        let revision = read(REVISION)?.unwrap_or(1);
        let compacted = read(COMPACTED)?.unwrap_or(1);
        let snapshot = database.snapshot();
        let shared = Shared {
            path: path.to_owned(),
            view: RwLock::new(View { snapshot, revision }),
            index: Mutex::new(LogIndex { changes: VecDeque::new(), compacted }),
            hub: Arc::new(Hub::new(revision)),
            database,
            meta,
            current,
            log,
            expiry,
            options,
        };
        shared.load_index()?;
        Ok(shared)
    }

    /// Reads which changes the log holds, and drops those that a crash left behind during compaction.
    fn load_index(&self) -> Result<()> {
        let mut index = self.index.lock();
        let view = self.view();
        let start = record::log_key(index.compacted + 1, 0, "");
        for guard in view.snapshot.range(&self.log, start..) {
            let key = guard.key().map_err(|error| self.error(&error))?;
            let (revision, place, key) =
                record::decode_log_key(&key).map_err(|error| self.damaged(&error))?;
            index.changes.push_back((revision, place, key.into()));
        }
        Ok(())
    }

    fn view(&self) -> View {
        self.view.read().clone()
    }

    fn error(&self, error: &fjall::Error) -> StoreError {
        storage_error(&self.path, error)
    }

    fn damaged(&self, error: &record::Damaged) -> StoreError {
        StoreError::Storage { path: self.path.display().to_string(), reason: error.to_string() }
    }

    fn read_current(&self, snapshot: &Snapshot, key: &str) -> Result<Option<Entry>> {
        let bytes = snapshot.get(&self.current, key).map_err(|error| self.error(&error))?;
        bytes
            .map(|bytes| record::decode_current(key.as_bytes(), &bytes))
            .transpose()
            .map_err(|error| self.damaged(&error))
    }

    fn read_change(&self, snapshot: &Snapshot, revision: Revision, place: u16, key: &str) -> Result<Event> {
        let at = record::log_key(revision, place, key);
        let bytes = snapshot.get(&self.log, at).map_err(|error| self.error(&error))?;
        let bytes = bytes.ok_or_else(|| StoreError::Storage {
            path: self.path.display().to_string(),
            reason: format!("the change of {key:?} at revision {revision} is missing from the log"),
        })?;
        record::decode_change(revision, key, &bytes).map_err(|error| self.damaged(&error))
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize, at: Option<Revision>) -> Result<Page> {
        let view = self.view();
        let revision = at.unwrap_or(view.revision);
        if revision > view.revision {
            return Err(StoreError::Future { requested: revision, current: view.revision });
        }
        let past = self.changed_since(prefix, after, revision, &view)?;
        let start = match after {
            Some(after) if after >= prefix => format!("{after}\0"),
            _ => prefix.to_owned(),
        };
        let now = view.snapshot.range(&self.current, start..);
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
        let start = index.changes.partition_point(|(at, _, _)| *at <= revision);
        for (at, place, key) in index.changes.range(start..) {
            if *at > view.revision {
                break;
            }
            if key.starts_with(prefix) && after.is_none_or(|after| key.as_ref() > after) {
                past.entry(key.clone()).or_insert((*at, *place));
            }
        }
        Ok(past)
    }

    /// The changes after `after` from the log, whole revisions, and up to which revision they are complete.
    fn read_log(&self, after: Revision) -> Result<(Vec<Arc<Event>>, Revision)> {
        let view = self.view();
        let changes: Vec<_> = {
            let index = self.index.lock();
            if after < index.compacted {
                return Err(StoreError::Compacted { requested: after, oldest: index.compacted });
            }
            let start = index.changes.partition_point(|(at, _, _)| *at <= after);
            index.changes.range(start..).take_while(|(at, _, _)| *at <= view.revision).cloned().collect()
        };
        let mut events: Vec<Arc<Event>> = Vec::new();
        let mut bytes = 0;
        for (revision, place, key) in changes {
            let full = events.len() >= STEP_CHANGES || bytes >= STEP_BYTES;
            if let Some(last) = events.last().filter(|last| full && last.revision != revision) {
                let upto = last.revision;
                return Ok((events, upto));
            }
            let event = self.read_change(&view.snapshot, revision, place, &key)?;
            bytes += event.value.as_ref().map_or(0, |value| value.len());
            events.push(Arc::new(event));
        }
        Ok((events, view.revision))
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
            let change = self.shared.read_change(&self.view.snapshot, revision, place, &key)?;
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
            let view = self.shared.view();
            let entry = self.shared.read_current(&view.snapshot, key)?;
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
            let current = self.shared.view().revision;
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
        Box::pin(async move { Ok(self.shared.view().revision) })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.ask(move |answer| writer::Request::Compact { revision, answer }))
    }

    fn size_bytes(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move { self.shared.database.disk_space().map_err(|error| self.shared.error(&error)) })
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Unavailable(error.to_string())),
    }
}

fn check_format(path: &Path, meta: &Keyspace) -> Result<()> {
    let failed = |error: fjall::Error| storage_error(path, &error);
    match meta.get(FORMAT).map_err(failed)? {
        None => meta.insert(FORMAT, FORMAT_NOW).map_err(failed),
        Some(format) if format.as_ref() == FORMAT_NOW => Ok(()),
        Some(format) => Err(StoreError::Storage {
            path: path.display().to_string(),
            reason: format!("its format {:?} is not known to this version", String::from_utf8_lossy(&format)),
        }),
    }
}

fn storage_error(path: &Path, error: &fjall::Error) -> StoreError {
    let path = path.display().to_string();
    match error {
        fjall::Error::Locked => StoreError::Locked { path },
        other => StoreError::Storage { path, reason: other.to_string() },
    }
}
