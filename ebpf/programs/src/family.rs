//! The node's addresses in the family of a packet.

use crate::Packet;
use fairlead_abi::{Addr, Config, Prefix};

/// The configuration as one family sees it.
#[derive(Clone, Copy)]
pub struct Family<'a> {
    /// All of it.
    pub config: &'a Config,
    v6: bool,
}

impl<'a> Family<'a> {
    /// For a packet that was parsed.
    #[inline(always)]
    pub const fn of(config: &'a Config, packet: &Packet) -> Self {
        Self { config, v6: packet.is_v6() }
    }

    /// Whether the node has IPv6 pods.
    #[inline(always)]
    pub const fn has_v6(config: &Config) -> bool {
        config.pods_v6.mask.0[0] != 0
    }

    /// Addresses of all pods of the cluster.
    #[inline(always)]
    pub const fn cluster(self) -> &'a Prefix {
        if self.v6 { &self.config.cluster_v6 } else { &self.config.cluster_v4 }
    }

    /// Addresses of this node's pods.
    #[inline(always)]
    pub const fn pods(self) -> &'a Prefix {
        if self.v6 { &self.config.pods_v6 } else { &self.config.pods_v4 }
    }

    /// ClusterIPs.
    #[inline(always)]
    pub const fn services(self) -> &'a Prefix {
        if self.v6 { &self.config.services_v6 } else { &self.config.services_v4 }
    }

    /// The first address of this node's pod CIDR, which is the node's.
    #[inline(always)]
    pub const fn gateway(self) -> &'a Addr {
        if self.v6 { &self.config.gateway_v6 } else { &self.config.gateway_v4 }
    }

    /// The node's address on the uplink.
    #[inline(always)]
    pub const fn node(self) -> &'a Addr {
        if self.v6 { &self.config.node_v6 } else { &self.config.node_v4 }
    }

    /// The link-local address that is every pod's gateway.
    #[inline(always)]
    pub const fn pod_gateway(self) -> Addr {
        if self.v6 { Config::POD_GATEWAY_V6 } else { Config::POD_GATEWAY_V4 }
    }

    /// Whether the overlay leads there.
    #[inline(always)]
    pub const fn is_overlaid(self, addr: &Addr) -> bool {
        self.config.flags & Config::OVERLAY != 0 && self.cluster().contains(addr)
    }
}
