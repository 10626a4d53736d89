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
const PAGE: usize = 500;

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
    let revision = fill(&caches, &*observer).await?;
    tokio::spawn(follow(caches.clone(), observer, revision, shutdown));
    Ok(caches)
}

/// Reads everything at one revision.
async fn fill(caches: &Caches, observer: &dyn Observer) -> Result<u64, StoreError> {
    let mut maps: HashMap<&str, BTreeMap<Arc<str>, Arc<Item>>> = HashMap::new();
    let mut after: Option<Arc<str>> = None;
    let mut at = None;
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
            error = drain(&caches, &*observer, &mut revision) => error,
        };
        tracing::warn!(%error, revision, "the watch of the store ended");
        if matches!(error, StoreError::Compacted { .. } | StoreError::Future { .. }) {
            match fill(&caches, &*observer).await {
                Ok(filled) => revision = filled,
                Err(error) => tracing::error!(%error, "the caches could not be filled again"),
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn drain(caches: &Caches, observer: &dyn Observer, revision: &mut u64) -> StoreError {
    let mut stream = match caches.store.watch("", *revision).await {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    loop {
        match stream.next().await {
            Some(Ok(WatchItem::Events(at, events))) => {
                apply(caches, observer, at, &events);
                *revision = at;
                caches.applied.send_replace(at);
            }
            Some(Ok(WatchItem::Progress(at))) => {
                if at > *revision {
                    *revision = at;
                    caches.applied.send_replace(at);
                }
            }
            Some(Err(error)) => return error,
            None => return StoreError::Unavailable("the stream ended".into()),
        }
    }
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
