//! Informers: the API's objects -> changes of the zone. Objects are decoded straight into the few fields that make
//! names, so that no bulk is ever held.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::{Event as ObjectEvent, EventType, Recorder, Reporter};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use parking_lot::RwLock;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch::Sender;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::name::{Label, Name, NameError};
use crate::zone::{Endpoint, Port, Protocol, Service, ServiceKey, Slice, Target, Zone};

/// The ConfigMap with stub domains and upstream servers.
pub const CONFIG_NAMESPACE: &str = "kube-system";
/// Its name.
pub const CONFIG_NAME: &str = "fairlead-dns";
/// The lists that must be in before names that are not there are known not to exist.
pub const LISTS: [&str; 3] = ["namespaces", "services", "endpointslices"];
/// The list of the one ConfigMap.
pub const CONFIG_LIST: &str = "configmaps";

/// A kind that names are made of.
trait Watched: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    /// Which list it is.
    const LIST: &'static str;
    /// What identifies an object in the zone.
    type Key: Eq + Hash + Send;

    fn key(&self) -> Result<Self::Key, NameError>;
    /// The object is new or different.
    fn apply(&self, key: &Self::Key, zone: &mut Zone) -> Result<(), NameError>;
    /// The object is gone.
    fn gone(key: &Self::Key, zone: &mut Zone);
    /// Only these objects are there.
    fn keep(listed: &HashSet<Self::Key>, zone: &mut Zone);
}

