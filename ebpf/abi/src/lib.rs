//! What kernel and userspace agree on: keys and values of the BPF maps, the constants in them, and the
//! reasons a packet can be dropped for. Nothing else lives here, and nothing here does IO.
//!
//! Every type is `repr(C)`, has no implicit padding and holds no Rust enum, so that any bytes found in a
//! map are a valid value. Fields in wire order are [`Be16`], [`Be32`] or [`Addr`]; all other integers are in
//! the machine's order. A change of any layout raises [`ABI_VERSION`].
#![no_std]

mod addr;
mod config;
mod conntrack;
mod endpoint;
mod flow;
mod policy;
mod reason;
mod service;
mod splice;

pub use addr::{Addr, Be16, Be32, Prefix};
pub use config::{Config, NetnsEntry, Node, Route};
pub use conntrack::{CtEntry, CtKey, FragmentKey, FragmentValue, NatKey, NatValue};
pub use endpoint::{Endpoint, Rate, RateKey};
pub use flow::{Counter, FlowEvent, Metric, RuleHits};
pub use policy::{Rule, RuleKey};
pub use reason::Reason;
pub use service::{
    AffinityKey, AffinityValue, Backend, BackendKey, LoadKey, RangeKey, Service, ServiceKey, SocketKey,
    SocketValue, Table,
};
pub use splice::{Stream, StreamKey};

/// Version of all layouts in this crate. Stored in [`Config::abi_version`]; programs refuse to decide
/// anything (reason [`Reason::NotConfigured`]) when it is not theirs.
pub const ABI_VERSION: u32 = 2;

/// Names of the maps as they stand in the object file, with their kind and default size.
///
/// A size is the object's default; userspace sets the real one when it loads the object.
pub mod map {
    /// `Array<u32, Config>`, one entry at index 0.
    pub const CONFIG: &str = "CONFIG";
    /// `HashMap<u64, NetnsEntry>` keyed by netns cookie.
    pub const NETNS: &str = "NETNS";
    /// `HashMap<Addr, Endpoint>`: the pods of this node.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// `LpmTrie<Addr, Route>`: pod CIDRs of the other nodes. IPv4 prefixes are 96 longer.
    pub const ROUTES: &str = "ROUTES";
    /// `HashMap<Addr, Node>`: addresses of this node (with [`crate::Node::SELF`]) and of the others.
    pub const NODES: &str = "NODES";
    /// `HashMap<ServiceKey, Service>`.
    pub const SERVICES: &str = "SERVICES";
    /// `HashMap<BackendKey, Backend>`: slots 0 to `Service::backends - 1` of each service id.
    pub const BACKENDS: &str = "BACKENDS";
    /// `HashMap<u32, Table>` keyed by [`crate::Service::table`].
    pub const TABLES: &str = "TABLES";
    /// `LpmTrie<RangeKey, u32>`: clients that may ask a service with [`crate::Service::RANGES`].
    pub const RANGES: &str = "RANGES";
    /// `LruHashMap<LoadKey, u32>`: open connections, for [`crate::Service::LEAST`]. Written by programs; userspace
    /// mends what was lost.
    pub const LOADS: &str = "LOADS";
    /// `LpmTrie<Addr, u32>`: destinations outside the cluster that pods reach with their own address.
    pub const DIRECT: &str = "DIRECT";
    /// `HashMap<Addr, u32>`: addresses on the uplink's segment that this node answers ARP and neighbour discovery for.
    pub const ANNOUNCED: &str = "ANNOUNCED";
    /// `HashMap<RateKey, Rate>`.
    pub const RATES: &str = "RATES";
    /// `Array<u32, u32>`: the next slot of a service, at [`crate::Service::cursor`]. Written by programs only.
    pub const CURSORS: &str = "CURSORS";
    /// `LruHashMap<AffinityKey, AffinityValue>`. Written by programs only.
    pub const AFFINITY: &str = "AFFINITY";
    /// `LruHashMap<SocketKey, SocketValue>`. Written by programs only.
    pub const SOCKETS: &str = "SOCKETS";
    /// `LpmTrie<Addr, u32>`: address -> identity number. IPv4 prefixes are 96 longer.
    pub const IDENTITIES: &str = "IDENTITIES";
    /// `LpmTrie<RuleKey, Rule>`.
    pub const RULES: &str = "RULES";
    /// `LruHashMap<CtKey, CtEntry>`. Written by programs; userspace removes what has expired.
    pub const CONNTRACK: &str = "CONNTRACK";
    /// `LruHashMap<NatKey, NatValue>`. Written by programs; userspace removes what has expired.
    pub const NAT: &str = "NAT";
    /// `LruHashMap<FragmentKey, FragmentValue>`. Written by programs only.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// `PerCpuArray<u32, Counter>`, index = [`crate::Reason`] as u32.
    pub const DROPS: &str = "DROPS";
    /// `PerCpuHashMap<u32, RuleHits>` by rule id. An id is counted only while userspace keeps its key here.
    pub const RULE_HITS: &str = "RULE_HITS";
    /// `RingBuf` of [`crate::FlowEvent`].
    pub const FLOWS: &str = "FLOWS";
    /// `PerCpuArray<u32, u64>`, index = [`crate::Metric`] as u32.
    pub const METRICS: &str = "METRICS";
    /// `SockHash<StreamKey>`: sockets of pods whose peer is another pod of this node. Only there with
    /// [`crate::Config::SPLICE`].
    pub const SPLICES: &str = "SPLICES";
    /// `HashMap<StreamKey, Stream>`: what is known about the sockets in `SPLICES`. Written by programs only.
    pub const STREAMS: &str = "STREAMS";
    /// `PerCpuArray<u32, Counter>`, one entry: messages and bytes that went from socket to socket.
    pub const SPLICED: &str = "SPLICED";
    /// `PerCpuArray<u32, Counter>`, one entry: packets that left before the stack saw them.
    pub const EARLY: &str = "EARLY";
    /// `PerCpuArray`, one entry: working memory of the programs. Not shared with userspace.
    pub const SCRATCH: &str = "SCRATCH";

