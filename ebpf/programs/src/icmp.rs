//! ICMP errors belong to the flow of the packet they quote. They pass with it, and what they quote is
//! translated back, else path MTU discovery and "port unreachable" end at every translation.
//!
//! The quoted transport checksum is left as it is: nobody checks it, and TCP's is not even quoted.

use crate::parse::{Ipv4, L3, proto};
use crate::{Ends, Scratch, World};
use fairlead_abi::{Addr, Be16, CtEntry, NatKey, Reason};

const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Reads what the error quotes into `scratch.inner`; false when that is no beginning of an IPv4 packet that the
/// receiver could have sent.
#[inline(always)]
pub fn read<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    let at = scratch.packet.l4 + 8;
    let left = scratch.packet.l4_len.saturating_sub(8);
    let mut ip = Ipv4::default();
    if left < 28 || !world.load(at, &mut ip) {
        return false;
    }
    let header = u32::from(ip.version_ihl & 15) * 4;
    if ip.version_ihl >> 4 != 4
        || header < 20
        || left < header + 8
        || ip.fragment.get() & FRAGMENT_OFFSET != 0
        || ip.src != scratch.packet.dst.v4_word()
    {
        return false;
    }
    let mut head = [Be16(0); 4];
    if !world.load(at + header, &mut head) {
        return false;
    }
    let inner = &mut scratch.inner;
    inner.src = Addr::from_v4_word(ip.src);
    inner.dst = Addr::from_v4_word(ip.dst);
    (inner.src_port, inner.dst_port) = match (ip.proto, head[0].get() >> 8) {
        (proto::TCP | proto::UDP | proto::SCTP, _) => (head[0], head[1]),
        (proto::ICMP, 8) => (head[2], Be16(0)),
        (proto::ICMP, 0) => (Be16(0), head[2]),
        _ => (Be16(0), Be16(0)),
    };
    scratch.inner_l3 = at;
    scratch.inner_l4 = at + header;
    scratch.inner_proto = u32::from(ip.proto);
    true
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
    let now = world.now();
    let inner = scratch.inner;
    let proto = scratch.inner_proto as u8;
    let high = scratch.key.set(&inner.src, inner.src_port, &inner.dst, inner.dst_port, proto);
    let (mut quoted, mut outer) =
        (inner, Ends { src: scratch.packet.src, dst: scratch.packet.dst, ..Ends::default() });
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
        translate(world, scratch, &outer, &quoted)?;
        return Ok(Some(scratch.fresh.ifindex));
    }
    // The receiver's packet was a backend's answer, quoted as the client saw it.
    let key = &mut scratch.nat_key;
    (key.src, key.src_port, key.dst, key.dst_port) = (inner.dst, inner.dst_port, inner.src, inner.src_port);
    (key.proto, key.kind, key._pad) = (proto, NatKey::SERVICE, 0);
    let Some(nat) = world.nat(key) else { return Ok(None) };
    if nat.expires < now {
        return Ok(None);
    }
    if outer.src == inner.dst {
        outer.src = nat.src;
    }
    outer.dst = nat.dst;
    (quoted.src, quoted.src_port, quoted.dst, quoted.dst_port) =
        (nat.dst, nat.dst_port, nat.src, nat.src_port);
    scratch.fresh.ifindex = 0;
    translate(world, scratch, &outer, &quoted)?;
    Ok(Some(0))
}

/// If the error is about a packet that left masqueraded, gives it back to the pod.
///
/// # Errors
/// `Malformed` when the kernel refuses a write.
#[inline(always)]
pub fn unmasquerade<W: World>(world: &W, scratch: &mut Scratch) -> Result<bool, Reason> {
    let inner = scratch.inner;
    let key = &mut scratch.nat_key;
    (key.src, key.src_port, key.dst, key.dst_port) = (inner.dst, inner.dst_port, inner.src, inner.src_port);
    (key.proto, key.kind, key._pad) = (scratch.inner_proto as u8, NatKey::UNMASQUERADE, 0);
    let Some(nat) = world.nat(key) else { return Ok(false) };
    if nat.expires < world.now() {
        return Ok(false);
    }
    let outer = Ends { src: scratch.packet.src, dst: nat.dst, ..Ends::default() };
    let quoted = Ends { src: nat.dst, src_port: nat.dst_port, ..inner };
    translate(world, scratch, &outer, &quoted)?;
    Ok(true)
}

/// If a pod's error is about a packet that came to it masqueraded, hides the pod again.
///
/// # Errors
/// `Malformed` when the kernel refuses a write.
#[inline(always)]
pub fn masquerade<W: World>(world: &W, scratch: &mut Scratch) -> Result<bool, Reason> {
    let inner = scratch.inner;
    let key = &mut scratch.nat_key;
    (key.src, key.src_port, key.dst, key.dst_port) = (inner.dst, inner.dst_port, inner.src, inner.src_port);
    (key.proto, key.kind, key._pad) = (scratch.inner_proto as u8, NatKey::MASQUERADE, 0);
    let Some(nat) = world.nat(key) else { return Ok(false) };
    if nat.expires < world.now() {
        return Ok(false);
    }
    let outer = Ends { src: nat.src, dst: scratch.packet.dst, ..Ends::default() };
    let quoted = Ends { dst: nat.src, dst_port: nat.src_port, ..inner };
    translate(world, scratch, &outer, &quoted)?;
    Ok(true)
}

/// Writes new outer addresses and a new quotation. Addresses change no ICMP checksum: the outer ones are not
/// covered, and a quoted one changes together with the quoted header checksum.
#[inline(always)]
fn translate<W: World>(world: &W, scratch: &mut Scratch, outer: &Ends, quoted: &Ends) -> Result<(), Reason> {
    let (packet, inner) = (&scratch.packet, &scratch.inner);
    let (l3, l4) = (scratch.inner_l3, scratch.inner_l4);
    let proto = scratch.inner_proto as u8;
    let (src_at, dst_at) = match proto {
        proto::TCP | proto::UDP => (l4, l4 + 2),
        _ => (l4 + 4, l4 + 4),
    };
    let checksum = packet.l4 + 2;
    let done = address(world, L3, 12, &packet.src, &outer.src)
        && address(world, L3, 16, &packet.dst, &outer.dst)
        && address(world, l3, 12, &inner.src, &quoted.src)
        && address(world, l3, 16, &inner.dst, &quoted.dst)
        && port(world, checksum, src_at, inner.src_port, quoted.src_port)
        && port(world, checksum, dst_at, inner.dst_port, quoted.dst_port);
    if !done {
        return Err(Reason::Malformed);
    }
    (scratch.packet.src, scratch.packet.dst) = (outer.src, outer.dst);
    (scratch.to.src, scratch.to.dst) = (outer.src, outer.dst);
    scratch.inner = *quoted;
    Ok(())
}

#[inline(always)]
fn address<W: World>(world: &W, l3: u32, at: u32, from: &Addr, to: &Addr) -> bool {
    let (from, to) = (from.v4_word(), to.v4_word());
    from == to || (world.fix_l3(l3 + 10, from, to) && world.store(l3 + at, &to))
}

#[inline(always)]
fn port<W: World>(world: &W, checksum: u32, at: u32, from: Be16, to: Be16) -> bool {
    from.0 == to.0
        || (world.fix_l4(checksum, u32::from(from.0), u32::from(to.0), 2, false, false)
            && world.store(at, &to))
}
