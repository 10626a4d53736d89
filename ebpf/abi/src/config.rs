//! The node: its addresses, devices and neighbours.

use crate::{Addr, Be16, Prefix};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The one entry of `CONFIG`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Config {
    /// [`crate::ABI_VERSION`]; anything else makes the programs drop what pods send and receive.
    pub abi_version: u32,
    /// `Config::*` bits.
    pub flags: u32,
    /// The node's address on the uplink: source of masqueraded packets, destination of NodePorts.
    pub node_v4: Addr,
    /// The node's IPv6 address, or `::`.
    pub node_v6: Addr,
    /// First address of this node's pod CIDR: source of NodePort traffic sent to backends on other nodes.
    pub gateway_v4: Addr,
    /// The same for IPv6, or `::`.
    pub gateway_v6: Addr,
    /// Addresses of all pods of the cluster. Never looked up as service addresses, never masqueraded to.
    pub cluster_v4: Prefix,
    /// The same for IPv6, or unset.
    pub cluster_v6: Prefix,
    /// Addresses of the pods of this node: sources that are masqueraded.
    pub pods_v4: Prefix,
    /// The same for IPv6, or unset.
    pub pods_v6: Prefix,
    /// ClusterIPs: packets for an address in it that is no service are dropped (`NoService`).
    pub services_v4: Prefix,
    /// The same for IPv6, or unset.
    pub services_v6: Prefix,
    /// Cookie of the node's own network namespace.
    pub netns_cookie: u64,
    /// The uplink's interface index.
    pub uplink_ifindex: u32,
    /// The VXLAN device's interface index; 0 with native routing.
    pub overlay_ifindex: u32,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port of the overlay between nodes.
    pub vxlan_port: Be16,
    /// First source port for masquerade and NodePort SNAT. The range must not meet the node's
    /// `ip_local_port_range`, nor the NodePort range. Machine order; see [`Config::SNAT_PORT_MIN`].
    pub snat_port_min: u16,
    /// Last source port for masquerade and NodePort SNAT. Machine order.
    pub snat_port_max: u16,
    /// The uplink's link-layer address, with which `ANNOUNCED` addresses are answered for.
    pub uplink_mac: [u8; 6],
}

impl Config {
    /// Flag: pods of other nodes are reached through the VXLAN device; otherwise by the node's own routes.
    pub const OVERLAY: u32 = 1 << 0;
    /// Flag: what pods send out of the cluster leaves with the node's address.
    pub const MASQUERADE: u32 = 1 << 1;
    /// Flag: `DIRECT` has prefixes that are reached without masquerade.
    pub const DIRECT: u32 = 1 << 2;
    /// Flag: connections between pods of this node may go from socket to socket. Sockets keep their program when it
    /// is detached, so this, too, says whether it may do anything.
    pub const SPLICE: u32 = 1 << 3;
    /// Default of [`Config::snat_port_min`], below the NodePort range. The range has a port for every second one of Linux's
    /// `ip_local_port_range` (32768 to 60999), from which one client connects.
    pub const SNAT_PORT_MIN: u16 = 15872;
    /// Default of [`Config::snat_port_max`].
    pub const SNAT_PORT_MAX: u16 = 29999;
    /// Link-local address that is every pod's gateway, and the source of what a pod sends to itself through
    /// a Service (so that its reply leaves the pod and can be translated).
    pub const POD_GATEWAY_V4: Addr = Addr::v4([169, 254, 1, 1]);
    /// The same for IPv6.
    pub const POD_GATEWAY_V6: Addr = Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}

/// Value of `NETNS`: whose sockets live in a network namespace.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NetnsEntry {
    /// `NetnsEntry::POD` or `NetnsEntry::NODE`.
    pub role: u32,
    /// [`crate::Endpoint::id`] for a pod, 0 for the node.
    pub endpoint: u32,
}

impl NetnsEntry {
    /// Role: a pod of this node.
    pub const POD: u32 = 1;
    /// Role: this node itself.
    pub const NODE: u32 = 2;
}

/// Value of `ROUTES`: where a pod CIDR lives.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Route {
    /// Address of the node, as the underlay reaches it and as it sends (outer source).
    pub node: Addr,
    /// Zero.
    pub flags: u32,
}

/// Value of `NODES`: an address that belongs to a node.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Node {
    /// `Node::*` bits.
    pub flags: u32,
}

impl Node {
    /// Flag: the address is this node's own (uplink, gateway, any other interface). Traffic between a pod and
    /// the node it runs on is always allowed.
    pub const SELF: u32 = 1 << 0;
    /// Flag: NodePorts answer on this address of this node (`--nodeport-addresses`).
    pub const NODE_PORTS: u32 = 1 << 1;
}
