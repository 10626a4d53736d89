//! Informers: the API's objects -> [`Change`]s. Objects are decoded straight into the few fields that matter, so that
//! no bulk (managedFields, container specs, annotations) is ever held.

use std::{borrow::Cow, collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::{
    NamespaceResourceScope, api::networking::v1::NetworkPolicy, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        events::{Event as ObjectEvent, EventType, Recorder, Reporter},
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    engine::Command,
    model::{
        Algorithm, Change, Endpoint, EndpointSlice, Family, Key, Kind, Labels, NamedPort, Namespace, Node,
        Pod, Protocol, Rates, Service, ServicePort, SlicePort, addresses_of, bandwidth,
    },
    policy::spec::Policy,
};

/// A kind that is watched: where it is served, and what becomes of one object.
pub trait Watched: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static {
    /// Which of the engine's kinds it is.
    const KIND: Kind;

    /// What it means that the object is new or different.
    fn changed(&self) -> Change;

    /// What it means that the object is gone.
    fn gone(&self) -> Change;
}

macro_rules! slim {
    ($(#[$doc:meta])* $name:ident { $($field:ident : $type:ty),* $(,)? } => $group:literal $kind:literal $plural:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        pub struct $name {
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
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "kept_annotations")]
    annotations: BTreeMap<String, String>,
}

/// Annotations that say something about packets.
mod annotation {
    /// A Service's algorithm.
    pub const LOAD_BALANCING: &str = "fairlead.io/load-balancing";
    /// Whether a Service's backends answer clients themselves.
    pub const DIRECT_SERVER_RETURN: &str = "fairlead.io/direct-server-return";
    /// A pod's share of connections.
    pub const WEIGHT: &str = "fairlead.io/weight";

    /// Bits per second that a pod may receive.
    pub const INGRESS_BANDWIDTH: &str = "kubernetes.io/ingress-bandwidth";
    /// Bits per second that a pod may send.
    pub const EGRESS_BANDWIDTH: &str = "kubernetes.io/egress-bandwidth";

    pub const ALL: [&str; 5] =
        [LOAD_BALANCING, DIRECT_SERVER_RETURN, WEIGHT, INGRESS_BANDWIDTH, EGRESS_BANDWIDTH];
}

/// Reads the few annotations that matter; others can be as long as an object (last-applied-configuration).
fn kept_annotations<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Kept;

    impl<'de> serde::de::Visitor<'de> for Kept {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("annotations")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut kept = BTreeMap::new();
            while let Some(key) = map.next_key::<String>()? {
                if annotation::ALL.contains(&key.as_str()) {
                    kept.insert(key, map.next_value()?);
                } else {
                    map.next_value::<serde::de::IgnoredAny>()?;
                }
            }
            Ok(kept)
        }
    }

    deserializer.deserialize_any(Kept)
}

