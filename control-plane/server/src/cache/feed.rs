//! Feeds the caches from one watch over the whole store.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use fairlead_api::{kind::Kind, kinds};
use fairlead_store::{Event, Store, StoreError, WatchItem};
use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Cache, Caches, Item};

/// Objects read from the store at once when it fills the caches.
const PAGE: usize = 1000;

/// How far back the caches begin when a server starts, in revisions, if the store's history reaches so far: watches
/// go on over a restart from there. Each is read again, so that this is also a bound on the time to become ready.
const RESUME: u64 = 10_000;

/// The longest that reading them may take, without which watches have to begin anew. It takes a tenth of a second on an
/// idle machine; on a starved one, where every client would list anew at the same time, it is worth waiting for.
const RESUME_TIME: Duration = Duration::from_secs(10);

/// Sees every change in the order of the store, before the caches show it.
pub trait Observer: Send + Sync + 'static {
    /// All keys outside of any kind's storage are about to be told again: what was known before is void.
    fn reset(&self);
    /// A key outside of any kind's storage was put (`true`) or removed.
    fn foreign(&self, key: &str, present: bool);
    /// An object was put or removed. `key` is the one within the kind's storage.
    fn object(&self, kind: &Kind, key: &str, stored: Option<&[u8]>);
}

/// Fills the caches, then keeps them fed until `shutdown`.
///
/// # Errors
/// If the store cannot be read.
pub async fn start(
    store: Arc<dyn Store>,
    observer: Arc<dyn Observer>,
    shutdown: CancellationToken,
) -> Result<Arc<Caches>, StoreError> {
    let mut by_storage: HashMap<&'static str, Arc<Cache>> = HashMap::new();
    for kind in kinds::REGISTRY.iter().filter(|kind| !kind.storage.is_empty() && kind.convert.is_none()) {
        by_storage.entry(kind.storage).or_insert_with(|| Arc::new(Cache::new(kind)));
    }
    let caches = Arc::new(Caches { by_storage, applied: watch::Sender::new(0), store });
    let revision = resume(&caches, &*observer).await?;
    tokio::spawn(follow(caches.clone(), observer, revision, shutdown));
    Ok(caches)
}

/// Fills the caches as they were some time ago and lets them live through what came after.
async fn resume(caches: &Caches, observer: &dyn Observer) -> Result<u64, StoreError> {
    let now = caches.store.current_revision().await?;
    let from = now.saturating_sub(RESUME).max(caches.store.oldest_revision().await?).min(now);
    let replay = async {
        let mut revision = fill(caches, observer, Some(from)).await?;
        while revision < now {
            match drain(caches, observer, &mut revision, now).await {
                Ok(()) => break,
                Err(StoreError::Unavailable(reason)) => tracing::warn!(%reason, "history is read again"),
                Err(error) => return Err(error),
            }
        }
        Ok(revision)
    };
    match tokio::time::timeout(RESUME_TIME, replay).await {
        Ok(Ok(revision)) => return Ok(revision),
        Ok(Err(error)) => tracing::warn!(%error, from, "watches from before the start cannot go on"),
        Err(_) => {
            tracing::warn!(from, now, "too much has changed for watches from before the start to go on")
        }
    }
    fill(caches, observer, None).await
}

