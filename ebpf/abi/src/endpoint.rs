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
    /// Flag: `RATES` bounds what the pod receives.
    pub const INGRESS_RATE: u32 = 1 << 1;
    /// Flag: `RATES` bounds what the pod sends.
    pub const EGRESS_RATE: u32 = 1 << 2;
}

/// Key of `RATES`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RateKey {
    /// [`Endpoint::id`].
    pub endpoint: u32,
    /// `RateKey::*` direction.
    pub direction: u32,
}

impl RateKey {
    /// Direction: what the pod receives (`kubernetes.io/ingress-bandwidth`).
    pub const INGRESS: u32 = 0;
    /// Direction: what the pod sends (`kubernetes.io/egress-bandwidth`).
    pub const EGRESS: u32 = 1;
}

/// Value of `RATES`: a token bucket.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rate {
    /// Bytes per second, link header included; never 0. Written by userspace.
    pub bytes_per_second: u64,
    /// Bytes that may pass at once. Written by userspace.
    pub burst: u64,
    /// Bytes that may pass now. Written by programs.
    pub tokens: u64,
    /// Nanosecond of the monotonic clock at which `tokens` was right. Written by programs.
    pub time: u64,
}
