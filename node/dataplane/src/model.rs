//! What the dataplane keeps of the API's objects: only what decides about packets.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Key {
    /// A key of the two parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Labels of an object, shared by everything that looks at them.
pub type Labels = Arc<BTreeMap<String, String>>;

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    /// Number in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// Reads the API's spelling; None is TCP, as the API defaults it.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }
}

/// A named port of a pod's container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// Bits per second that a pod may receive and send (annotations `kubernetes.io/ingress-bandwidth` and
/// `kubernetes.io/egress-bandwidth`); None is unbounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// What it receives.
    pub ingress: Option<u64>,
    /// What it sends.
    pub egress: Option<u64>,
}

/// Reads a bandwidth, a quantity of bits per second, such as `10M`. Upstream takes 1k to 1P.
#[must_use]
pub fn bandwidth(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor: f64 = match suffix {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => return None,
    };
    let bits = number.parse::<f64>().ok()? * factor;
    (1e3..=1e15).contains(&bits).then_some(bits as u64)
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace and name.
    pub key: Key,
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, one of each family at most.
    pub addresses: Vec<IpAddr>,
    /// Node it is bound to; empty before.
    pub node: String,
    /// Whether it shares its node's network namespace.
    pub host_network: bool,
    /// Whether all its containers have ended for good, so that its address may be somebody else's.
    pub finished: bool,
    /// Its containers' named ports.
    pub ports: Vec<NamedPort>,
    /// Bounds of what it receives and sends.
    pub rates: Rates,
    /// Its share of a Service's connections (annotation `fairlead.io/weight`); None is one share.
    pub weight: Option<u16>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Addresses of its pods, one block of each family at most; empty until they are allotted.
    pub pod_cidrs: Vec<IpNet>,
    /// Its addresses, the InternalIPs first.
    pub addresses: Vec<IpAddr>,
    /// Its topology zone; empty when it has none.
    pub zone: String,
    /// Whether it may answer for load balancers: it is Ready and not labelled
    /// `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub balances: bool,
}

impl Node {
    /// Its first address of a family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// The block of its pods' addresses of a family, without host bits.
    #[must_use]
    pub fn pod_cidr(&self, family: Family) -> Option<IpNet> {
        self.pod_cidrs.iter().map(IpNet::trunc).find(|cidr| Family::of(cidr.addr()) == family)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// Both, in the order in which they are looked at.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The address that stands for none, and for every one of the node.
    #[must_use]
    pub fn unspecified(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when the Service has one port only.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number on the Service's addresses.
    pub port: u16,
    /// Its number on every node's addresses; 0 is none.
    pub node_port: u16,
}

/// How new connections are spread over backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Algorithm {
    /// In turn.
    RoundRobin,
    /// Any with the same probability.
    Random,
    /// Of two drawn at random the one with fewer connections.
    LeastConnections,
    /// By the flow, the same on every node.
    Maglev,
}

impl Algorithm {
    /// Reads the annotation `fairlead.io/load-balancing`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "round-robin" => Some(Algorithm::RoundRobin),
            "random" => Some(Algorithm::Random),
            "least-connections" => Some(Algorithm::LeastConnections),
            "maglev" => Some(Algorithm::Maglev),
            _ => None,
        }
    }

    /// Its number in the maps.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Algorithm::RoundRobin => fairlead_abi::Service::ROUND_ROBIN,
            Algorithm::Random => fairlead_abi::Service::RANDOM,
            Algorithm::LeastConnections => fairlead_abi::Service::LEAST,
            Algorithm::Maglev => fairlead_abi::Service::MAGLEV,
        }
    }
}

