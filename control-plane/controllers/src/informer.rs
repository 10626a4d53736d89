//! One watch per kind, kept as a small indexed cache that all controllers read.
//!
//! Handlers are called in the order of the watch, on the informer's own task: they must only note work (enqueue keys,
//! settle expectations) and never wait.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Namespace (empty for cluster-scoped kinds) and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl Key {
    /// The key of a namespaced object.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of any object of the API.
    #[must_use]
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A kind that can be cached.
pub trait Cached:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

impl<K> Cached for K where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static
{
}

/// What happened to one object: created (`old` is none), changed, or gone (`new` is none).
pub struct Change<'a, K> {
    /// The object as it was.
    pub old: Option<&'a Arc<K>>,
    /// The object as it is.
    pub new: Option<&'a Arc<K>>,
}

impl<K> Change<'_, K> {
    /// The newest known form: what it is now, or what it was when it went.
    #[must_use]
    pub fn latest(&self) -> Option<&Arc<K>> {
        self.new.or(self.old)
    }

    /// Both forms that exist.
    pub fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.into_iter().chain(self.new)
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;
type IndexFn<K> = fn(&K) -> Vec<String>;

struct Index<K> {
    name: &'static str,
    values_of: IndexFn<K>,
    keys: HashMap<String, BTreeSet<Key>>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    indexes: Vec<Index<K>>,
}

impl<K: Cached> State<K> {
    fn put(&mut self, key: Key, new: Option<Arc<K>>) -> Option<Arc<K>> {
        let old = match &new {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(&key),
        };
        for index in &mut self.indexes {
            index.replace(&key, old.as_deref(), new.as_deref());
        }
        old
    }
}

impl<K> Index<K> {
    fn replace(&mut self, key: &Key, old: Option<&K>, new: Option<&K>) {
        let before = old.map(self.values_of).unwrap_or_default();
        let after = new.map(self.values_of).unwrap_or_default();
        for value in before.iter().filter(|value| !after.contains(value)) {
            if let Some(keys) = self.keys.get_mut(value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(value);
                }
            }
        }
        for value in after {
            if !before.contains(&value) {
                self.keys.entry(value).or_default().insert(key.clone());
            }
        }
    }
}

struct Inner<K> {
    state: RwLock<State<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
    strip: fn(&mut K),
}

/// A handle on the cache of one kind; clones share it.
pub struct Informer<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<K: Cached> Informer<K> {
    /// An empty cache. `strip` takes away what nobody reads before an object is kept.
    #[must_use]
    pub fn new(strip: fn(&mut K)) -> Self {
        Self {
            inner: Arc::new(Inner {
                state: RwLock::new(State { objects: BTreeMap::new(), indexes: Vec::new() }),
                handlers: RwLock::new(Vec::new()),
                synced: watch::Sender::new(false),
                strip,
            }),
        }
    }

    /// Adds an index before the informer starts; a second one of the same name is the same index.
    pub fn index(&self, name: &'static str, values_of: IndexFn<K>) {
        let mut state = self.inner.state.write();
        if state.indexes.iter().any(|index| index.name == name) {
            return;
        }
        let mut index = Index { name, values_of, keys: HashMap::new() };
        for (key, object) in &state.objects {
            index.replace(key, None, Some(object));
        }
        state.indexes.push(index);
    }

