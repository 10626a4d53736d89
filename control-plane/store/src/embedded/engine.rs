//! The database of the embedded store, and the place on disk where it lies.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{EmbeddedOptions, record};
use crate::{Result, Revision, StoreError};

/// The names in `meta`.
pub(super) const REVISION: &str = "revision";
pub(super) const COMPACTED: &str = "compacted";
const FORMAT: &str = "format";
const FORMAT_NOW: &[u8] = b"1";

/// With less space than this the largest write may fail.
const SPACE_LEAST: u64 = 2 << 20;

/// An open database.
pub(super) struct Engine {
    pub(super) meta: Keyspace,
    pub(super) current: Keyspace,
    pub(super) log: Keyspace,
    pub(super) expiry: Keyspace,
    path: PathBuf,
    pub(super) database: Database,
}

impl Engine {
    pub(super) fn open(path: &Path, options: &EmbeddedOptions) -> Result<Self> {
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
        let engine = Engine {
            meta: keyspace("meta", 1 << 20).map_err(failed)?,
            current: keyspace("current", 8 << 20).map_err(failed)?,
            log: keyspace("log", 8 << 20).map_err(failed)?,
            expiry: keyspace("expiry", 1 << 20).map_err(failed)?,
            path: path.to_owned(),
            database,
        };
        engine.check_format()?;
        Ok(engine)
    }

    fn check_format(&self) -> Result<()> {
        let failed = |error: fjall::Error| storage_error(&self.path, &error);
        match self.meta.get(FORMAT).map_err(failed)? {
            None => self.meta.insert(FORMAT, FORMAT_NOW).map_err(failed),
            Some(format) if format.as_ref() == FORMAT_NOW => Ok(()),
            Some(format) => Err(StoreError::Storage {
                path: self.path.display().to_string(),
                reason: format!(
                    "its format {:?} is not known to this version",
                    String::from_utf8_lossy(&format)
                ),
            }),
        }
    }

    /// One of the revisions in `meta`.
    pub(super) fn revision(&self, name: &str) -> Result<Option<Revision>> {
        let bytes = self.meta.get(name).map_err(|error| storage_error(&self.path, &error))?;
        Ok(bytes.and_then(|bytes| record::revision_at(&bytes, 0)))
    }

    /// Writes the present revision once more, durably.
    pub(super) fn write_revision(&self, revision: Revision) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.meta, REVISION, revision.to_be_bytes());
        batch.commit().map_err(|error| storage_error(&self.path, &error))
    }
}

/// The directory of a store, as it was when it was opened.
pub(super) struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    pub(super) fn of(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).map_err(|error| lost(path, error.to_string()))?;
        Ok(Place { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the directory is still there.
    pub(super) fn check(&self) -> Result<()> {
        let found = std::fs::metadata(&self.path).map_err(|error| lost(&self.path, error.to_string()))?;
        if (found.dev(), found.ino()) != (self.device, self.inode) {
            return Err(lost(&self.path, "another directory has taken its place".to_owned()));
        }
        Ok(())
    }

    /// Whether there is space for any write.
    pub(super) fn check_space(&self) -> Result<()> {
        let system = rustix::fs::statvfs(&self.path).map_err(|error| lost(&self.path, error.to_string()))?;
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        if free < SPACE_LEAST {
            return Err(lost(&self.path, format!("no space left on the disk ({} KiB are free)", free >> 10)));
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

fn lost(path: &Path, reason: String) -> StoreError {
    StoreError::Storage { path: path.display().to_string(), reason }
}

pub(super) fn storage_error(path: &Path, error: &fjall::Error) -> StoreError {
    let path = path.display().to_string();
    match error {
        fjall::Error::Locked => StoreError::Locked { path },
        other => StoreError::Storage { path, reason: other.to_string() },
    }
}
