//! The store: keys, values and one revision that only grows.
//!
//! Everything that the control plane keeps goes through [`Store`]. Two implementations hold the same promises:
//! [`Embedded`] (one directory, one process) and [`Etcd`] (a cluster). Those promises are
//!
//! - one global revision; every transaction that changes something takes the next one, and all its writes carry it;
//! - [`Store::commit`] answers only after the write is durable;
//! - the revision never goes back, not after `kill -9` and not after a power cut;
//! - a watch sees every change after the revision it names, once and in order, or ends with
//!   [`StoreError::Compacted`]; there is never a gap.
//!
//! Only this crate assigns revisions.

mod embedded;
mod etcd;
mod hub;

pub use embedded::{Embedded, EmbeddedOptions};
pub use etcd::{Etcd, EtcdOptions, EtcdTls};

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;

/// The number of a transaction. The first state of an empty store is revision 1.
pub type Revision = u64;

/// The most writes that one transaction can hold; etcd's default limit is the same.
pub const MAX_WRITES: usize = 128;

/// The longest key in bytes.
pub const MAX_KEY_BYTES: usize = 4096;

/// A key with its newest value, as of the revision of the answer that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, without any prefix of the backend: `pods/default/web-1`.
    pub key: Arc<str>,
    /// The bytes that the last write put.
    pub value: Bytes,
    /// The revision that made the key.
    pub create_revision: Revision,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
}

/// The answer to [`Store::get`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The entry, if the key exists.
    pub entry: Option<Entry>,
    /// The revision of the store at which this was read.
    pub revision: Revision,
}

/// The answer to [`Store::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The entries in the order of their keys.
    pub entries: Vec<Entry>,
    /// The revision at which all of them were read.
    pub revision: Revision,
    /// Whether keys follow after the last entry.
    pub more: bool,
}

/// What must hold for a key when a transaction is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing is asked.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision.
    Revision(Revision),
}

/// One key of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key to write.
    pub key: String,
    /// The condition on the key's present state.
    pub expect: Expect,
    /// The effect.
    pub change: Change,
}

/// The effect of a [`Write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write this value.
    Put(Bytes),
    /// Write this value; the store deletes it (with an event) when the time is over, not before. Whole seconds.
    PutFor(Bytes, Duration),
    /// Remove the key. Removing what is not there changes nothing and makes no event.
    Delete,
    /// Only check the condition.
    Check,
}

impl Write {
    /// A key that must not exist yet.
    pub fn create(key: impl Into<String>, value: Bytes) -> Self {
        Write { key: key.into(), expect: Expect::Absent, change: Change::Put(value) }
    }

    /// A key that must still be as it was at `revision`.
    pub fn update(key: impl Into<String>, revision: Revision, value: Bytes) -> Self {
        Write { key: key.into(), expect: Expect::Revision(revision), change: Change::Put(value) }
    }

    /// Whatever is there is replaced.
    pub fn put(key: impl Into<String>, value: Bytes) -> Self {
        Write { key: key.into(), expect: Expect::Any, change: Change::Put(value) }
    }

    /// Removes the key if the condition holds.
    pub fn delete(key: impl Into<String>, expect: Expect) -> Self {
        Write { key: key.into(), expect, change: Change::Delete }
    }

    /// A condition without an effect.
    pub fn check(key: impl Into<String>, expect: Expect) -> Self {
        Write { key: key.into(), expect, change: Change::Check }
    }

    /// Gives a put a time to live, rounded up to whole seconds.
    #[must_use]
    pub fn lasting(mut self, ttl: Duration) -> Self {
        self.change = match self.change {
            Change::Put(value) | Change::PutFor(value, _) => Change::PutFor(value, ttl),
            other => other,
        };
        self
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Arc<str>,
    /// The revision of the transaction; several events can share it.
    pub revision: Revision,
    /// The revision that made the key; of the removed key for a delete.
    pub create_revision: Revision,
    /// The new value; `None` is a delete.
    pub value: Option<Bytes>,
    /// What the key held before; `None` if it did not exist, or if history no longer knows.
    pub previous: Option<Entry>,
}

/// What a watch yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// The changes of one revision below the watch's prefix, never a part of them.
    Events(Revision, Vec<Arc<Event>>),
    /// Everything up to and including this revision has been yielded.
    Progress(Revision),
}

