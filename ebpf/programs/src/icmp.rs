//! ICMP errors belong to the flow of the packet they quote. They pass with it, and what they quote is
//! translated back, else path MTU discovery and "port unreachable" end at every translation.
//!
//! The quoted transport checksum is left as it is: nobody checks it, and TCP's is not even quoted.

use crate::parse::{Ipv4, Ipv6, L3, Packet, extensions, proto};
use crate::rewrite::{self, Side, Sum};
use crate::steps::outcome;
use crate::{Scratch, World};
use fairlead_abi::{Addr, Be16, CtEntry, NatKey, Reason};

const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What is done about an error.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// [`read`].
    Read = 0,
    /// [`related`], without and with `defer`.
    Relate = 1,
    Defer = 2,
    /// [`is_direct`].
    Direct = 3,
    /// [`unmasquerade`].
    Reveal = 4,
    /// [`masquerade`].
    Hide = 5,
}

/// The body of every step; `scratch.inner_known` says what it found.
///
/// # Errors
/// `Malformed` when the kernel refuses a write.
#[inline(always)]
pub fn take<W: World>(world: &W, scratch: &mut Scratch, step: Step) -> Result<(), Reason> {
    match step {
        Step::Read => scratch.inner_known = quoted(world, scratch),
        Step::Direct => scratch.inner_known = answered_elsewhere(world, scratch),
        Step::Relate | Step::Defer => return relate(world, scratch, step == Step::Defer),
        Step::Reveal => return reveal(world, scratch),
        Step::Hide => return hide(world, scratch),
    }
    Ok(())
}

/// Takes a step; what it found.
#[inline(always)]
fn found<W: World>(world: &W, scratch: &mut Scratch, step: Step) -> Result<bool, Reason> {
    outcome(world.icmp(scratch, step))?;
    Ok(scratch.inner_known)
}

/// Reads what the error quotes into `scratch.inner`; false when that is no beginning of a packet that the receiver could
/// have sent.
#[inline(always)]
pub fn read<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    found(world, scratch, Step::Read).unwrap_or(false)
}

/// The body of [`read`].
#[inline(never)]
fn quoted<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    let at = scratch.packet.l4 + 8;
    let left = scratch.packet.l4_len.saturating_sub(8);
    let v6 = scratch.packet.is_v6();
    let header = if v6 { quoted_v6(world, scratch, at, left) } else { quoted_v4(world, scratch, at, left) };
    let Some(header) = header else { return false };
    let mut head = [Be16(0); 4];
    if left < header + 8 || scratch.inner.src != scratch.packet.dst || !world.load(at + header, &mut head) {
        return false;
    }
    let inner = &mut scratch.inner;
    (inner.src_port, inner.dst_port) = match (scratch.inner_proto as u8, head[0].get() >> 8, v6) {
        (proto::TCP | proto::UDP | proto::SCTP, ..) => (head[0], head[1]),
        (proto::ICMP, 8, false) | (proto::ICMPV6, 128, true) => (head[2], Be16(0)),
        (proto::ICMP, 0, false) | (proto::ICMPV6, 129, true) => (Be16(0), head[2]),
        _ => (Be16(0), Be16(0)),
    };
    scratch.inner_l3 = at;
    scratch.inner_l4 = at + header;
    true
}

/// Addresses and protocol of the IPv4 header at an offset; returns its length.
#[inline(always)]
fn quoted_v4<W: World>(world: &W, scratch: &mut Scratch, at: u32, left: u32) -> Option<u32> {
    let mut ip = Ipv4::default();
    if left < 20 || !world.load(at, &mut ip) {
        return None;
    }
    let header = u32::from(ip.version_ihl & 15) * 4;
    if ip.version_ihl >> 4 != 4 || header < 20 || ip.fragment.get() & FRAGMENT_OFFSET != 0 {
        return None;
    }
    scratch.inner.src = Addr::from_v4_word(ip.src);
    scratch.inner.dst = Addr::from_v4_word(ip.dst);
    scratch.inner_proto = u32::from(ip.proto);
    Some(header)
}

/// The same for IPv6; the length is that of the extensions, too.
#[inline(always)]
fn quoted_v6<W: World>(world: &W, scratch: &mut Scratch, at: u32, left: u32) -> Option<u32> {
    let mut ip = Ipv6::default();
    if left < Ipv6::LEN || !world.load(at, &mut ip) || !ip.is_v6() || ip.dst.is_v4() {
        return None;
    }
    let chain = &mut scratch.chain;
    chain.begin(at + Ipv6::LEN, left - Ipv6::LEN, ip.next);
    if extensions(world, chain).is_err() || chain.piece == Packet::LATER_FRAGMENT {
        return None;
    }
    (scratch.inner.src, scratch.inner.dst) = (ip.src, ip.dst);
    scratch.inner_proto = u32::from(chain.next);
    Some(chain.at - at)
}