macro_rules! slim {
    ($(#[$doc:meta])* $name:ident { $($field:ident : $type:ty),* $(,)? } => $group:literal $kind:literal $plural:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct $name {
            #[serde(deserialize_with = "slim_metadata")]
            metadata: ObjectMeta,
            $(#[serde(default)] $field: $type,)*
        }

        impl Resource for $name {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimMetadata {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// The label that says whose endpoints a slice holds.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

fn slim_metadata<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut slim = SlimMetadata::deserialize(deserializer)?;
    slim.labels.retain(|label, _| label == SERVICE_NAME);
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        resource_version: slim.resource_version,
        labels: Some(slim.labels),
        ..ObjectMeta::default()
    })
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    external_name: Option<String>,
    ports: Vec<PortField>,
    publish_not_ready_addresses: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PortField {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointField {
    addresses: Vec<String>,
    conditions: Conditions,
    hostname: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

slim!(
    /// A Namespace.
    NamespaceObject {} => "" "Namespace" "namespaces"
);
slim!(
    /// A Service, as far as names are concerned.
    ServiceObject { spec: ServiceSpec } => "" "Service" "services"
);
slim!(
    /// An EndpointSlice, as far as names are concerned.
    SliceObject { endpoints: Option<Vec<EndpointField>>, ports: Option<Vec<PortField>> } => "discovery.k8s.io" "EndpointSlice" "endpointslices"
);

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    // `None` and the names of FQDN slices are no addresses, and have no records.
    texts.filter_map(|text| text.parse().ok()).collect()
}

impl PortField {
    /// None for a slice's port without a number, which means any.
    fn port(&self) -> Result<Option<Port>, NameError> {
        let name = self.name.as_deref().filter(|name| !name.is_empty());
        let label = name.map(|name| Label::new(&format!("_{name}"))).transpose()?;
        let protocol = Protocol::parse(self.protocol.as_deref());
        Ok(self.port.zip(protocol).map(|(number, protocol)| Port { name: label, protocol, number }))
    }
}

fn ports(fields: &[PortField]) -> Result<Vec<Port>, NameError> {
    fields.iter().filter_map(|field| field.port().transpose()).collect()
}

impl ServiceObject {
    fn service(&self) -> Result<Service, NameError> {
        let spec = &self.spec;
        let own = addresses(spec.cluster_ips.iter().chain(&spec.cluster_ip));
        let target = match spec.r#type.as_deref() {
            Some("ExternalName") => {
                Target::External(Name::parse(spec.external_name.as_deref().unwrap_or("."))?)
            }
            _ if own.is_empty() => Target::Headless,
            _ => {
                let mut seen = HashSet::new();
                Target::Cluster(own.into_iter().filter(|address| seen.insert(*address)).collect())
            }
        };
        Ok(Service {
            target,
            ports: ports(&spec.ports)?,
            publish_not_ready: spec.publish_not_ready_addresses,
        })
    }
}

impl SliceObject {
    /// None when it belongs to no Service.
    fn slice(&self) -> Result<Option<Slice>, NameError> {
        let Some(service) = self.labels().get(SERVICE_NAME) else { return Ok(None) };
        let endpoint = |field: &EndpointField| {
            let hostname = field.hostname.as_deref().filter(|name| !name.is_empty());
            Ok(Endpoint {
                addresses: addresses(field.addresses.iter()),
                hostname: hostname.map(Label::new).transpose()?,
                ready: field.conditions.ready.unwrap_or(true),
            })
        };
        let endpoints = self.endpoints.iter().flatten().map(endpoint).collect::<Result<_, NameError>>()?;
        let service = ServiceKey::new(self.namespace().as_deref().unwrap_or_default(), service)?;
        Ok(Some(Slice { service, endpoints, ports: ports(self.ports.as_deref().unwrap_or_default())? }))
    }
}

impl Watched for NamespaceObject {
    const LIST: &'static str = LISTS[0];
    type Key = Label;

    fn key(&self) -> Result<Label, NameError> {
        Label::new(&self.name_any())
    }

    fn apply(&self, key: &Label, zone: &mut Zone) -> Result<(), NameError> {
        zone.namespace(key.clone());
        Ok(())
    }

    fn gone(key: &Label, zone: &mut Zone) {
        zone.namespace_gone(key);
    }

    fn keep(listed: &HashSet<Label>, zone: &mut Zone) {
        zone.keep_namespaces(listed);
    }
}

impl Watched for ServiceObject {
    const LIST: &'static str = LISTS[1];
    type Key = ServiceKey;

    fn key(&self) -> Result<ServiceKey, NameError> {
        ServiceKey::new(self.namespace().as_deref().unwrap_or_default(), &self.name_any())
    }

    fn apply(&self, key: &ServiceKey, zone: &mut Zone) -> Result<(), NameError> {
        zone.service(key, self.service()?);
        Ok(())
    }

    fn gone(key: &ServiceKey, zone: &mut Zone) {
        zone.service_gone(key);
    }

    fn keep(listed: &HashSet<ServiceKey>, zone: &mut Zone) {
        zone.keep_services(listed);
    }
}

impl Watched for SliceObject {
    const LIST: &'static str = LISTS[2];
    type Key = Arc<str>;

    fn key(&self) -> Result<Arc<str>, NameError> {
        Ok(format!("{}/{}", self.namespace().as_deref().unwrap_or_default(), self.name_any()).into())
    }

    fn apply(&self, key: &Arc<str>, zone: &mut Zone) -> Result<(), NameError> {
        match self.slice()? {
            Some(slice) => zone.slice(key, slice),
            None => zone.slice_gone(key),
        }
        Ok(())
    }

    fn gone(key: &Arc<str>, zone: &mut Zone) {
        zone.slice_gone(key);
    }

    fn keep(listed: &HashSet<Arc<str>>, zone: &mut Zone) {
        zone.keep_slices(listed);
    }
}

/// Pauses after errors of a watch: short, because names change meanwhile without being seen.
struct Pauses(Duration);

impl Pauses {
    const SHORTEST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        // Nodes that lost the same API server do not all come back in the same moment.
        Some(pause.mul_f64(rand::random_range(0.75..1.25)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = Self::SHORTEST;
    }
}

/// Where what is watched goes.
#[derive(Clone)]
pub struct Sink {
    /// The names.
    pub zone: Arc<RwLock<Zone>>,
    /// Readiness.
    pub metrics: Arc<Metrics>,
    /// The ConfigMap's content.
    pub config: Sender<Config>,
    /// Becomes true when [`LISTS`] are in.
    pub synced: Sender<bool>,
}

/// Watches everything, for as long as it is polled.
pub async fn watch_all(client: Client, node: Option<String>, sink: Sink) {
    tokio::join!(
        watch::<NamespaceObject>(&client, &sink),
        watch::<ServiceObject>(&client, &sink),
        watch::<SliceObject>(&client, &sink),
        watch_config(&client, node, &sink),
    );
}

async fn watch<K: Watched>(client: &Client, sink: &Sink) {
    let config = watcher::Config::default().page_size(500);
    let mut events =
        Box::pin(watcher(Api::<K>::all(client.clone()), config).backoff(Pauses(Pauses::SHORTEST)));
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => listed.extend(apply(&object, &sink.zone)),
            Ok(Event::Apply(object)) => drop(apply(&object, &sink.zone)),
            Ok(Event::Delete(object)) => {
                if let Ok(key) = object.key() {
                    K::gone(&key, &mut sink.zone.write());
                }
            }
            Ok(Event::InitDone) => {
                K::keep(&listed, &mut sink.zone.write());
                listed = HashSet::new();
                sink.listed(K::LIST);
            }
            Err(error) => tracing::warn!(list = K::LIST, %error, "the watch was interrupted"),
        }
    }
}

/// Takes an object into the zone; one that makes no names is left out of it, and told.
fn apply<K: Watched>(object: &K, zone: &RwLock<Zone>) -> Option<K::Key> {
    let failed = |error: NameError| {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        tracing::warn!(list = K::LIST, %namespace, %name, %error, "the object has no DNS records");
    };
    let key = object.key().map_err(failed).ok()?;
    let mut zone = zone.write();
    if let Err(error) = object.apply(&key, &mut zone) {
        K::gone(&key, &mut zone);
        failed(error);
    }
    Some(key)
}

impl Sink {
    fn listed(&self, list: &str) {
        self.metrics.listed(list);
        let waiting = self.metrics.waiting_for();
        if !self.zone.read().synced() && !LISTS.iter().any(|one| waiting.contains(one)) {
            self.zone.write().set_synced();
            self.synced.send_replace(true);
            tracing::info!("all lists are in");
        }
    }
}

async fn watch_config(client: &Client, node: Option<String>, sink: &Sink) {
    let reporter = Reporter { controller: "fairlead-dns".to_owned(), instance: node };
    let recorder = Recorder::new(client.clone(), reporter);
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), CONFIG_NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={CONFIG_NAME}"));
    let mut events = Box::pin(watcher(api, config).backoff(Pauses(Pauses::SHORTEST)));
    let mut there = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => there = false,
            Ok(Event::InitApply(map) | Event::Apply(map)) => {
                there = true;
                take_config(&map, &recorder, sink).await;
            }
            Ok(Event::Delete(_)) => drop(sink.config.send_replace(Config::default())),
            Ok(Event::InitDone) => {
                if !there {
                    sink.config.send_replace(Config::default());
                }
                sink.metrics.listed(CONFIG_LIST);
            }
            Err(error) => tracing::warn!(list = CONFIG_LIST, %error, "the watch was interrupted"),
        }
    }
}