/// The stream of [`Store::watch`]. It reads on only when polled, so that nothing is queued for a slow reader;
/// one that falls behind what the store keeps ends with [`StoreError::Compacted`]. After an error it ends.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchItem>> + Send>>;

/// Why a request to the store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A condition of the transaction did not hold; nothing was written.
    #[error("key {key:?} is not as expected: {}", describe(.current))]
    Conflict {
        /// The first key (in the order of the transaction) whose condition failed.
        key: String,
        /// What the key holds now.
        current: Option<Box<Entry>>,
    },
    /// The asked revision is older than what is kept.
    #[error("revision {requested} has been compacted, the oldest one kept is {oldest}")]
    Compacted {
        /// The revision that was asked for.
        requested: Revision,
        /// The oldest revision that can be asked for now.
        oldest: Revision,
    },
    /// The asked revision has not happened yet.
    #[error("revision {requested} is in the future, the store is at {current}")]
    Future {
        /// The revision that was asked for.
        requested: Revision,
        /// The newest revision.
        current: Revision,
    },
    /// The transaction breaks a limit or contradicts itself.
    #[error("transaction refused: {0}")]
    Invalid(String),
    /// Another process uses the directory.
    #[error("{path}: in use by another fairlead-server process; stop it, or choose another --data-dir")]
    Locked {
        /// The directory.
        path: String,
    },
    /// The backend cannot be reached or is shutting down; the write, if this was one, may or may not have happened.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The directory's contents cannot be read or written.
    #[error("the store in {path}: {reason}")]
    Storage {
        /// The directory.
        path: String,
        /// What failed.
        reason: String,
    },
}

fn describe(current: &Option<Box<Entry>>) -> String {
    match current {
        Some(entry) => format!("it was last written at revision {}", entry.mod_revision),
        None => "it does not exist".to_owned(),
    }
}

/// The result of a request to the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Keys, values, revisions: see the crate's documentation for what every implementation holds.
pub trait Store: Send + Sync + 'static {
    /// The newest value of `key`.
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Read>>;

    /// Up to `limit` entries (0: all) whose keys start with `prefix` and come after `start_after`, as they were at
    /// revision `at` (now, if `None`).
    ///
    /// # Errors
    /// [`StoreError::Compacted`] and [`StoreError::Future`] for an `at` that is not available.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        start_after: Option<&'a str>,
        limit: usize,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Page>>;

    /// Applies all writes or none. Answers with the revision that they carry, after they are durable; a transaction
    /// that changes nothing answers with the present revision. A key may appear once.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if a condition does not hold; [`StoreError::Unavailable`] leaves the outcome open.
    fn commit(&self, writes: Vec<Write>) -> BoxFuture<'_, Result<Revision>>;

    /// The changes below `prefix` after revision `after` (exclusive), then those to come, with
    /// [`WatchItem::Progress`] whenever the store moved on without touching the prefix, and once at the start.
    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> BoxFuture<'a, Result<WatchStream>>;

    /// The newest revision. With a cluster behind the store this is a linearizable read.
    fn current_revision(&self) -> BoxFuture<'_, Result<Revision>>;

    /// The oldest revision whose state can be listed and after which a watch can start. It grows by compaction.
    fn oldest_revision(&self) -> BoxFuture<'_, Result<Revision>>;

    /// Whether the store could take a write now.
    ///
    /// # Errors
    /// What stands in the way: a full disk, a lost cluster.
    fn check(&self) -> BoxFuture<'_, Result<()>>;

    /// Forgets history before `revision`: lists at older revisions and watches after older revisions end with
    /// [`StoreError::Compacted`]. Values that are still current stay.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<()>>;

    /// The size of what is stored in bytes, for metrics.
    fn size_bytes(&self) -> BoxFuture<'_, Result<u64>>;
}

/// Refuses a transaction that no backend could apply.
fn check_writes(writes: &[Write]) -> Result<()> {
    if writes.len() > MAX_WRITES {
        return Err(StoreError::Invalid(format!("{} writes, the limit is {MAX_WRITES}", writes.len())));
    }
    for (place, write) in writes.iter().enumerate() {
        if write.key.is_empty() || write.key.len() > MAX_KEY_BYTES || write.key.contains('\0') {
            return Err(StoreError::Invalid(format!("{:?} cannot be a key", write.key)));
        }
        if writes[..place].iter().any(|earlier| earlier.key == write.key) {
            return Err(StoreError::Invalid(format!("key {:?} appears twice", write.key)));
        }
    }
    Ok(())
}
