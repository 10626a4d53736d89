//! The watch cache: one per resource, fed by one watch of the store.
//!
//! - The cache is never ahead of the store and never has a gap: what it holds at revision R is what the store held.
//! - Only [`feed`] writes to it. GET, LIST and WATCH read it and nothing else, except for snapshots that are older
//!   than the ring of recent changes.
//! - A watcher keeps its own place in the ring and nothing is queued for it; one that falls off the ring is cut off.

mod feed;
mod item;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use fairlead_api::kind::Kind;
use fairlead_store::{Store, StoreError};
use parking_lot::RwLock;
use tokio::sync::watch;

pub use feed::{Observer, start};
pub use item::{Index, Item, Unreadable, index, parse, to_stored, typed};

/// Changes kept for watches that resume, per resource.
const RING_CHANGES: usize = 8192;
/// Bytes of objects that changes may keep alive, per resource.
const RING_BYTES: usize = 4 << 20;
/// A burst of large objects never leaves fewer changes than this.
const RING_FLOOR: usize = 64;

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    pub revision: u64,
    /// The object after the change; `None` for a deletion.
    pub new: Option<Arc<Item>>,
    /// The object before the change; `None` for a creation.
    pub old: Option<Arc<Item>>,
    /// The line of the watch stream in the stored version, for watchers whose selector sees no transition.
    line: OnceLock<Bytes>,
}

/// The word of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub fn word(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

impl Change {
    pub fn new(revision: u64, new: Option<Arc<Item>>, old: Option<Arc<Item>>) -> Self {
        Change { revision, new, old, line: OnceLock::new() }
    }

    /// What a watcher sees whose selector matched `before` and matches `after`.
    pub fn seen(&self, before: bool, after: bool) -> Option<EventType> {
        match (before, after) {
            (true, true) => Some(EventType::Modified),
            (false, true) => Some(EventType::Added),
            (true, false) => Some(EventType::Deleted),
            (false, false) => None,
        }
    }

    /// The body that an event of this type carries.
    pub fn body(&self, event: EventType) -> Option<Bytes> {
        match event {
            EventType::Deleted => Some(self.old.as_ref()?.body_at(self.revision)),
            _ => Some(self.new.as_ref()?.body.clone()),
        }
    }

    /// The encoded line, made once for everybody who sees the same event.
    pub fn line(&self, kind: &Kind, event: EventType) -> Option<Bytes> {
        let own = match (&self.old, &self.new) {
            (None, _) => EventType::Added,
            (_, None) => EventType::Deleted,
            _ => EventType::Modified,
        };
        if own != event {
            return Some(line(kind, event, &self.body(event)?));
        }
        if let Some(line) = self.line.get() {
            return Some(line.clone());
        }
        let made = line(kind, event, &self.body(event)?);
        Some(self.line.get_or_init(|| made).clone())
    }

    fn bytes(&self) -> usize {
        // The new object is in the map as well; what the ring alone keeps alive is the old one and the line.
        256 + self.old.as_ref().map_or(0, |item| item.body.len()) * 2
    }
}

/// One event of a JSON watch stream.
pub fn line(kind: &Kind, event: EventType, body: &[u8]) -> Bytes {
    let object = typed(kind, body);
    let mut out = Vec::with_capacity(object.len() + 40);
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(event.word().as_bytes());
    out.extend_from_slice(br#"","object":"#);
    out.extend_from_slice(&object);
    out.extend_from_slice(b"}\n");
    out.into()
}

#[derive(Default)]
struct State {
    items: BTreeMap<Arc<str>, Arc<Item>>,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    /// The ring holds every change after this revision.
    floor: u64,
    /// The revision of the newest change.
    last: u64,
}

/// All objects of one resource in the version that is stored.
pub struct Cache {
    /// The stored kind.
    pub kind: &'static Kind,
    state: RwLock<State>,
    /// The newest revision that changed this resource.
    moved: watch::Sender<u64>,
}

/// A LIST at one revision.
pub struct Snapshot {
    pub revision: u64,
    pub items: Vec<Arc<Item>>,
    /// Whether matching items follow.
    pub more: bool,
    /// How many items follow, counted without the selector.
    pub remaining: usize,
}

/// The asked revision is older than what the ring knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest revision that can be asked for.
    pub oldest: u64,
}

