//! What the scheduler knows of nodes and pods: small structs that filters and scores read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fairlead_api::validate::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Node, Pod, PodAffinityTerm, ResourceRequirements, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// Amounts by resource name, in billionths of the resource's unit.
pub type Amounts = BTreeMap<String, i128>;

/// A port of the node that a pod takes: `(host IP, protocol, port)`.
pub type HostPort = (String, String, i32);

/// What of a pod counts for the placement of others.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    /// Uid of the controller.
    pub owner: Option<String>,
    pub priority: i32,
    pub requests: Amounts,
    pub ports: Vec<HostPort>,
    /// Required anti-affinity, which binds newcomers too.
    pub keeps_away: Vec<PodAffinityTerm>,
    pub terminating: bool,
}

/// A node with all that is placed on it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub allocatable: Amounts,
    /// Bytes by image name.
    pub images: HashMap<String, i64>,
    /// By uid.
    pub pods: HashMap<String, Arc<Placed>>,
    pub requested: Amounts,
}

/// All nodes, by name; pods of nodes that are not known yet wait here too.
#[derive(Default)]
pub struct Cluster {
    pub nodes: BTreeMap<String, NodeInfo>,
    /// Name of the node by pod uid, for removal.
    place: HashMap<String, String>,
    /// Pods whose node is not known.
    homeless: HashMap<String, HashMap<String, Arc<Placed>>>,
}

impl Cluster {
    /// Adds a node or replaces what is known of it; its pods stay.
    pub fn put_node(&mut self, node: &Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let waiting = self.homeless.remove(&name).unwrap_or_default();
        let info = self.nodes.entry(name.clone()).or_default();
        info.describe(name, node);
        for pod in waiting.into_values() {
            info.add(pod);
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.remove(name) {
            self.homeless.insert(name.to_owned(), info.pods);
        }
    }

    /// Places a pod on a node, taking it from where it was.
    pub fn place(&mut self, node: &str, pod: Arc<Placed>) {
        self.remove(&pod.uid);
        self.place.insert(pod.uid.clone(), node.to_owned());
        match self.nodes.get_mut(node) {
            Some(info) => info.add(pod),
            None => {
                self.homeless.entry(node.to_owned()).or_default().insert(pod.uid.clone(), pod);
            }
        }
    }

    /// Forgets a pod; whether it was placed.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(node) = self.place.remove(uid) else { return false };
        if let Some(info) = self.nodes.get_mut(&node) {
            info.take(uid);
        } else if let Some(waiting) = self.homeless.get_mut(&node) {
            waiting.remove(uid);
        }
        true
    }

    /// Forgets all pods, before they are listed anew.
    pub fn forget_pods(&mut self) {
        for node in self.nodes.values_mut() {
            node.pods.clear();
            node.requested.clear();
        }
        self.place.clear();
        self.homeless.clear();
    }

    pub fn is_placed(&self, uid: &str) -> bool {
        self.place.contains_key(uid)
    }
}

impl NodeInfo {
    fn describe(&mut self, name: String, node: &Node) {
        self.name = name;
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        let spec = node.spec.as_ref();
        self.unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        self.taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        let status = node.status.as_ref();
        self.allocatable = amounts(status.and_then(|s| s.allocatable.as_ref()));
        let images = status.and_then(|s| s.images.as_ref()).into_iter().flatten();
        self.images = images
            .flat_map(|i| i.names.iter().flatten().map(move |n| (n.clone(), i.size_bytes.unwrap_or(0))))
            .collect();
    }

    pub fn add(&mut self, pod: Arc<Placed>) {
        add(&mut self.requested, &pod.requests, 1);
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub fn take(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid) {
            add(&mut self.requested, &pod.requests, -1);
        }
    }
}

/// Adds (or with -1 subtracts) amounts.
fn add(sum: &mut Amounts, more: &Amounts, sign: i128) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += sign * amount;
    }
}

fn greatest(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let known = sum.entry(name.clone()).or_default();
        *known = (*known).max(*amount);
    }
}

fn amounts(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    let parse = |(name, text): (&String, &Text)| Some((name.clone(), Quantity::parse(&text.0)?.0));
    list.into_iter().flatten().filter_map(parse).collect()
}

fn requests_of(container: &Container) -> Amounts {
    amounts(container.resources.as_ref().and_then(|r: &ResourceRequirements| r.requests.as_ref()))
}

/// What a pod asks for: its containers together with sidecars, or its largest init container beside the sidecars
/// started before it, whichever is more, and its overhead (KEP-753).
pub fn requests(pod: &Pod) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut running = Amounts::new();
    for container in &spec.containers {
        add(&mut running, &requests_of(container), 1);
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let asked = requests_of(container);
        let mut together = sidecars.clone();
        add(&mut together, &asked, 1);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = together.clone();
        }
        greatest(&mut starting, &together);
    }
    add(&mut running, &sidecars, 1);
    greatest(&mut running, &starting);
    let level = amounts(spec.resources.as_ref().and_then(|r| r.requests.as_ref()));
    running.extend(level);
    add(&mut running, &amounts(spec.overhead.as_ref()), 1);
    running
}

/// The node's ports that a pod takes.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let containers =
        pod.spec.iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|port| *port > 0)?;
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((ip, p.protocol.clone().unwrap_or_else(|| "TCP".into()), port))
        })
        .collect()
}

/// The part of a pod that is kept once it has a node.
pub fn placed(pod: &Pod) -> Placed {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let owners = meta.owner_references.iter().flatten();
    let anti = spec.and_then(|s| s.affinity.as_ref()).and_then(|a| a.pod_anti_affinity.as_ref());
    Placed {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        labels: meta.labels.clone().unwrap_or_default(),
        owner: owners.filter(|o| o.controller == Some(true)).map(|o| o.uid.clone()).next(),
        priority: spec.and_then(|s| s.priority).unwrap_or(0),
        requests: requests(pod),
        ports: host_ports(pod),
        keeps_away: anti
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.clone())
            .unwrap_or_default(),
        terminating: meta.deletion_timestamp.is_some(),
    }
}
