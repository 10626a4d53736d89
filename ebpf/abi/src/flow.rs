//! What the programs tell userspace.

use crate::{Addr, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `DROPS`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Their bytes, link header included.
    pub bytes: u64,
}

/// Value of `RULE_HITS`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RuleHits {
    /// Evaluations that the rule allowed: one per flow, and one per flow after each policy change.
    pub allowed: u64,
    /// Packets that the rule (a ruleset's default) dropped.
    pub dropped: u64,
    /// Bytes of the packets counted in both.
    pub bytes: u64,
}

/// A dropped packet, in the ring buffer `FLOWS`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowEvent {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// Source; `::` when the packet did not parse so far.
    pub src: Addr,
    /// Destination as the policy saw it (after DNAT).
    pub dst: Addr,
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// IP protocol number.
    pub proto: u8,
    /// `FlowEvent::*`: which program.
    pub hook: u8,
    /// [`crate::Reason`] as a number.
    pub reason: u16,
    /// [`crate::Rule::id`] that decided, or 0.
    pub rule: u32,
    /// [`crate::Endpoint::id`] whose rules decided, or 0.
    pub endpoint: u32,
    /// Interface the program is attached to.
    pub ifindex: u32,
    /// Length with link header.
    pub bytes: u32,
}

impl FlowEvent {
    /// Hook: `from_pod`.
    pub const FROM_POD: u8 = 0;
    /// Hook: `to_pod`.
    pub const TO_POD: u8 = 1;
    /// Hook: `from_overlay`.
    pub const FROM_OVERLAY: u8 = 2;
    /// Hook: `to_overlay`.
    pub const TO_OVERLAY: u8 = 3;
    /// Hook: `from_uplink`.
    pub const FROM_UPLINK: u8 = 4;
    /// Hook: `to_uplink`.
    pub const TO_UPLINK: u8 = 5;
}

macro_rules! metrics {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Index in `METRICS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Metric { $($(#[$doc])* $variant,)* }

        impl Metric {
            /// All of them, in order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name in snake case, for labels.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

metrics! {
    /// Packets handed to a pod of this node.
    ToLocalPod = "to_local_pod",
    /// Packets sent to another node's pod through the overlay.
    ToOverlay = "to_overlay",
    /// Packets sent to another node's pod as they are.
    ToNode = "to_node",
    /// Packets handed to the node's own stack.
    ToStack = "to_stack",
    /// Packets sent back to clients of NodePorts.
    ToClient = "to_client",
    /// Flows opened.
    FlowOpened = "flow_opened",
    /// Policy evaluations.
    PolicyEvaluated = "policy_evaluated",
    /// Flows whose destination was translated per packet.
    ServiceFlow = "service_flow",
    /// Flows masqueraded.
    MasqueradeFlow = "masquerade_flow",
    /// Sockets (or datagrams of unconnected ones) whose destination was translated.
    SocketTranslated = "socket_translated",
    /// Sockets refused because a service has no backend.
    SocketRefused = "socket_refused",
    /// Flow entries the kernel had no room for.
    ConntrackFull = "conntrack_full",
    /// Drop records lost because the ring buffer was full.
    FlowLost = "flow_lost",
}
