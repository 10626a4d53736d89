//! The CNI contract and what both of its ends share: the plugin `fairlead-cni` and the node dataplane.
//!
//! `spec` holds the types of the CNI specification, `protocol` what the plugin says to the dataplane over its
//! socket, `netlink` and `netns` the kernel work inside a pod's network namespace.

pub mod netlink;
pub mod netns;
pub mod plugin;
pub mod protocol;
pub mod spec;
pub mod sysctl;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Link-local next hop of every pod's default route; a permanent neighbour entry answers for it (RFC 3927 range).
pub const POD_NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The same for IPv6.
pub const POD_NEXT_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The next hop of a pod's default route of that address's family.
#[must_use]
pub fn next_hop(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { POD_NEXT_HOP.into() } else { POD_NEXT_HOP_V6.into() }
}