    /// Every map that carries state from one run of the agent to the next, in the order to pin them.
    pub const PINNED: [&str; 27] = [
        CONFIG, NETNS, ENDPOINTS, ROUTES, NODES, SERVICES, BACKENDS, CURSORS, AFFINITY, SOCKETS, IDENTITIES,
        RULES, CONNTRACK, NAT, FRAGMENTS, DROPS, RULE_HITS, FLOWS, METRICS, TABLES, RANGES, LOADS, DIRECT,
        ANNOUNCED, RATES, SPLICED, EARLY,
    ];

    /// Maps that are made and pinned only for splicing.
    pub const OF_SPLICING: [&str; 2] = [SPLICES, STREAMS];
}

/// Names of the programs in the object file.
pub mod program {
    /// tcx ingress of the host side of a pod's veth.
    pub const FROM_POD: &str = "from_pod";
    /// tcx egress of the host side of a pod's veth.
    pub const TO_POD: &str = "to_pod";
    /// tcx ingress of the VXLAN device.
    pub const FROM_OVERLAY: &str = "from_overlay";
    /// tcx egress of the VXLAN device.
    pub const TO_OVERLAY: &str = "to_overlay";
    /// tcx ingress of the uplink.
    pub const FROM_UPLINK: &str = "from_uplink";
    /// tcx egress of the uplink.
    pub const TO_UPLINK: &str = "to_uplink";
    /// Every tc program.
    pub const TC: [&str; 6] = [FROM_POD, TO_POD, FROM_OVERLAY, TO_OVERLAY, FROM_UPLINK, TO_UPLINK];
    /// Every `cgroup_sock_addr` program, each named after its hook.
    pub const SOCK_ADDR: [&str; 8] = [
        "connect4",
        "connect6",
        "sendmsg4",
        "sendmsg6",
        "recvmsg4",
        "recvmsg6",
        "getpeername4",
        "getpeername6",
    ];
    /// The `cgroup_sock` program for the hook `sock_release` (`BPF_CGROUP_INET_SOCK_RELEASE`): ends what counts in `LOADS`.
    pub const SOCK_RELEASE: &str = "sock_release";
    /// The `sock_ops` program that enters sockets into `SPLICES`.
    pub const SPLICE_ENTER: &str = "splice_enter";
    /// The XDP program of the uplink.
    pub const FROM_WIRE: &str = "from_wire";
    /// The `sk_msg` program of `SPLICES`.
    pub const SPLICE_SEND: &str = "splice_send";
}