/// If the quoted packet is of a known flow, translates the error for its receiver and returns the flow's
/// interface, which is then in `scratch.fresh`, too. `scratch.to` has the new destination.
///
/// With `defer`, what goes to a client outside stays as it is: the stack would refuse a source that is its
/// own; the uplink's hook sees the packet again.
///
/// # Errors
/// `Malformed` when the kernel refuses a write.
#[inline(always)]
pub fn related<W: World>(world: &W, scratch: &mut Scratch, defer: bool) -> Result<Option<u32>, Reason> {
    let known = found(world, scratch, if defer { Step::Defer } else { Step::Relate })?;
    Ok(known.then_some(scratch.fresh.ifindex))
}

/// Says in `scratch.inner_known` whether there was such a flow.
#[inline(never)]
fn relate<W: World>(world: &W, scratch: &mut Scratch, defer: bool) -> Result<(), Reason> {
    let now = world.now();
    scratch.inner_known = true;
    let proto = scratch.inner_proto as u8;
    unchanged(scratch);
    let Scratch { inner, quoted, outer, .. } = scratch;
    let high = scratch.key.set(&inner.src, inner.src_port, &inner.dst, inner.dst_port, proto);
    if let Some(flow) = world.flow(&scratch.key)
        && flow.expires >= now
    {
        scratch.fresh.ifindex = flow.ifindex;
        let from_opener = (flow.flags & CtEntry::HIGH_OPENED != 0) == high;
        let local = world.endpoint(&inner.src).is_some() || flow.flags & CtEntry::SNAT != 0;
        if flow.flags & CtEntry::DNAT != 0 && from_opener && (local || !defer) {
            (quoted.dst, quoted.dst_port) = (flow.virtual_addr, flow.virtual_port);
            if outer.src == inner.dst {
                outer.src = flow.virtual_addr;
            }
            if flow.flags & CtEntry::SNAT != 0 {
                (quoted.src, quoted.src_port) = (flow.client, flow.client_port);
                outer.dst = flow.client;
            }
        }
        return translate(world, scratch);
    }
    // The receiver's packet was a backend's answer, quoted as the client saw it.
    let key = &mut scratch.nat_key;
    (key.src, key.src_port, key.dst, key.dst_port) = (inner.dst, inner.dst_port, inner.src, inner.src_port);
    (key.proto, key.kind, key._pad) = (proto, NatKey::SERVICE, 0);
    let Some(nat) = world.nat(key).filter(|nat| nat.expires >= now) else {
        scratch.inner_known = false;
        return Ok(());
    };
    if outer.src == inner.dst {
        outer.src = nat.src;
    }
    outer.dst = nat.dst;
    (quoted.src, quoted.src_port, quoted.dst, quoted.dst_port) =
        (nat.dst, nat.dst_port, nat.src, nat.src_port);
    scratch.fresh.ifindex = 0;
    translate(world, scratch)
}

/// Whether the quoted packet is an answer that left from its backend's own node (direct server return); `scratch.to.dst` is
/// that backend then. What this node translates for a backend elsewhere has a source of this node's.
#[inline(always)]
pub fn is_direct<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    found(world, scratch, Step::Direct).unwrap_or(false)
}

/// The body of [`is_direct`].
#[inline(never)]
fn answered_elsewhere<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    let (inner, key) = (&scratch.inner, &mut scratch.nat_key);
    (key.src, key.src_port, key.dst, key.dst_port) = (inner.dst, inner.dst_port, inner.src, inner.src_port);
    (key.proto, key.kind, key._pad) = (scratch.inner_proto as u8, NatKey::SERVICE, 0);
    let now = world.now();
    let Some(nat) = world.nat(key).filter(|nat| nat.expires >= now) else { return false };
    if nat.src != inner.dst || world.endpoint(&nat.dst).is_some() || world.route(&nat.dst).is_none() {
        return false;
    }
    scratch.to.dst = nat.dst;
    true
}