fn slim_metadata<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let slim = SlimMetadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        uid: slim.uid,
        resource_version: slim.resource_version,
        labels: slim.labels,
        annotations: (!slim.annotations.is_empty()).then_some(slim.annotations),
        ..ObjectMeta::default()
    })
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    ports: Vec<ContainerPort>,
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: Option<String>,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<AddressField>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AddressField {
    ip: Option<String>,
    r#type: Option<String>,
    address: Option<String>,
    ip_mode: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Vec<AddressField>,
    conditions: Vec<ConditionField>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ConditionField {
    r#type: String,
    status: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<String>,
    ports: Vec<ServicePortField>,
    external_traffic_policy: Option<String>,
    internal_traffic_policy: Option<String>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    load_balancer_source_ranges: Vec<String>,
    health_check_node_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServicePortField {
    name: Option<String>,
    protocol: Option<String>,
    port: u16,
    node_port: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<AffinityTimeout>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityTimeout {
    timeout_seconds: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Vec<AddressField>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EndpointField {
    addresses: Vec<String>,
    conditions: Conditions,
    node_name: Option<String>,
    hints: Option<Hints>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    for_zones: Vec<HintField>,
    for_nodes: Vec<HintField>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct HintField {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointPortField {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
}

slim!(
    /// A Pod, as far as packets are concerned.
    PodObject { spec: PodSpec, status: PodStatus } => "" "Pod" "pods"
);
slim!(
    /// A Namespace, as far as packets are concerned.
    NamespaceObject {} => "" "Namespace" "namespaces"
);
slim!(
    /// A Node, as far as packets are concerned.
    NodeObject { spec: NodeSpec, status: NodeStatus } => "" "Node" "nodes"
);
slim!(
    /// A Service, as far as packets are concerned.
    ServiceObject { spec: ServiceSpec, status: ServiceStatus } => "" "Service" "services"
);
slim!(
    /// An EndpointSlice, as far as packets are concerned.
    SliceObject { endpoints: Vec<EndpointField>, ports: Option<Vec<EndpointPortField>> } => "discovery.k8s.io" "EndpointSlice" "endpointslices"
);

fn key_of(object: &impl ResourceExt) -> Key {
    Key::new(object.namespace().as_deref().unwrap_or_default(), &object.name_any())
}

/// An annotation that is one of those kept.
fn annotation_of<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn labels_of(metadata: &ObjectMeta) -> Labels {
    Arc::new(metadata.labels.clone().unwrap_or_default())
}

impl PodObject {
    /// The pod as the tables take it.
    #[must_use]
    pub fn pod(&self) -> Pod {
        let texts = self.status.pod_ips.iter().filter_map(|field| field.ip.as_deref());
        let addresses = addresses_of(texts.chain(self.status.pod_ip.as_deref()));
        // Only init containers that go on running (sidecars) serve ports.
        let sidecars =
            self.spec.init_containers.iter().filter(|container| container.restart_policy.is_some());
        let ports = self.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
        Pod {
            key: key_of(self),
            uid: self.metadata.uid.clone().unwrap_or_default(),
            labels: labels_of(&self.metadata),
            addresses,
            node: self.spec.node_name.clone(),
            weight: annotation_of(&self.metadata, annotation::WEIGHT).and_then(|text| text.parse().ok()),
            rates: Rates {
                ingress: annotation_of(&self.metadata, annotation::INGRESS_BANDWIDTH).and_then(bandwidth),
                egress: annotation_of(&self.metadata, annotation::EGRESS_BANDWIDTH).and_then(bandwidth),
            },
            host_network: self.spec.host_network,
            finished: matches!(self.status.phase.as_str(), "Succeeded" | "Failed"),
            ports: ports
                .filter_map(|port| {
                    Some(NamedPort {
                        name: port.name.clone()?,
                        protocol: Protocol::parse(port.protocol.as_deref())?,
                        port: port.container_port,
                    })
                })
                .collect(),
        }
    }
}

impl Watched for PodObject {
    const KIND: Kind = Kind::Pod;

    fn changed(&self) -> Change {
        Change::Pod(self.pod())
    }

    fn gone(&self) -> Change {
        Change::PodGone(key_of(self))
    }
}

impl Watched for NamespaceObject {
    const KIND: Kind = Kind::Namespace;

    fn changed(&self) -> Change {
        Change::Namespace(Namespace { name: self.name_any().into(), labels: labels_of(&self.metadata) })
    }

    fn gone(&self) -> Change {
        Change::NamespaceGone(self.name_any().into())
    }
}

impl Watched for NodeObject {
    const KIND: Kind = Kind::Node;

    fn changed(&self) -> Change {
        let of_type = |wanted: &'static str| {
            self.status
                .addresses
                .iter()
                .filter(move |field| field.r#type.as_deref() == Some(wanted))
                .filter_map(|field| field.address.as_deref())
        };
        let mut pod_cidrs: Vec<IpNet> = Vec::new();
        let texts = self.spec.pod_cidrs.iter().chain(&self.spec.pod_cidr);
        for cidr in texts.filter_map(|text| text.parse::<IpNet>().ok()) {
            let same = |known: &IpNet| Family::of(known.addr()) == Family::of(cidr.addr());
            if !pod_cidrs.iter().any(same) {
                pod_cidrs.push(cidr);
            }
        }
        Change::Node(Node {
            name: self.name_any().into(),
            pod_cidrs,
            addresses: addresses_of(of_type("InternalIP").chain(of_type("ExternalIP"))),
            balances: self.status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True")
                && !self.labels().contains_key("node.kubernetes.io/exclude-from-external-load-balancers"),
            zone: self.labels().get("topology.kubernetes.io/zone").cloned().unwrap_or_default(),
        })
    }

    fn gone(&self) -> Change {
        Change::NodeGone(self.name_any().into())
    }
}

/// Default of sessionAffinityConfig.clientIP.timeoutSeconds: three hours.
const AFFINITY_SECONDS: u32 = 10_800;

impl Watched for ServiceObject {
    const KIND: Kind = Kind::Service;

    fn changed(&self) -> Change {
        let spec = &self.spec;
        let cluster_ips = addresses_of(spec.cluster_ips.iter().chain(&spec.cluster_ip).map(String::as_str));
        if cluster_ips.is_empty() || spec.r#type.as_deref() == Some("ExternalName") {
            return self.gone();
        }
        let balancers = self.status.load_balancer.ingress.iter();
        let short = balancers.filter(|field| field.ip_mode.as_deref() != Some("Proxy"));
        let ranges = &spec.load_balancer_source_ranges;
        let parsed = ranges.iter().filter_map(|text| text.trim().parse().ok()).collect();
        let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let configured = spec
            .session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
        Change::Service(Service {
            key: key_of(self),
            cluster_ips,
            external_ips: addresses_of(spec.external_ips.iter().map(String::as_str)),
            balancer_ips: addresses_of(short.filter_map(|field| field.ip.as_deref())),
            source_ranges: (!ranges.is_empty()).then_some(parsed),
            health_check_node_port: spec.health_check_node_port,
            algorithm: annotation_of(&self.metadata, annotation::LOAD_BALANCING).and_then(Algorithm::parse),
            direct_return: annotation_of(&self.metadata, annotation::DIRECT_SERVER_RETURN) == Some("true"),
            ports: spec
                .ports
                .iter()
                .filter_map(|port| {
                    Some(ServicePort {
                        name: port.name.clone().unwrap_or_default(),
                        protocol: Protocol::parse(port.protocol.as_deref())?,
                        port: port.port,
                        node_port: port.node_port,
                    })
                })
                .collect(),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            affinity_seconds: if affinity { configured.unwrap_or(AFFINITY_SECONDS) } else { 0 },
        })
    }

    fn gone(&self) -> Change {
        Change::ServiceGone(key_of(self))
    }
}

impl Watched for SliceObject {
    const KIND: Kind = Kind::Slice;

    fn changed(&self) -> Change {
        let key = key_of(self);
        let Some(service) = self.labels().get("kubernetes.io/service-name") else { return self.gone() };
        let service = Key::new(&key.namespace, service);
        let names = |hints: Option<&[HintField]>| {
            hints.unwrap_or_default().iter().map(|hint| hint.name.clone()).collect()
        };
        let endpoint = |field: &EndpointField| {
            let ready = field.conditions.ready.unwrap_or(true);
            Endpoint {
                addresses: addresses_of(field.addresses.iter().map(String::as_str)),
                node: field.node_name.clone().unwrap_or_default(),
                ready,
                serving: field.conditions.serving.unwrap_or(ready),
                terminating: field.conditions.terminating.unwrap_or(false),
                for_zones: names(field.hints.as_ref().map(|hints| hints.for_zones.as_slice())),
                for_nodes: names(field.hints.as_ref().map(|hints| hints.for_nodes.as_slice())),
            }
        };
        Change::Slice(EndpointSlice {
            key,
            service,
            ports: self
                .ports
                .iter()
                .flatten()
                .filter_map(|port| {
                    Some(SlicePort {
                        name: port.name.clone().unwrap_or_default(),
                        protocol: Protocol::parse(port.protocol.as_deref())?,
                        port: port.port?,
                    })
                })
                .collect(),
            endpoints: self.endpoints.iter().map(endpoint).collect(),
        })
    }

    fn gone(&self) -> Change {
        Change::SliceGone(key_of(self))
    }
}

impl Watched for NetworkPolicy {
    const KIND: Kind = Kind::Policy;

    fn changed(&self) -> Change {
        Change::Policy(Box::new(Policy::from_api(self)))
    }

    fn gone(&self) -> Change {
        Change::PolicyGone(key_of(self))
    }
}

/// Watches every kind and sends what happens to the engine, until `shutdown` is cancelled or the engine is gone.
pub async fn watch_all(
    client: Client,
    node: String,
    commands: mpsc::Sender<Command>,
    shutdown: CancellationToken,
) {
    let reporter = Reporter { controller: "fairlead-dataplane".to_owned(), instance: Some(node) };
    let recorder = Recorder::new(client.clone(), reporter);
    let report = move |policy: &NetworkPolicy| {
        if let Change::Policy(parsed) = policy.changed()
            && let Some(problem) = parsed.problem
        {
            let (recorder, reference) = (recorder.clone(), policy.object_ref(&()));
            tokio::spawn(async move {
                let event = ObjectEvent {
                    type_: EventType::Warning,
                    reason: "PolicyNotEnforceable".to_owned(),
                    note: Some(format!("The selected pods are closed until this is mended: {problem}")),
                    action: "Enforce".to_owned(),
                    secondary: None,
                };
                if let Err(error) = recorder.publish(&event, &reference).await {
                    tracing::warn!(%error, "an Event could not be written");
                }
            });
        }
    };
    // A task each: what is decoded at a start takes every core.
    let mut watches = tokio::task::JoinSet::new();
    watches.spawn(watch::<PodObject>(client.clone(), commands.clone(), |_| {}));
    watches.spawn(watch::<NamespaceObject>(client.clone(), commands.clone(), |_| {}));
    watches.spawn(watch::<NodeObject>(client.clone(), commands.clone(), |_| {}));
    watches.spawn(watch::<ServiceObject>(client.clone(), commands.clone(), |_| {}));
    watches.spawn(watch::<SliceObject>(client.clone(), commands.clone(), |_| {}));
    watches.spawn(watch::<NetworkPolicy>(client, commands, report));
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = async {
            while let Some(ended) = watches.join_next().await {
                // An agent that is blind for one kind would be worse than one that starts again.
                if let Err(error) = ended
                    && error.is_panic()
                {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        } => {}
    }
}

/// Pauses after errors of a watch. They are short, because changes of policies are not seen meanwhile; and only an
/// event resets them, so that long ones would pile up for kinds that seldom change.
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

/// Objects of a page of a list. Each page is a request that waits for the one before it.
const PAGE: u32 = 1000;

async fn watch<K: Watched>(
    client: Client,
    commands: mpsc::Sender<Command>,
    seen: impl Fn(&K) + Send + 'static,
) {
    // Services of type headless proxies are told apart by their address, so nothing is filtered by selector.
    let api: Api<K> = Api::all(client);
    let config = watcher::Config::default().page_size(PAGE);
    let mut events = Box::pin(watcher(api, config).backoff(Pauses(Pauses::SHORTEST)));
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => Change::Listing(K::KIND),
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                seen(&object);
                object.changed()
            }
            Ok(Event::Delete(object)) => object.gone(),
            Ok(Event::InitDone) => Change::Listed(K::KIND),
            Err(error) => {
                tracing::warn!(kind = ?K::KIND, %error, "the watch was interrupted");
                continue;
            }
        };
        if commands.send(Command::Change(change)).await.is_err() {
            return;
        }
    }
}

/// Reads one pod from the API server.
///
/// # Errors
/// What the client says; None when there is no such pod.
pub async fn get_pod(client: &Client, namespace: &str, name: &str) -> Result<Option<Pod>, kube::Error> {
    let api: Api<PodObject> = Api::namespaced(client.clone(), namespace);
    Ok(api.get_opt(name).await?.map(|object| object.pod()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change<K: Watched>(object: serde_json::Value) -> Change {
        serde_json::from_value::<K>(object).expect("an object").changed()
    }

    #[test]
    fn pods_keep_labels_addresses_and_named_ports() {
        let object = serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"app": "web"}, "managedFields": [{"manager": "x"}]},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}, {"containerPort": 81}]}],
                     "initContainers": [{"ports": [{"name": "once", "containerPort": 1}]}]},
            "status": {"phase": "Running", "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}, {"ip": "fd00::2"}]},
        });
        let Change::Pod(pod) = change::<PodObject>(object) else { panic!("a pod") };
        assert_eq!(
            pod.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.244.0.2", "fd00::2"]
        );
        assert_eq!(pod.ports, [NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 80 }]);
        assert_eq!(
            (pod.uid.as_str(), pod.node.as_str(), pod.finished, pod.host_network),
            ("u", "a", false, false)
        );
    }

    #[test]
    fn headless_services_have_no_frontends() {
        let service = |ip: &str| serde_json::json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80}]}});
        assert!(matches!(change::<ServiceObject>(service("None")), Change::ServiceGone(_)));
        let Change::Service(service) = change::<ServiceObject>(service("10.96.0.1")) else {
            panic!("a Service")
        };
        assert_eq!(service.cluster_ips.len(), 1);
        assert_eq!((service.ports[0].port, service.ports[0].node_port), (80, 0));
    }

    #[test]
    fn services_keep_what_guards_and_spreads_them() {
        let object = serde_json::json!({
            "metadata": {"name": "s", "namespace": "n", "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
                "fairlead.io/load-balancing": "least-connections", "fairlead.io/direct-server-return": "true"}},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"],
                     "externalIPs": ["203.0.113.1"], "ports": [{"port": 80, "protocol": "SCTP"}],
                     "loadBalancerSourceRanges": ["192.0.2.0/24", " 10.0.0.0/8", "nonsense"],
                     "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1", "ipMode": "VIP"},
                {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"ip": "2001:db8::1"}, {"hostname": "lb.example"}]}},
        });
        let Change::Service(service) = change::<ServiceObject>(object) else { panic!("a Service") };
        let texts = |addresses: &[std::net::IpAddr]| -> Vec<String> {
            addresses.iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts(&service.cluster_ips), ["10.96.0.1", "fd00:96::1"]);
        assert_eq!(texts(&service.external_ips), ["203.0.113.1"]);
        assert_eq!(texts(&service.balancer_ips), ["198.51.100.1", "2001:db8::1"], "a proxy is not short-cut");
        assert_eq!(service.source_ranges.map(|ranges| ranges.len()), Some(2));
        assert_eq!(service.algorithm, Some(Algorithm::LeastConnections));
        assert!(service.direct_return && service.external_local);
        assert_eq!((service.health_check_node_port, service.ports[0].protocol), (31000, Protocol::Sctp));
    }

    #[test]
    fn endpoints_without_conditions_are_ready() {
        let object = serde_json::json!({
            "metadata": {"name": "s-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4", "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.244.0.2"]}, {"addresses": ["10.244.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}}],
        });
        let Change::Slice(slice) = change::<SliceObject>(object) else { panic!("a slice") };
        let states: Vec<_> = slice.endpoints.iter().map(|e| (e.ready, e.serving, e.terminating)).collect();
        assert_eq!(states, [(true, true, false), (false, true, true)]);
        assert_eq!(slice.service, Key::new("n", "s"));
    }

    #[test]
    fn nodes_prefer_their_internal_address() {
        let object = serde_json::json!({
            "metadata": {"name": "a"}, "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"]},
            "status": {"addresses": [{"type": "ExternalIP", "address": "198.51.100.1"}, {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "a"}]},
        });
        let Change::Node(node) = change::<NodeObject>(object) else { panic!("a node") };
        assert_eq!(
            node.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.1", "198.51.100.1"]
        );
        assert_eq!(
            node.pod_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.244.0.0/24", "fd00:10:244::/64"]
        );
    }
}
