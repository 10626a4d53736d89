//! The CNI contract and what both of its ends share: the plugin `fairlead-cni` and the node dataplane.
//!
//! `spec` holds the types of the CNI specification, `protocol` what the plugin says to the dataplane over its
//! socket, `netlink` and `netns` the kernel work inside a pod's network namespace.

pub mod netlink;
pub mod netns;
pub mod plugin;
pub mod protocol;
pub mod spec;

/// Link-local next hop of every pod's default route; a permanent neighbour entry answers for it (RFC 3927 range).
pub const POD_NEXT_HOP: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 1, 1);