/// If the error is about a packet that left masqueraded, gives it back to the pod.
///
/// # Errors
/// `Malformed` when the kernel refuses a write.
#[inline(always)]
pub fn unmasquerade<W: World>(world: &W, scratch: &mut Scratch) -> Result<bool, Reason> {
    found(world, scratch, Step::Reveal)
}

#[inline(never)]
fn reveal<W: World>(world: &W, scratch: &mut Scratch) -> Result<(), Reason> {
    unchanged(scratch);
    let (inner, key) = (&scratch.inner, &mut scratch.nat_key);
    (key.src, key.src_port, key.dst, key.dst_port) = (inner.dst, inner.dst_port, inner.src, inner.src_port);
    (key.proto, key.kind, key._pad) = (scratch.inner_proto as u8, NatKey::UNMASQUERADE, 0);
    let now = world.now();
    let nat = world.nat(key).filter(|nat| nat.expires >= now);
    scratch.inner_known = nat.is_some();
    let Some(nat) = nat else { return Ok(()) };
    scratch.outer.dst = nat.dst;
    (scratch.quoted.src, scratch.quoted.src_port) = (nat.dst, nat.dst_port);
    translate(world, scratch)
}

/// If a pod's error is about a packet that came to it masqueraded, hides the pod again.
///
/// # Errors
/// `Malformed` when the kernel refuses a write.
#[inline(always)]
pub fn masquerade<W: World>(world: &W, scratch: &mut Scratch) -> Result<bool, Reason> {
    found(world, scratch, Step::Hide)
}

#[inline(never)]
fn hide<W: World>(world: &W, scratch: &mut Scratch) -> Result<(), Reason> {
    unchanged(scratch);
    let (inner, key) = (&scratch.inner, &mut scratch.nat_key);
    (key.src, key.src_port, key.dst, key.dst_port) = (inner.dst, inner.dst_port, inner.src, inner.src_port);
    (key.proto, key.kind, key._pad) = (scratch.inner_proto as u8, NatKey::MASQUERADE, 0);
    let now = world.now();
    let nat = world.nat(key).filter(|nat| nat.expires >= now);
    scratch.inner_known = nat.is_some();
    let Some(nat) = nat else { return Ok(()) };
    scratch.outer.src = nat.src;
    (scratch.quoted.dst, scratch.quoted.dst_port) = (nat.src, nat.src_port);
    translate(world, scratch)
}

/// Sets `scratch.outer` and `scratch.quoted` to what is there.
#[inline(always)]
fn unchanged(scratch: &mut Scratch) {
    scratch.quoted = scratch.inner;
    (scratch.outer.src, scratch.outer.dst) = (scratch.packet.src, scratch.packet.dst);
}

/// Writes the addresses in `scratch.outer` and the quotation in `scratch.quoted`.
///
/// With IPv4, addresses change no ICMP checksum: the outer ones are not covered, and a quoted one changes together with
/// the quoted header checksum. ICMPv6 covers the outer ones by a pseudo header, and IPv6 has no header checksum.
#[inline(never)]
fn translate<W: World>(world: &W, scratch: &mut Scratch) -> Result<(), Reason> {
    let Scratch { packet, inner, outer, quoted, .. } = &*scratch;
    let (v6, l3, l4) = (packet.is_v6(), scratch.inner_l3, scratch.inner_l4);
    let (src_at, dst_at) = match scratch.inner_proto as u8 {
        proto::TCP | proto::UDP | proto::SCTP => (l4, l4 + 2),
        _ => (l4 + 4, l4 + 4),
    };
    let data = Sum { at: packet.l4 + 2, pseudo: false, optional: false };
    let (around, within) = if v6 { (Some(Sum { pseudo: true, ..data }), Some(data)) } else { (None, None) };
    let done = rewrite::address(world, v6, L3, Side::Src, around, &packet.src, &outer.src)
        && rewrite::address(world, v6, L3, Side::Dst, around, &packet.dst, &outer.dst)
        && rewrite::address(world, v6, l3, Side::Src, within, &inner.src, &quoted.src)
        && rewrite::address(world, v6, l3, Side::Dst, within, &inner.dst, &quoted.dst)
        && rewrite::port(world, data, src_at, inner.src_port, quoted.src_port)
        && rewrite::port(world, data, dst_at, inner.dst_port, quoted.dst_port);
    if !done {
        return Err(Reason::Malformed);
    }
    let Scratch { packet, to, outer, .. } = scratch;
    (packet.src, packet.dst) = (outer.src, outer.dst);
    (to.src, to.dst) = (outer.src, outer.dst);
    scratch.inner = scratch.quoted;
    Ok(())
}
