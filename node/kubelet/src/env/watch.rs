//! Services of the cluster, kept as little as variables need.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::services::{self, Entry};

type Key = (String, String);

/// What the watch has seen so far; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Services {
    entries: Arc<RwLock<BTreeMap<Key, Entry>>>,
    synced: Arc<AtomicBool>,
}

fn key(service: &Service) -> Key {
    (
        service.metadata.namespace.clone().unwrap_or_default(),
        service.metadata.name.clone().unwrap_or_default(),
    )
}

impl Services {
    /// Starts the watch.
    #[must_use]
    pub fn start(client: Client, shutdown: CancellationToken) -> Self {
        let services = Self::default();
        let watching = services.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = watching.watch(client) => {}
                () = shutdown.cancelled() => {}
            }
        });
        services
    }

    /// Whether all Services were seen once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Variables for a pod; see [`services::for_pod`].
    #[must_use]
    pub fn variables(&self, namespace: &str, links: bool) -> BTreeMap<String, String> {
        services::for_pod(&self.entries.read(), namespace, links)
    }

    async fn watch(&self, client: Client) {
        let events = watcher(Api::<Service>::all(client), watcher::Config::default()).default_backoff();
        let mut events = std::pin::pin!(events);
        let mut fresh: BTreeMap<Key, Entry> = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => fresh.clear(),
                Ok(watcher::Event::InitApply(service)) => {
                    fresh.extend(services::entry(&service).map(|entry| (key(&service), entry)));
                }
                Ok(watcher::Event::InitDone) => {
                    *self.entries.write() = std::mem::take(&mut fresh);
                    self.synced.store(true, Ordering::Release);
                }
                Ok(watcher::Event::Apply(service)) => {
                    let mut entries = self.entries.write();
                    match services::entry(&service) {
                        Some(entry) => entries.insert(key(&service), entry),
                        None => entries.remove(&key(&service)),
                    };
                }
                Ok(watcher::Event::Delete(service)) => {
                    self.entries.write().remove(&key(&service));
                }
                Err(error) => tracing::warn!(%error, "watch of services failed"),
            }
        }
    }
}
