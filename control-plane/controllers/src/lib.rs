//! The controllers: each drives one part of the cluster from what is towards what is asked for.
//!
//! Every controller is level-triggered and knows the API through a `kube::Client` only. They share one informer per
//! kind, and each can be killed between any two writes: the next run continues from what it finds.

pub mod affinity;
pub mod clock;
pub mod event;
pub mod informer;
pub mod owner;
pub mod pod;
pub mod queue;
pub mod replica;
pub mod selector;
pub mod toleration;
pub mod write;

mod aggregation;
mod collect;
mod daemonset;
mod deployment;
mod disruption;
mod endpoint;
mod eviction;
mod expectation;
mod furnish;
mod loadbalancer;
mod namespace;
mod nodeipam;
mod nodelifecycle;
mod podgc;
mod protection;
mod replicaset;
mod served;

pub use crate::loadbalancer::pool;
use crate::pod::Pod;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use event::Recorder;
use informer::{Informer, Informers};

/// A controller: it registers with the informers at once, and its work is the future.
type Start = fn(&Context) -> BoxFuture<'static, ()>;

/// Every controller there is, by the name upstream gives it.
const REGISTRY: &[(&str, Start)] = &[
    ("clusterrole-aggregation-controller", aggregation::start),
    ("daemonset-controller", daemonset::start),
    ("deployment-controller", deployment::start),
    ("endpoints-controller", endpoint::legacy::start),
    ("endpointslice-controller", endpoint::slice::start),
    ("endpointslice-mirroring-controller", endpoint::mirror::start),
    ("garbage-collector-controller", collect::start),
    ("namespace-controller", namespace::start),
    ("node-ipam-controller", nodeipam::start),
    ("node-lifecycle-controller", nodelifecycle::start),
    ("persistentvolume-protection-controller", protection::volumes),
    ("persistentvolumeclaim-protection-controller", protection::claims),
    ("pod-garbage-collector-controller", podgc::start),
    ("replicaset-controller", replicaset::start),
    ("root-ca-certificate-publisher-controller", furnish::root_ca),
    ("service-lb-controller", loadbalancer::start),
    ("serviceaccount-controller", furnish::service_account),
    ("taint-eviction-controller", eviction::start),
    ("volumeattributesclass-protection-controller", protection::classes),
];

/// The short names that older releases of upstream used.
const ALIASES: &[(&str, &str)] = &[
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("nodeipam", "node-ipam-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("pv-protection", "persistentvolume-protection-controller"),
    ("pvc-protection", "persistentvolumeclaim-protection-controller"),
    ("endpoint", "endpoints-controller"),
    ("endpointslicemirroring", "endpointslice-mirroring-controller"),
    ("service", "service-lb-controller"),
];

/// What every controller is given.
#[derive(Clone)]
pub(crate) struct Context {
    client: Client,
    informers: Arc<Informers>,
    recorder: Recorder,
    options: Arc<Options>,
    shutdown: CancellationToken,
}

impl Context {
    /// The pods, by controller and by node.
    fn pods(&self) -> Informer<Pod> {
        let pods = self.informers.get(pod::strip);
        pods.index(pod::BY_CONTROLLER, pod::controller_index);
        pods.index(pod::BY_NODE, pod::node_index);
        pods
    }

    /// The nodes, without the list of images they hold.
    fn nodes(&self) -> Informer<Node> {
        self.informers.get(|node: &mut Node| {
            if let Some(status) = &mut node.status {
                status.images = None;
            }
        })
    }
}

/// What the controllers need to know of the cluster they run in.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address ranges that node pod ranges are cut from; at most one per address family.
    pub cluster_cidr: Vec<IpNet>,
    /// Address ranges of Services: no node and no pool gets an address of them.
    pub service_cidr: Vec<IpNet>,
    /// Prefix lengths of a node's pod range: of IPv4 (24 by default), of IPv6 (64).
    pub node_masks: (u8, u8),
    /// Addresses for Services of type LoadBalancer, beside those of the ConfigMap.
    pub load_balancer_pools: Vec<pool::Span>,
    /// How long a node may be silent before its conditions become Unknown.
    pub node_monitor_grace: Duration,
    /// Comma-separated controller names: `*` enables all, `-name` takes one away, `none` (or empty) runs none.
    pub enabled: String,
    /// PEM of the CA that signed the API server's certificate, published in every namespace.
    pub root_ca_pem: String,
}