    /// Calls `handler` for every change from now on.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.inner.handlers.write().push(Box::new(handler));
    }

    /// The object of that key, if there is one.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.inner.state.read().objects.get(key).cloned()
    }

    /// Every object.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.state.read().objects.values().cloned().collect()
    }

    /// Every object of a namespace.
    #[must_use]
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.inner.state.read();
        let from = Key::new(namespace, "");
        let objects = state.objects.range(from..).take_while(|(key, _)| key.namespace == namespace);
        objects.map(|(_, object)| object.clone()).collect()
    }

    /// The objects whose index `name` holds `value`.
    #[must_use]
    pub fn find(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let state = self.inner.state.read();
        let index = state.indexes.iter().find(|index| index.name == name);
        let keys = index.and_then(|index| index.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// Returns once the first complete list is in the cache.
    pub async fn synced(&self) {
        let mut receiver = self.inner.synced.subscribe();
        // The sender lives as long as `self`, so this can only end by the value.
        let _ = receiver.wait_for(|synced| *synced).await;
    }

    /// Puts one object in place (or takes it away) and tells the handlers.
    pub fn apply(&self, key: Key, new: Option<Arc<K>>) {
        let old = {
            let mut state = self.inner.state.write();
            state.put(key, new.clone())
        };
        self.tell(old.as_ref(), new.as_ref());
    }

    fn tell(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        if old.is_none() && new.is_none() {
            return;
        }
        let change = Change { old, new };
        for handler in self.inner.handlers.read().iter() {
            handler(&change);
        }
    }

    fn replace_all(&self, listed: BTreeMap<Key, Arc<K>>) {
        let gone: Vec<Key> = {
            let state = self.inner.state.read();
            state.objects.keys().filter(|key| !listed.contains_key(*key)).cloned().collect()
        };
        for key in gone {
            self.apply(key, None);
        }
        for (key, object) in listed {
            let known = self.get(&key);
            if known.is_some_and(|known| known.meta().resource_version == object.meta().resource_version) {
                continue;
            }
            self.apply(key, Some(object));
        }
        self.inner.synced.send_replace(true);
    }

    fn keep(&self, mut object: K) -> (Key, Arc<K>) {
        object.meta_mut().managed_fields = None;
        (self.inner.strip)(&mut object);
        (Key::of(&object), Arc::new(object))
    }

    /// Follows the watch until `shutdown`; errors are retried with back-off.
    pub async fn follow(self, api: Api<K>, config: watcher::Config, shutdown: CancellationToken) {
        let kind = K::kind(&()).into_owned();
        let stream = watcher(api, config).default_backoff().take_until(shutdown.cancelled_owned());
        let mut stream = std::pin::pin!(stream.into_stream());
        let mut listed = BTreeMap::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    let (key, object) = self.keep(object);
                    listed.insert(key, object);
                }
                Ok(watcher::Event::InitDone) => self.replace_all(std::mem::take(&mut listed)),
                Ok(watcher::Event::Apply(object)) => {
                    let (key, object) = self.keep(object);
                    self.apply(key, Some(object));
                }
                Ok(watcher::Event::Delete(object)) => self.gone(object),
                Err(error) => tracing::warn!(%kind, %error, "watch failed, trying again"),
            }
        }
    }

    fn gone(&self, object: K) {
        let (key, last) = self.keep(object);
        // Handlers see the final form: a deletion can carry changes that no update announced.
        let old = {
            let mut state = self.inner.state.write();
            state.put(key, None)
        };
        if old.is_some() {
            self.tell(Some(&last), None);
        }
    }
}

type Follow = Box<dyn FnOnce(Client, CancellationToken) -> BoxFuture<'static, ()> + Send>;

/// Hands out one informer per kind, and starts them when every handler is in place.
#[derive(Default)]
pub struct Informers {
    caches: Mutex<HashMap<TypeId, Box<dyn Any + Send + Sync>>>,
    waiting: Mutex<Vec<Follow>>,
}

impl Informers {
    /// The informer of kind `K`; the first caller's `strip` holds for all.
    pub fn get<K: Cached>(&self, strip: fn(&mut K)) -> Informer<K> {
        let mut caches = self.caches.lock();
        let known = caches.get(&TypeId::of::<K>()).and_then(|cache| cache.downcast_ref::<Informer<K>>());
        if let Some(informer) = known {
            return informer.clone();
        }
        let informer = Informer::new(strip);
        caches.insert(TypeId::of::<K>(), Box::new(informer.clone()));
        let follower = informer.clone();
        self.waiting.lock().push(Box::new(move |client, shutdown| {
            Box::pin(follower.follow(Api::all(client), watcher::Config::default(), shutdown))
        }));
        informer
    }

    /// The watches that were asked for since the last call, ready to be run.
    pub fn start(&self, client: &Client, shutdown: &CancellationToken) -> Vec<BoxFuture<'static, ()>> {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().map(|follow| follow(client.clone(), shutdown.clone())).collect()
    }
}