/// Reads everything as it was at one revision: `at`, or the present one.
async fn fill(caches: &Caches, observer: &dyn Observer, mut at: Option<u64>) -> Result<u64, StoreError> {
    let mut maps: HashMap<&str, BTreeMap<Arc<str>, Arc<Item>>> = HashMap::new();
    let mut after: Option<Arc<str>> = None;
    observer.reset();
    loop {
        let page = caches.store.list("", after.as_deref(), PAGE, at).await?;
        at = Some(page.revision);
        for entry in &page.entries {
            let Some((cache, key)) = locate(caches, &entry.key) else {
                observer.foreign(&entry.key, true);
                continue;
            };
            match Item::from_stored(cache.kind, key, entry.mod_revision, &entry.value) {
                Ok(item) => {
                    observer.object(cache.kind, key, Some(&entry.value));
                    maps.entry(cache.kind.storage).or_default().insert(item.key.clone(), Arc::new(item));
                }
                Err(error) => tracing::error!(%error, "left out of the cache"),
            }
        }
        match page.entries.last() {
            Some(last) if page.more => after = Some(last.key.clone()),
            _ => break,
        }
    }
    let revision = at.unwrap_or(0);
    for cache in caches.all() {
        let items = maps.remove(cache.kind.storage).unwrap_or_default();
        for gone in cache.all("").iter().filter(|item| !items.contains_key(&item.key)) {
            observer.object(cache.kind, &gone.key, None);
        }
        cache.reset(revision, items);
    }
    caches.applied.send_replace(revision);
    Ok(revision)
}

/// The cache and the key in it of a key of the store: `pods/default/web-1`.
fn locate<'a>(caches: &'a Caches, key: &'a str) -> Option<(&'a Arc<Cache>, &'a str)> {
    let mut at = 0;
    // A storage may itself have a slash (`services/specs`), so that every prefix is tried.
    while let Some(next) = key[at..].find('/') {
        if let Some(cache) = caches.by_storage.get(&key[..at + next]) {
            return Some((cache, &key[at + next + 1..]));
        }
        at += next + 1;
    }
    None
}

async fn follow(
    caches: Arc<Caches>,
    observer: Arc<dyn Observer>,
    mut revision: u64,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let error = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = drain(&caches, &*observer, &mut revision, u64::MAX) => match outcome {
                Ok(()) => return,
                Err(error) => error,
            },
        };
        tracing::warn!(%error, revision, "the watch of the store ended");
        if matches!(error, StoreError::Compacted { .. } | StoreError::Future { .. }) {
            match fill(&caches, &*observer, None).await {
                Ok(filled) => revision = filled,
                Err(error) => tracing::error!(%error, "the caches could not be filled again"),
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Applies changes until `upto` is reached.
async fn drain(
    caches: &Caches,
    observer: &dyn Observer,
    revision: &mut u64,
    upto: u64,
) -> Result<(), StoreError> {
    let mut stream = caches.store.watch("", *revision).await?;
    while *revision < upto {
        let at = match stream.next().await {
            Some(Ok(WatchItem::Events(at, events))) => {
                apply(caches, observer, at, &events);
                at
            }
            Some(Ok(WatchItem::Progress(at))) => at,
            Some(Err(error)) => return Err(error),
            None => return Err(StoreError::Unavailable("the stream ended".into())),
        };
        if at > *revision {
            *revision = at;
            caches.applied.send_replace(at);
        }
    }
    Ok(())
}

/// A key with its new object; `None` is a deletion.
pub type Put = (Arc<str>, Option<Arc<Item>>);

fn apply(caches: &Caches, observer: &dyn Observer, revision: u64, events: &[Arc<Event>]) {
    let mut changes: HashMap<&'static str, Vec<Put>> = HashMap::new();
    for event in events {
        let Some((cache, key)) = locate(caches, &event.key) else {
            observer.foreign(&event.key, event.value.is_some());
            continue;
        };
        let item = match &event.value {
            None => None,
            Some(value) => match Item::from_stored(cache.kind, key, revision, value) {
                Ok(item) => Some(Arc::new(item)),
                Err(error) => {
                    tracing::error!(%error, "left out of the cache");
                    None
                }
            },
        };
        let key = item.as_ref().map_or_else(|| key.into(), |item| item.key.clone());
        changes.entry(cache.kind.storage).or_default().push((key, item));
    }
    // Watchers wake as soon as a cache moves: by then the authorizer must know what it lets them see.
    for event in events {
        if let Some((cache, key)) = locate(caches, &event.key) {
            observer.object(cache.kind, key, event.value.as_deref());
        }
    }
    for (storage, changes) in changes {
        if let Some(cache) = caches.by_storage.get(storage) {
            cache.apply(revision, changes);
        }
    }
}
