//! Why a packet was dropped.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a packet was dropped; index in `DROPS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All of them, in order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name in snake case, for labels and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The reason with this number.
            pub fn from_u32(number: u32) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }
        }
    };
}

reasons! {
    /// Headers that contradict themselves or end too early.
    Malformed = "malformed",
    /// The node's agent has not written `CONFIG`, or wrote another version of it.
    NotConfigured = "not_configured",
    /// Neither IPv4, IPv6 nor ARP.
    UnknownEtherType = "unknown_ether_type",
    /// IPv6 on a node that has no IPv6 pod CIDR.
    Ipv6Unsupported = "ipv6_unsupported",
    /// IPv6 neighbour discovery and multicast listener reports, which every interface sends by itself.
    /// Counted, but never put on the flow ring buffer.
    LinkLocalNoise = "link_local_noise",
    /// A source address that does not belong where the packet came from.
    SpoofedSource = "spoofed_source",
    /// No pod of this node has the destination address.
    UnknownEndpoint = "unknown_endpoint",
    /// The pod's policies are not known yet, or cannot be expressed.
    EndpointClosed = "endpoint_closed",
    /// No ingress rule of the destination allows it.
    PolicyIngress = "policy_ingress",
    /// No egress rule of the source allows it.
    PolicyEgress = "policy_egress",
    /// The service has no backend; the sender was told so.
    NoBackend = "no_backend",
    /// The service has no backend on this node and says that only such may be used; no answer is sent.
    NoLocalBackend = "no_local_backend",
    /// An address of the service range that no service has on that port.
    NoService = "no_service",
    /// A pod address that no node is known to have.
    NoRoute = "no_route",
    /// An overlay packet with a foreign network number, from no node, or with a source that its node does not
    /// have; or a pod that tries to send such packets itself.
    ForgedOverlay = "forged_overlay",
    /// A later piece of a datagram whose first piece was not seen.
    FragmentUnknown = "fragment_unknown",
    /// Multicast, broadcast, loopback or unspecified destination.
    BadDestination = "bad_destination",
    /// No source port or pair of ends is free for a translation.
    NatExhausted = "nat_exhausted",
    /// A client that the service's source ranges do not hold.
    SourceRange = "source_range",
    /// More than the pod's bandwidth annotation allows.
    RateLimited = "rate_limited",
    /// A packet whose hop limit ends on this node.
    HopLimit = "hop_limit",
}
