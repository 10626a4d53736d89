//! ConfigMaps and Secrets that pods of this node use: fetched one by one, remembered for moments.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};
use parking_lot::Mutex;

/// Kinds that pods read data from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// ConfigMap.
    ConfigMap,
    /// Secret.
    Secret,
}

impl Kind {
    /// As in `configmap "x" not found`.
    #[must_use]
    pub fn resource(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }

    /// As in `couldn't find key k in ConfigMap ns/x`.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// Data of a ConfigMap or Secret.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Keys and what they hold.
    pub data: BTreeMap<String, Bytes>,
    /// Whether it can change.
    pub immutable: bool,
}

impl Content {
    /// Entries as text.
    pub fn text(&self) -> impl Iterator<Item = (&str, String)> {
        self.data.iter().map(|(key, bytes)| (key.as_str(), String::from_utf8_lossy(bytes).into_owned()))
    }
}

/// How long data is good enough for several containers that start at once.
const FRESH: Duration = Duration::from_secs(2);
/// How long data is kept at all.
const KEPT: Duration = Duration::from_secs(30);

type Key = (Kind, String, String);
type Kept = HashMap<Key, (Instant, Content)>;

/// A small cache over the API.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    kept: Arc<Mutex<Kept>>,
}

impl Objects {
    /// An empty cache.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, kept: Arc::default() }
    }

    /// The object's data; `None` when it does not exist.
    ///
    /// # Errors
    /// Fails when the API does.
    pub async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Content>, kube::Error> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        if let Some((when, content)) = self.kept.lock().get(&key)
            && when.elapsed() < FRESH
        {
            return Ok(Some(content.clone()));
        }
        let content = self.fetch(kind, namespace, name).await?;
        let mut kept = self.kept.lock();
        kept.retain(|_, (when, _)| when.elapsed() < KEPT);
        // What is missing may be there a moment later: only what was found is remembered.
        if let Some(content) = &content {
            kept.insert(key, (Instant::now(), content.clone()));
        }
        Ok(content)
    }

    async fn fetch(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Content>, kube::Error> {
        match kind {
            Kind::ConfigMap => {
                let found =
                    Api::<ConfigMap>::namespaced(self.client.clone(), namespace).get_opt(name).await?;
                Ok(found.map(|found| {
                    let text = found.data.unwrap_or_default();
                    let mut data: BTreeMap<_, _> =
                        text.into_iter().map(|(key, value)| (key, Bytes::from(value))).collect();
                    let binary = found.binary_data.unwrap_or_default();
                    data.extend(binary.into_iter().map(|(key, value)| (key, Bytes::from(value.0))));
                    Content { data, immutable: found.immutable == Some(true) }
                }))
            }
            Kind::Secret => {
                let found = Api::<Secret>::namespaced(self.client.clone(), namespace).get_opt(name).await?;
                Ok(found.map(|found| {
                    let data = found.data.unwrap_or_default();
                    let data = data.into_iter().map(|(key, value)| (key, Bytes::from(value.0))).collect();
                    Content { data, immutable: found.immutable == Some(true) }
                }))
            }
        }
    }
}