/// Why the controllers could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `Options::enabled` names a controller that does not exist.
    #[error("unknown controller \"{0}\"")]
    UnknownController(String),
    /// A pod range cannot be cut out of the cluster's range.
    #[error("node mask /{mask} does not fit in cluster range {cidr}")]
    NodeMask {
        /// The cluster's range.
        cidr: IpNet,
        /// The prefix length asked for.
        mask: u8,
    },
    /// A pool for load balancers lies in a range that pods or Services draw from.
    #[error("{0}")]
    Pool(String),
    /// Two cluster ranges of one family, which the API cannot express.
    #[error("more than one cluster range of the same address family: {0}")]
    DuplicateFamily(IpNet),
}

/// Runs the enabled controllers until `shutdown` is cancelled.
///
/// # Errors
/// Only for options that cannot work; failures of the API are retried for as long as it takes.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    options.check()?;
    let enabled = enabled(&options.enabled)?;
    let (recorder, write_events) = Recorder::new(client.clone(), shutdown.clone());
    let context = Context {
        client: client.clone(),
        informers: Arc::new(Informers::default()),
        recorder,
        options: Arc::new(options),
        shutdown: shutdown.clone(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(write_events);
    let started: Vec<_> = enabled.iter().map(|(_, start)| start(&context)).collect();
    for task in context.informers.start(&client, &shutdown).into_iter().chain(started) {
        let shutdown = shutdown.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = task => {}
            }
        });
    }
    let names: Vec<_> = enabled.iter().map(|(name, _)| *name).collect();
    tracing::info!(controllers = names.join(","), "controllers started");
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended unexpectedly");
        }
    }
    Ok(())
}

/// The controllers that `list` asks for.
fn enabled(list: &str) -> Result<Vec<(&'static str, Start)>, Error> {
    let mut all = false;
    let mut named = Vec::new();
    let mut without = Vec::new();
    for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.strip_prefix('-') {
            _ if word == "*" => all = true,
            _ if word == "none" => {}
            Some(name) => without.push(full_name(name)?),
            None => named.push(full_name(word)?),
        }
    }
    let wanted = |name: &str| (all || named.contains(&name)) && !without.contains(&name);
    Ok(REGISTRY.iter().filter(|(name, _)| wanted(name)).copied().collect())
}

fn full_name(name: &str) -> Result<&'static str, Error> {
    let alias = ALIASES.iter().find(|(short, _)| *short == name).map(|(_, full)| *full);
    let wanted = alias.unwrap_or(name);
    let found = REGISTRY
        .iter()
        .map(|(full, _)| *full)
        .find(|full| *full == wanted || full.strip_suffix("-controller") == Some(wanted));
    found.ok_or_else(|| Error::UnknownController(name.to_owned()))
}

impl Options {
    /// Refuses ranges that no node range can be cut from.
    fn check(&self) -> Result<(), Error> {
        for (index, cidr) in self.cluster_cidr.iter().enumerate() {
            let (mask, longest) = match cidr {
                IpNet::V4(_) => (self.node_masks.0, 30),
                IpNet::V6(_) => (self.node_masks.1, 126),
            };
            if mask < cidr.prefix_len() || mask > longest {
                return Err(Error::NodeMask { cidr: *cidr, mask });
            }
            let same_family = |other: &IpNet| other.addr().is_ipv4() == cidr.addr().is_ipv4();
            if self.cluster_cidr[..index].iter().any(same_family) {
                return Err(Error::DuplicateFamily(*cidr));
            }
        }
        match pool::overlap(&self.load_balancer_pools, &self.cluster_cidr, &self.service_cidr) {
            Some(words) => Err(Error::Pool(words)),
            None => Ok(()),
        }
    }
}