/// What to list.
#[derive(Clone, Copy, Default)]
pub struct Query<'a> {
    /// `""`, or `namespace/`.
    pub prefix: &'a str,
    /// Only keys after this one.
    pub after: Option<&'a str>,
    /// 0 is no limit.
    pub limit: usize,
    /// An exact older revision.
    pub at: Option<u64>,
}

impl Cache {
    pub fn new(kind: &'static Kind) -> Self {
        Cache { kind, state: RwLock::default(), moved: watch::Sender::new(0) }
    }

    /// The newest version of one object that the cache knows.
    pub fn get(&self, key: &str) -> Option<Arc<Item>> {
        self.state.read().items.get(key).cloned()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All objects below `prefix`.
    pub fn all(&self, prefix: &str) -> Vec<Arc<Item>> {
        let state = self.state.read();
        below(&state.items, prefix, None).map(|(_, item)| item.clone()).collect()
    }

    /// Whether anything is below `prefix`.
    pub fn any(&self, prefix: &str) -> bool {
        below(&self.state.read().items, prefix, None).next().is_some()
    }

    /// Lists; `applied` is a revision that the feed had reached before this call.
    ///
    /// # Errors
    /// [`TooOld`] for an exact revision that the ring cannot reconstruct.
    pub fn list(
        &self,
        query: Query<'_>,
        applied: u64,
        matches: impl Fn(&Item) -> bool,
    ) -> Result<Snapshot, TooOld> {
        let state = self.state.read();
        // Every change up to `applied` is in the map, and so is every one up to `last`: the map is exactly the state
        // at the greater of the two.
        let now = applied.max(state.last);
        let at = query.at.unwrap_or(now);
        let past = if at < state.last { Some(state.undo(at)?) } else { None };
        let mut snapshot = Snapshot { revision: at, items: Vec::new(), more: false, remaining: 0 };
        let mut take = |item: &Arc<Item>| {
            if query.limit > 0 && snapshot.items.len() == query.limit {
                snapshot.remaining += 1;
                snapshot.more = snapshot.more || matches(item);
            } else if matches(item) {
                snapshot.items.push(item.clone());
            }
        };
        let current = below(&state.items, query.prefix, query.after);
        match past {
            None => current.for_each(|(_, item)| take(item)),
            Some(past) => merge(current, below(&past, query.prefix, query.after)).for_each(take),
        }
        Ok(snapshot)
    }

    /// The changes after `revision`, at most `limit` of them but never a part of one revision.
    ///
    /// # Errors
    /// [`TooOld`] if changes after `revision` have left the ring.
    pub fn since(&self, revision: u64, limit: usize) -> Result<Vec<Arc<Change>>, TooOld> {
        let state = self.state.read();
        if revision < state.floor {
            return Err(TooOld { oldest: state.floor });
        }
        let from = state.ring.partition_point(|change| change.revision <= revision);
        let mut changes: Vec<Arc<Change>> = Vec::new();
        for change in state.ring.range(from..) {
            if changes.len() >= limit && changes.last().is_some_and(|last| last.revision != change.revision) {
                break;
            }
            changes.push(change.clone());
        }
        Ok(changes)
    }

    /// Wakes whenever this resource changed.
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Applies changes in the order of the store.
    fn apply(&self, revision: u64, changes: Vec<feed::Put>) {
        let mut state = self.state.write();
        for (key, new) in changes {
            let old = match &new {
                Some(item) => state.items.insert(key, item.clone()),
                None => state.items.remove(&key),
            };
            if new.is_none() && old.is_none() {
                continue;
            }
            state.push(Change::new(revision, new, old));
        }
        state.last = revision;
        drop(state);
        self.moved.send_replace(revision);
    }

    /// Forgets everything and starts over: every watcher is cut off.
    fn reset(&self, revision: u64, items: BTreeMap<Arc<str>, Arc<Item>>) {
        *self.state.write() = State { items, floor: revision, last: revision, ..State::default() };
        self.moved.send_replace(revision);
    }
}

impl State {
    fn push(&mut self, change: Change) {
        self.ring_bytes += change.bytes();
        self.ring.push_back(Arc::new(change));
        while self.ring.len() > RING_CHANGES || (self.ring_bytes > RING_BYTES && self.ring.len() > RING_FLOOR)
        {
            let Some(gone) = self.ring.pop_front() else { break };
            self.ring_bytes -= gone.bytes();
            self.floor = gone.revision;
        }
    }

