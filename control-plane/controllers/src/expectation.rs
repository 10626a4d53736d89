//! What a controller wrote and its informer has not shown yet.
//!
//! Without this a controller that reads its cache right after a write would create or delete a second time.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::informer::Key;

/// After this long the cache is believed again: the awaited event was lost.
const PATIENCE: Duration = Duration::from_secs(300);

struct Entry {
    creations: usize,
    deletions: HashSet<String>,
    since: Instant,
}

/// Outstanding creations and deletions by owner.
#[derive(Default)]
pub struct Expectations {
    entries: Mutex<HashMap<Key, Entry>>,
}

impl Expectations {
    /// Whether the cache shows everything that was written for `owner`.
    #[must_use]
    pub fn satisfied(&self, owner: &Key, now: Instant) -> bool {
        self.entries.lock().get(owner).is_none_or(|entry| {
            (entry.creations == 0 && entry.deletions.is_empty()) || now.duration_since(entry.since) > PATIENCE
        })
    }

    /// `count` creations and the deletion of the objects with `uids` are about to be written.
    pub fn expect(&self, owner: &Key, count: usize, uids: impl IntoIterator<Item = String>, now: Instant) {
        let entry = Entry { creations: count, deletions: uids.into_iter().collect(), since: now };
        self.entries.lock().insert(owner.clone(), entry);
    }

    /// `count` creations were seen, or failed.
    pub fn created(&self, owner: &Key, count: usize) {
        if let Some(entry) = self.entries.lock().get_mut(owner) {
            entry.creations = entry.creations.saturating_sub(count);
        }
    }

    /// A deletion was seen, or failed.
    pub fn deleted(&self, owner: &Key, uid: &str) {
        if let Some(entry) = self.entries.lock().get_mut(owner) {
            entry.deletions.remove(uid);
        }
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &Key) {
        self.entries.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_outstanding_until_each_was_seen() {
        let (owner, now) = (Key::new("default", "web"), Instant::now());
        let expectations = Expectations::default();
        assert!(expectations.satisfied(&owner, now));
        expectations.expect(&owner, 2, ["a".to_owned()], now);
        expectations.created(&owner, 1);
        expectations.deleted(&owner, "b");
        expectations.deleted(&owner, "a");
        assert!(!expectations.satisfied(&owner, now));
        expectations.created(&owner, 1);
        assert!(expectations.satisfied(&owner, now));
    }

    #[test]
    fn a_lost_event_holds_a_controller_for_five_minutes_only() {
        let (owner, now) = (Key::new("default", "web"), Instant::now());
        let expectations = Expectations::default();
        expectations.expect(&owner, 1, [], now);
        assert!(!expectations.satisfied(&owner, now + PATIENCE));
        assert!(expectations.satisfied(&owner, now + PATIENCE + Duration::from_secs(1)));
    }
}