async fn take_config(map: &ConfigMap, recorder: &Recorder, sink: &Sink) {
    let none = BTreeMap::new();
    let error = match Config::parse(map.data.as_ref().unwrap_or(&none)) {
        Ok(config) => {
            tracing::info!(
                stub_domains = config.stubs.len(),
                upstreams = config.upstreams.len(),
                "took ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME}"
            );
            drop(sink.config.send_replace(config));
            return;
        }
        Err(error) => error,
    };
    sink.metrics.refused_configs.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(%error, "ConfigMap {CONFIG_NAMESPACE}/{CONFIG_NAME} is not taken: the configuration before it stays");
    let event = ObjectEvent {
        type_: EventType::Warning,
        reason: "InvalidConfiguration".to_owned(),
        note: Some(format!("The configuration before this one stays: {error}")),
        action: "Configure".to_owned(),
        secondary: None,
    };
    if let Err(error) = recorder.publish(&event, &map.object_ref(&())).await {
        tracing::warn!(%error, "an Event could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_are_read() {
        let service = |spec: serde_json::Value| {
            let object = json!({"metadata": {"name": "web", "namespace": "demo", "uid": "u"}, "spec": spec});
            serde_json::from_value::<ServiceObject>(object).expect("a Service").service()
        };
        let own = service(json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"],
            "ports": [{"name": "Http", "port": 80}, {"port": 53, "protocol": "UDP"}]}));
        let own = own.expect("a good one");
        assert_eq!(
            own.target,
            Target::Cluster(["10.96.0.5", "fd00::5"].map(|a| a.parse().expect(a)).to_vec())
        );
        let ports: Vec<_> =
            own.ports.iter().map(|p| (format!("{:?}", p.name), p.protocol, p.number)).collect();
        assert_eq!(
            ports,
            [("Some(_http)".to_owned(), Protocol::Tcp, 80), ("None".to_owned(), Protocol::Udp, 53)]
        );
        let headless =
            service(json!({"clusterIP": "None", "clusterIPs": ["None"], "publishNotReadyAddresses": true}));
        let headless = headless.expect("a good one");
        assert_eq!((headless.target, headless.publish_not_ready), (Target::Headless, true));
        let external = service(json!({"type": "ExternalName", "externalName": "www.example.com"}));
        assert_eq!(
            external.map(|service| service.target),
            Ok(Target::External(Name::parse("www.example.com").expect("a name")))
        );
        assert!(service(json!({"type": "ExternalName", "externalName": "a..b"})).is_err());
    }

    #[test]
    fn slices_are_read() {
        let slice = |labels: serde_json::Value, endpoints: serde_json::Value| {
            let object = json!({"metadata": {"name": "web-1", "namespace": "demo", "labels": labels},
                "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}, {"name": "any"}]});
            serde_json::from_value::<SliceObject>(object).expect("a slice").slice()
        };
        let label = json!({"kubernetes.io/service-name": "web", "x": "y"});
        assert_eq!(slice(json!({}), json!([])), Ok(None));
        let read = slice(
            label.clone(),
            json!([{"addresses": ["10.0.0.1"], "hostname": "Web-0"}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["a.example"]}]),
        );
        let read = read.expect("a good one").expect("of a Service");
        assert_eq!(read.service, ServiceKey::new("demo", "web").expect("a key"));
        assert_eq!(read.ports.len(), 1);
        assert_eq!(read.endpoints.iter().map(|e| e.ready).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(read.endpoints[0].hostname, Some(Label::new("web-0").expect("a label")));
        assert!(read.endpoints[2].addresses.is_empty());
        assert!(slice(label, json!([{"addresses": [], "hostname": "x".repeat(64)}])).is_err());
    }

    #[test]
    fn an_object_that_makes_no_names_takes_the_ones_it_made_away() {
        let zone = RwLock::new(Zone::new(Name::parse("cluster.local").expect("a name")));
        let object = |external: &str| {
            let spec = json!({"type": "ExternalName", "externalName": external});
            let object = json!({"metadata": {"name": "web", "namespace": "demo"}, "spec": spec});
            serde_json::from_value::<ServiceObject>(object).expect("a Service")
        };
        assert!(apply(&object("a.example"), &zone).is_some());
        assert_eq!(zone.read().sizes().0, 1);
        assert!(apply(&object("a..b"), &zone).is_some());
        assert_eq!(zone.read().sizes().0, 0);
    }
}