    /// For every object that changed after `at`: what it was at `at`.
    fn undo(&self, at: u64) -> Result<BTreeMap<Arc<str>, Option<Arc<Item>>>, TooOld> {
        if at < self.floor {
            return Err(TooOld { oldest: self.floor });
        }
        let mut past = BTreeMap::new();
        let from = self.ring.partition_point(|change| change.revision <= at);
        for change in self.ring.range(from..) {
            let Some(item) = change.old.as_ref().or(change.new.as_ref()) else { continue };
            past.entry(item.key.clone()).or_insert_with(|| change.old.clone());
        }
        Ok(past)
    }
}

/// What lies below a prefix, in the order of keys. No key is compared beyond the two ends.
fn below<'a, V>(
    items: &'a BTreeMap<Arc<str>, V>,
    prefix: &str,
    after: Option<&str>,
) -> impl Iterator<Item = (&'a Arc<str>, &'a V)> {
    let from = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    // Prefixes are whole segments: what follows the slash in ASCII follows them all.
    let end = prefix.strip_suffix('/').map(|namespace| format!("{namespace}0"));
    let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    // A place beyond the end is the end.
    let beyond = matches!((from, to), (Bound::Excluded(from), Bound::Excluded(to)) if from >= to);
    let to = if beyond { Bound::Included(after.unwrap_or(prefix)) } else { to };
    items.range::<str, _>((from, to))
}

/// The present with the past put over it, each in the order of keys.
fn merge<'a>(
    current: impl Iterator<Item = (&'a Arc<str>, &'a Arc<Item>)>,
    past: impl Iterator<Item = (&'a Arc<str>, &'a Option<Arc<Item>>)>,
) -> impl Iterator<Item = &'a Arc<Item>> {
    let (mut current, mut past) = (current.peekable(), past.peekable());
    std::iter::from_fn(move || {
        loop {
            let Some((key, item)) = past.peek() else { return current.next().map(|(_, item)| item) };
            match current.peek().map(|(now, _)| now.cmp(key)) {
                Some(Ordering::Less) => return current.next().map(|(_, item)| item),
                Some(Ordering::Equal) => drop(current.next()),
                Some(Ordering::Greater) | None => {}
            }
            let was = item.as_ref();
            past.next();
            if was.is_some() {
                return was;
            }
        }
    })
}

/// The caches of all resources.
pub struct Caches {
    by_storage: HashMap<&'static str, Arc<Cache>>,
    /// Every change up to this revision is in the caches.
    applied: watch::Sender<u64>,
    store: Arc<dyn Store>,
}

