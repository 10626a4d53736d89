//! The pods of this node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `ENDPOINTS`, keyed by the pod's address.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Endpoint {
    /// Interface index of the veth's side in the node. A packet from another interface with this pod's
    /// address as its source is dropped (`SpoofedSource`).
    pub ifindex: u32,
    /// Number of the endpoint on this node, never 0; shown in flow records.
    pub id: u32,
    /// Rules for what the pod receives; 0 when no policy selects it for ingress.
    pub ingress_ruleset: u32,
    /// Rules for what the pod sends; 0 when no policy selects it for egress.
    pub egress_ruleset: u32,
    /// Drawn from one counter per node that never repeats and is never 0. A new number makes every packet of
    /// the pod's established flows be evaluated again, so it is written after the rules it stands for.
    pub revision: u32,
    /// `Endpoint::*` bits.
    pub flags: u32,
    /// Address of the interface in the pod.
    pub mac: [u8; 6],
    /// Address of the interface in the node.
    pub host_mac: [u8; 6],
    /// Zero.
    pub _pad: u32,
}

impl Endpoint {
    /// Flag: nothing passes in either direction (`EndpointClosed`), except between the pod and its node. For
    /// a pod whose policies are not known yet or cannot be expressed.
    pub const CLOSED: u32 = 1 << 0;
}
