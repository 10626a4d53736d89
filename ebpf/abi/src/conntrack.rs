//! Flows.
//!
//! `CONNTRACK` has one entry per flow, under the addresses the backend sees (after DNAT, before masquerade),
//! the smaller end first, so that both directions find it with one look-up. `NAT` has what must be found by
//! the addresses a packet carries before translation.

use crate::{Addr, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Key of `CONNTRACK`: the two ends in the order of [`CtKey::set`].
///
/// ICMP echo has its identifier as the port of the end that asks and 0 as the other; protocols without ports
/// have 0 and 0.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CtKey {
    /// The smaller end's address.
    pub low: Addr,
    /// The greater end's address.
    pub high: Addr,
    /// The smaller end's port.
    pub low_port: Be16,
    /// The greater end's port.
    pub high_port: Be16,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub _pad: [u8; 3],
}

impl CtKey {
    /// Becomes the key of a packet between these ends; true when the source is the greater end. Ends compare
    /// as native integers: last address word, the other words, port.
    #[inline(always)]
    pub fn set(&mut self, src: &Addr, src_port: Be16, dst: &Addr, dst_port: Be16, proto: u8) -> bool {
        let high = Self::greater(src, src_port, dst, dst_port);
        if high {
            (self.low, self.low_port, self.high, self.high_port) = (*dst, dst_port, *src, src_port);
        } else {
            (self.low, self.low_port, self.high, self.high_port) = (*src, src_port, *dst, dst_port);
        }
        self.proto = proto;
        self._pad = [0; 3];
        high
    }

    #[inline(always)]
    fn greater(a: &Addr, a_port: Be16, b: &Addr, b_port: Be16) -> bool {
        let (x, y) = (&a.0, &b.0);
        if x[3] != y[3] {
            x[3] > y[3]
        } else if x[0] != y[0] {
            x[0] > y[0]
        } else if x[1] != y[1] {
            x[1] > y[1]
        } else if x[2] != y[2] {
            x[2] > y[2]
        } else {
            a_port.0 > b_port.0
        }
    }
}

/// Value of `CONNTRACK`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CtEntry {
    /// Second of the monotonic clock after which the entry counts as absent.
    pub expires: u32,
    /// `CtEntry::*` state.
    pub state: u8,
    /// `CtEntry::*` bits.
    pub flags: u8,
    /// Zero.
    pub _pad: u16,
    /// [`crate::Endpoint::revision`] under which the opener's egress rules allowed the flow; 0 when the
    /// opener is no pod of this node.
    pub opener_revision: u32,
    /// The same for the ingress rules of the end that was asked.
    pub asked_revision: u32,
    /// Where packets back to a client outside the cluster leave; 0 when routing decides.
    pub ifindex: u32,
    /// [`crate::Service::id`] when the flow was translated.
    pub service: u32,
    /// Source before translation, when `SNAT` is set.
    pub client: Addr,
    /// Destination before translation, when `DNAT` is set.
    pub virtual_addr: Addr,
    /// Source port before translation.
    pub client_port: Be16,
    /// Destination port before translation.
    pub virtual_port: Be16,
}

impl CtEntry {
    /// Flag: the greater end of the key opened the flow.
    pub const HIGH_OPENED: u8 = 1 << 0;
    /// Flag: the destination was translated.
    pub const DNAT: u8 = 1 << 1;
    /// Flag: the source was translated, too.
    pub const SNAT: u8 = 1 << 2;
    /// Flag: opened by the node itself; allowed under every policy.
    pub const NODE: u8 = 1 << 3;
    /// Flag: the TCP end that opened has sent FIN.
    pub const FIN_OPENER: u8 = 1 << 4;
    /// Flag: the other TCP end has sent FIN.
    pub const FIN_ASKED: u8 = 1 << 5;

    /// Flag: the flow counts in `LOADS`.
    pub const COUNTED: u8 = 1 << 6;

    /// State: no packet has come back yet.
    pub const NEW: u8 = 0;
    /// State: packets went both ways.
    pub const ESTABLISHED: u8 = 1;
    /// State: TCP is over (RST, or FIN from both); a SYN opens the flow anew.
    pub const CLOSED: u8 = 2;

    /// Seconds a TCP flow without an answer stays.
    pub const TCP_NEW_SECONDS: u32 = 60;
    /// Seconds an idle TCP flow stays, more than two keep-alive intervals of two hours (RFC 5382 section 5).
    pub const TCP_ESTABLISHED_SECONDS: u32 = 6 * 3600;
    /// Seconds a TCP flow stays after its end.
    pub const TCP_CLOSED_SECONDS: u32 = 10;
    /// Seconds a datagram flow without an answer stays.
    pub const OTHER_NEW_SECONDS: u32 = 30;
    /// Seconds an idle datagram flow stays (RFC 4787 section 4.3 asks for two minutes at least).
    pub const OTHER_ESTABLISHED_SECONDS: u32 = 180;
}

/// Key of `NAT`: a packet's addresses as they are before the translation.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NatKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// IP protocol number.
    pub proto: u8,
    /// `NatKey::*` kind.
    pub kind: u8,
    /// Zero.
    pub _pad: u16,
}

impl NatKey {
    /// Client to service address; the value is the backend (and the source to use, if any).
    pub const SERVICE: u8 = 0;
    /// Pod to the outside; the value's source is the node's address and the port claimed.
    pub const MASQUERADE: u8 = 1;
    /// The outside to the node; the value's destination is the pod. Its presence is the claim of the port.
    pub const UNMASQUERADE: u8 = 2;
}

/// Value of `NAT`: what the packet's addresses become. An end that stays as it is has the packet's own.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NatValue {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// Second of the monotonic clock after which the entry counts as absent.
    pub expires: u32,
    /// Backend slot, for `SERVICE`.
    pub slot: u32,
    /// Zero.
    pub _pad: u32,
}

/// Key of `FRAGMENTS`: a datagram (RFC 791, RFC 8200) that came in pieces.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification field; IPv4's has 16 bits.
    pub id: crate::Be32,
    /// IP protocol number; 0 for IPv6, whose pieces need not agree in it (RFC 8200 section 4.5).
    pub proto: u8,
    /// Zero.
    pub _pad: [u8; 3],
}

/// Value of `FRAGMENTS`: what only the first piece carries.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragmentValue {
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// Second of the monotonic clock after which the entry counts as absent.
    pub expires: u32,
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub _pad: [u8; 3],
}