/// How long a read waits for the cache to reach a revision.
const FRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a read could not wait for its revision.
#[derive(Debug, thiserror::Error)]
pub enum Behind {
    #[error("the cache is at revision {current}, not yet at {asked}")]
    Timeout { asked: u64, current: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Caches {
    pub fn of(&self, kind: &Kind) -> Option<&Arc<Cache>> {
        self.by_storage.get(kind.storage)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Cache>> {
        self.by_storage.values()
    }

    /// Every change up to this revision can be read.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Wakes whenever the store moved on.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Waits until everything that was written before this call can be read, and answers with that revision.
    ///
    /// # Errors
    /// If the store cannot be asked, or the cache does not catch up in time.
    pub async fn fresh(&self) -> Result<u64, Behind> {
        let current = self.store.current_revision().await?;
        self.reach(current).await?;
        Ok(self.applied())
    }

    /// Waits until the cache has reached `revision`.
    ///
    /// # Errors
    /// If it does not in time.
    pub async fn reach(&self, revision: u64) -> Result<(), Behind> {
        if self.applied() >= revision {
            return Ok(());
        }
        let mut progress = self.progress();
        let reached = progress.wait_for(|applied| *applied >= revision);
        match tokio::time::timeout(FRESH_TIMEOUT, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Behind::Timeout { asked: revision, current: self.applied() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use fairlead_api::registry;
    use serde_json::json;

    use super::*;

    fn cache() -> Cache {
        Cache::new(registry::find("", "v1", "configmaps").unwrap())
    }

    fn item(cache: &Cache, key: &str, revision: u64, size: usize) -> Arc<Item> {
        let name = key.split_once('/').unwrap().1;
        let object =
            json!({"metadata": {"name": name, "labels": {"n": name}}, "data": {"x": "y".repeat(size)}});
        Arc::new(Item::from_stored(cache.kind, key, revision, &to_stored(cache.kind, &object)).unwrap())
    }

    fn put(cache: &Cache, key: &str, revision: u64) {
        cache.apply(revision, vec![(key.into(), Some(item(cache, key, revision, 1)))]);
    }

    fn keys(cache: &Cache, at: Option<u64>) -> Vec<String> {
        let query = Query { prefix: "a/", at, ..Query::default() };
        cache
            .list(query, 0, |_| true)
            .unwrap()
            .items
            .iter()
            .map(|item| format!("{}@{}", item.key, item.revision))
            .collect()
    }

    #[test]
    fn a_list_at_an_older_revision_shows_what_was_there_then() {
        let cache = cache();
        put(&cache, "a/x", 1);
        put(&cache, "a/y", 2);
        put(&cache, "a/x", 3);
        cache.apply(4, vec![("a/y".into(), None)]);
        put(&cache, "b/z", 5);
        assert_eq!(keys(&cache, None), ["a/x@3"]);
        assert_eq!(keys(&cache, Some(3)), ["a/x@3", "a/y@2"]);
        assert_eq!(keys(&cache, Some(2)), ["a/x@1", "a/y@2"]);
        assert_eq!(keys(&cache, Some(1)), ["a/x@1"]);
    }

    #[test]
    fn pages_go_on_where_they_stopped_now_and_then() {
        let cache = cache();
        for (revision, key) in ["a/b", "a/d", "a/f", "a/h", "a-b/x", "b/x"].into_iter().enumerate() {
            put(&cache, key, revision as u64 + 1);
        }
        cache.apply(7, vec![("a/d".into(), None), ("a/c".into(), Some(item(&cache, "a/c", 7, 1)))]);
        cache.apply(8, vec![("a/z".into(), Some(item(&cache, "a/z", 8, 1)))]);
        let page = |after: Option<&str>, at| {
            let query = Query { prefix: "a/", after, limit: 2, at };
            let page = cache.list(query, 8, |_| true).unwrap();
            let keys: Vec<String> = page.items.iter().map(|item| item.key.to_string()).collect();
            (keys.join(" "), page.more, page.remaining)
        };
        assert_eq!(page(None, None), ("a/b a/c".into(), true, 3));
        assert_eq!(page(Some("a/c"), None), ("a/f a/h".into(), true, 1));
        assert_eq!(page(None, Some(6)), ("a/b a/d".into(), true, 2));
        assert_eq!(page(Some("a/d"), Some(6)), ("a/f a/h".into(), false, 0));
        // Whatever a client says it has seen.
        for (after, first) in [("", "a/b a/c"), ("a", "a/b a/c"), ("a/", "a/b a/c"), ("a/zz", ""), ("zz", "")]
        {
            assert_eq!(page(Some(after), None).0, first, "{after}");
        }
    }

    #[test]
    fn a_ring_that_overflowed_says_so_instead_of_leaving_a_gap() {
        let cache = cache();
        let count = u64::try_from(RING_CHANGES).unwrap() + 10;
        for revision in 1..=count {
            put(&cache, "a/x", revision);
        }
        assert_eq!(cache.since(9, 1).unwrap_err(), TooOld { oldest: 10 });
        assert_eq!(cache.since(10, usize::MAX).unwrap().len(), RING_CHANGES);
        assert!(cache.list(Query { at: Some(9), ..Query::default() }, 0, |_| true).is_err());
    }

    #[test]
    fn a_deletion_carries_the_last_state_at_its_own_revision() {
        let cache = cache();
        put(&cache, "a/x", 7);
        cache.apply(9, vec![("a/x".into(), None)]);
        let changes = cache.since(7, 10).unwrap();
        let line = changes[0].line(cache.kind, EventType::Deleted).unwrap();
        let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(event["type"], "DELETED");
        assert_eq!(event["object"]["metadata"]["resourceVersion"], "9");
        assert_eq!(event["object"]["data"]["x"], "y");
    }

    #[test]
    fn selectors_see_labels_without_the_object_being_parsed() {
        let cache = cache();
        put(&cache, "a/x", 1);
        let item = cache.get("a/x").unwrap();
        assert_eq!((item.label("n"), item.label("m")), (Some("x"), None));
        assert_eq!(item.field(cache.kind, "metadata.namespace"), Some("a"));
    }
}