/// A Service that has a virtual address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub key: Key,
    /// Its cluster addresses, one of each family at most.
    pub cluster_ips: Vec<IpAddr>,
    /// spec.externalIPs
    pub external_ips: Vec<IpAddr>,
    /// Addresses of status.loadBalancer.ingress, less those of `ipMode: Proxy`: what is sent there must go through the
    /// load balancer (KEP-1860).
    pub balancer_ips: Vec<IpAddr>,
    /// spec.loadBalancerSourceRanges; None lets every client ask. Ranges that do not parse are no one's.
    pub source_ranges: Option<Vec<IpNet>>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// externalTrafficPolicy: Local
    pub external_local: bool,
    /// internalTrafficPolicy: Local
    pub internal_local: bool,
    /// Seconds that a client stays with a backend; 0 is no affinity.
    pub affinity_seconds: u32,
    /// spec.healthCheckNodePort; 0 is none.
    pub health_check_node_port: u16,
    /// Annotation `fairlead.io/load-balancing`; None leaves it to where the Service is asked from.
    pub algorithm: Option<Algorithm>,
    /// Annotation `fairlead.io/direct-server-return`.
    pub direct_return: bool,
}

impl Service {
    /// One that has nothing but its name.
    #[must_use]
    pub fn new(key: Key) -> Self {
        Service {
            key,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            balancer_ips: Vec::new(),
            source_ranges: None,
            ports: Vec::new(),
            external_local: false,
            internal_local: false,
            affinity_seconds: 0,
            health_check_node_port: 0,
            algorithm: None,
            direct_return: false,
        }
    }
}

/// A backend of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses; all of the slice's family.
    pub addresses: Vec<IpAddr>,
    /// Node it runs on; empty when unknown.
    pub node: String,
    /// Condition `ready`; absent counts as true.
    pub ready: bool,
    /// Condition `serving`; absent counts as `ready`.
    pub serving: bool,
    /// Condition `terminating`.
    pub terminating: bool,
    /// Zones that should use it (hints.forZones).
    pub for_zones: Vec<String>,
    /// Nodes that should use it (hints.forNodes).
    pub for_nodes: Vec<String>,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Its name; the name of the Service's port it belongs to.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// An EndpointSlice. All its addresses are of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its namespace and name.
    pub key: Key,
    /// The Service it belongs to.
    pub service: Key,
    /// Its ports.
    pub ports: Vec<SlicePort>,
    /// Its backends.
    pub endpoints: Vec<Endpoint>,
}

/// One thing that happened in the cluster.
#[derive(Clone, Debug)]
pub enum Change {
    /// A pod is new or different.
    Pod(Pod),
    /// A pod is gone.
    PodGone(Key),
    /// A namespace is new or different.
    Namespace(Namespace),
    /// A namespace is gone.
    NamespaceGone(Arc<str>),
    /// A node is new or different.
    Node(Node),
    /// A node is gone.
    NodeGone(Arc<str>),
    /// A Service is new or different.
    Service(Service),
    /// A Service is gone or has no virtual address any more.
    ServiceGone(Key),
    /// An EndpointSlice is new or different.
    Slice(EndpointSlice),
    /// An EndpointSlice is gone.
    SliceGone(Key),
    /// A NetworkPolicy is new or different.
    Policy(Box<crate::policy::spec::Policy>),
    /// A NetworkPolicy is gone.
    PolicyGone(Key),
    /// A whole list of one kind begins: at first, and again whenever the watch could not go on where it was.
    Listing(Kind),
    /// The whole list of one kind was sent; objects of that kind that were not in it are gone.
    Listed(Kind),
}

/// Kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Pods
    Pod,
    /// Namespaces
    Namespace,
    /// Nodes
    Node,
    /// Services
    Service,
    /// EndpointSlices
    Slice,
    /// NetworkPolicies
    Policy,
}

impl Kind {
    /// Every kind; the maps are written once all of them have been listed.
    pub const ALL: [Kind; 6] =
        [Kind::Pod, Kind::Namespace, Kind::Node, Kind::Service, Kind::Slice, Kind::Policy];
}

/// The addresses in a list of texts, each once; what is no address (a host name) is left out.
pub fn addresses_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in texts.into_iter().filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_quantities_within_upstreams_bounds() {
        for (text, expected) in [
            ("10M", Some(10_000_000)),
            ("1.5G", Some(1_500_000_000)),
            ("1Mi", Some(1_048_576)),
            ("1000", Some(1000)),
            ("999", None),
            ("2000P", None),
            ("fast", None),
            ("", None),
        ] {
            assert_eq!(bandwidth(text), expected, "{text}");
        }
    }
}
