//! The Node object: made once, then kept true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, Taint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::conditions::{self, Health};
use super::machine::{self, Capacity};
use crate::clock;
use crate::cni::Cni;
use crate::docker::Engine;
use crate::events::{Level, Recorder};
use crate::settings::Args;

/// How often the node is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many looks until the slower things (Docker, pressure, images) are looked at again.
const SLOW_LOOKS: u64 = 10;
/// A status that did not change is written again after this long (upstream's report frequency).
const REPORT_SECONDS: f64 = 300.0;
/// Most images that are listed, and names of each (upstream's bounds).
const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;

/// Keeps the Node object true.
pub struct Registrar {
    /// Flags.
    pub args: Arc<Args>,
    /// The API.
    pub client: Client,
    /// Docker.
    pub engine: Engine,
    /// The network.
    pub cni: Cni,
    /// Port of the kubelet's API.
    pub port: u16,
    /// Amounts.
    pub capacity: Capacity,
    /// `status.nodeInfo`.
    pub info: k8s_openapi::api::core::v1::NodeSystemInfo,
}

impl Registrar {
    fn api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let architecture = machine::architecture().to_owned();
        BTreeMap::from([
            ("kubernetes.io/hostname".to_owned(), self.args.node_name.clone()),
            ("kubernetes.io/os".to_owned(), "linux".to_owned()),
            ("kubernetes.io/arch".to_owned(), architecture.clone()),
            ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
            ("beta.kubernetes.io/arch".to_owned(), architecture),
        ])
    }

    fn status(&self, conditions: Vec<NodeCondition>, images: Vec<ContainerImage>) -> NodeStatus {
        let (capacity, allocatable) = self.capacity.quantities(self.args.max_pods);
        let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
        let mut addresses: Vec<NodeAddress> =
            self.args.node_ip.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
        addresses.push(address("Hostname", self.args.node_name.clone()));
        NodeStatus {
            addresses: Some(addresses),
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            conditions: Some(conditions),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(self.port) }),
            }),
            images: Some(images),
            node_info: Some(self.info.clone()),
            ..Default::default()
        }
    }

    /// Makes the Node object, or brings the labels of the one that is there up to date; tries until it is done.
    pub async fn register(&self) -> Node {
        for attempt in 0_u32.. {
            match self.try_register().await {
                Ok(node) => return node,
                Err(error) => tracing::warn!(%error, "cannot register the node"),
            }
            tokio::time::sleep(Duration::from_millis((100 << attempt.min(6)).min(5000))).await;
        }
        Node::default()
    }

    async fn try_register(&self) -> Result<Node, kube::Error> {
        if let Some(known) = self.api().get_opt(&self.args.node_name).await? {
            let labels = known.metadata.labels.clone().unwrap_or_default();
            let missing = self.labels().into_iter().any(|(key, value)| labels.get(&key) != Some(&value));
            if !missing {
                return Ok(known);
            }
            let patch = json!({"metadata": {"labels": self.labels()}});
            return self
                .api()
                .patch(&self.args.node_name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
        }
        let health = self.look_slow().await;
        let node = Node {
            metadata: ObjectMeta {
                name: Some(self.args.node_name.clone()),
                labels: Some(self.labels()),
                annotations: Some(BTreeMap::from([(
                    "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                    "true".to_owned(),
                )])),
                ..Default::default()
            },
            spec: Some(NodeSpec {
                taints: Some(vec![Taint {
                    key: "node.kubernetes.io/not-ready".to_owned(),
                    effect: "NoSchedule".to_owned(),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            status: Some(self.status(conditions::conditions(&health, &[], clock::now()), Vec::new())),
        };
        self.api().create(&PostParams::default(), &node).await
    }

    fn network(&self) -> Option<String> {
        self.cni.ready().err().map(|error| {
            tracing::debug!(%error, "no network yet");
            conditions::network_reason()
        })
    }

    async fn look_slow(&self) -> Health {
        let runtime = self.engine.ping().await.err().map(|error| error.to_string());
        let (memory, disk, pids) = conditions::pressure(&self.args);
        Health { runtime, network: self.network(), memory, disk, pids }
    }

    async fn images(&self) -> Vec<ContainerImage> {
        let mut images = self.engine.images().await.unwrap_or_default();
        images.retain(|image| image.repo_tags.iter().any(|name| !name.contains("<none>")));
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        images.truncate(MAX_IMAGES);
        let entry = |image: bollard::models::ImageSummary| {
            let names =
                image.repo_digests.into_iter().chain(image.repo_tags).filter(|name| !name.contains("<none>"));
            ContainerImage {
                names: Some(names.take(MAX_IMAGE_NAMES).collect()),
                size_bytes: Some(image.size),
            }
        };
        images.into_iter().map(entry).collect()
    }

    /// Keeps the status true until the process ends; `network` learns why pods get no network.
    pub async fn run(self, mut node: Node, network: watch::Sender<Option<String>>, events: Recorder) {
        let mut health = Health::default();
        let mut images = Vec::new();
        let mut written = None;
        let mut failed = false;
        for look in 0_u64.. {
            let slow = look % SLOW_LOOKS == 0;
            let fresh = if slow {
                images = self.images().await;
                self.look_slow().await
            } else {
                Health { network: self.network(), ..health.clone() }
            };
            network.send_if_modified(|known| {
                let changed = *known != fresh.network;
                known.clone_from(&fresh.network);
                changed
            });
            let changed = fresh != health || look == 0;
            health = fresh;
            let now = clock::now();
            let overdue = written.is_none_or(|last| clock::seconds_between(last, now) > REPORT_SECONDS);
            if changed || slow || overdue || failed {
                let known = node.status.clone().unwrap_or_default();
                let list =
                    conditions::conditions(&health, known.conditions.as_deref().unwrap_or_default(), now);
                let status = self.status(list, images.clone());
                if overdue || differs(&known, &status) {
                    announce(&events, &known, &status, &self.args.node_name);
                    match self.write(&status).await {
                        Ok(answer) => {
                            node = answer;
                            written = Some(now);
                            failed = false;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "cannot write the node's status");
                            failed = true;
                        }
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn write(&self, status: &NodeStatus) -> Result<Node, kube::Error> {
        let api = self.api();
        let patch = Patch::Strategic(patch(status));
        match api.patch_status(&self.args.node_name, &PatchParams::default(), &patch).await {
            // Someone deleted the object: the node comes back as upstream's does.
            Err(kube::Error::Api(answer)) if answer.code == 404 => self.try_register().await,
            other => other,
        }
    }
}

/// The patch that writes a status. Addresses are merged by their type, of which a node with two families has one twice:
/// they must be replaced as a whole (kubernetes/kubernetes#79391).
fn patch(status: &NodeStatus) -> Value {
    let mut patch = json!({ "status": status });
    if let Some(addresses) = patch["status"]["addresses"].as_array_mut() {
        addresses.push(json!({"$patch": "replace"}));
    }
    patch
}

/// Tells when the node becomes ready or stops being so.
fn announce(events: &Recorder, old: &NodeStatus, new: &NodeStatus, name: &str) {
    let ready = |status: &NodeStatus| {
        let mut all = status.conditions.iter().flatten();
        all.find(|condition| condition.type_ == "Ready").map(|condition| condition.status == "True")
    };
    match (ready(old), ready(new)) {
        (Some(false) | None, Some(true)) => {
            events.node(Level::Normal, "NodeReady", format!("Node {name} status is now: NodeReady"));
        }
        (Some(true), Some(false)) => {
            events.node(Level::Normal, "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
        }
        _ => {}
    }
}

/// Whether more than heartbeats changed.
fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| -> Value {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        let own = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
        if let Some(list) = &mut status.conditions {
            list.retain(|condition| own.contains(&condition.type_.as_str()));
            list.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        json!({"conditions": status.conditions, "addresses": status.addresses, "capacity": status.capacity,
            "allocatable": status.allocatable, "images": status.images.unwrap_or_default(),
            "info": status.node_info, "endpoints": status.daemon_endpoints})
    };
    plain(old) != plain(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn addresses_of_one_type_are_written_as_a_whole() {
        let address = |ip: &str| NodeAddress { type_: "InternalIP".to_owned(), address: ip.to_owned() };
        let addresses = Some(vec![address("10.0.0.1"), address("fd00::1")]);
        let written = patch(&NodeStatus { addresses, ..Default::default() });
        assert_eq!(written["status"]["addresses"].as_array().map(Vec::len), Some(3));
        assert_eq!(written["status"]["addresses"][2], json!({"$patch": "replace"}));
        assert!(patch(&NodeStatus::default())["status"]["addresses"].is_null());
    }

    #[test]
    fn heartbeats_alone_are_no_difference() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = conditions::conditions(&Health::default(), &[], at(0));
        let second = conditions::conditions(&Health::default(), &first, at(10));
        let with = |conditions| NodeStatus { conditions: Some(conditions), ..Default::default() };
        assert!(!differs(&with(first.clone()), &with(second)));
        let down = Health { runtime: Some("gone".to_owned()), ..Default::default() };
        let third = conditions::conditions(&down, &first, at(10));
        assert!(differs(&with(first), &with(third)));
    }
}
