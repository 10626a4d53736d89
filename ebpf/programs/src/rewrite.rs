//! Changes the ends of a packet and mends its checksums. Differences are applied, never whole sums: a sum that
//! was wrong stays wrong, and one that hardware has yet to finish (CHECKSUM_PARTIAL) stays unfinished.

use crate::parse::{L3, proto};
use crate::{Ends, Packet, Scratch, World};
use fairlead_abi::{Addr, Be16, Reason};

const IP_CHECKSUM: u32 = L3 + 10;
const IP_SRC: u32 = L3 + 12;
const IP_DST: u32 = L3 + 16;

/// Gives the packet the ends `scratch.to`.
///
/// # Errors
/// `Malformed` when the kernel refuses a write.
#[inline(always)]
pub fn apply<W: World>(world: &W, scratch: &mut Scratch) -> Result<(), Reason> {
    let (packet, to) = (&scratch.packet, &scratch.to);
    let done = address(world, packet, IP_SRC, &packet.src, &to.src)
        && address(world, packet, IP_DST, &packet.dst, &to.dst)
        && ports(world, packet, to);
    if done { Ok(()) } else { Err(Reason::Malformed) }
}

/// Where the transport checksum is, and whether it covers a pseudo header.
#[inline(always)]
fn checksum(packet: &Packet) -> Option<(u32, bool)> {
    if packet.is(Packet::LATER_FRAGMENT) {
        return None;
    }
    match packet.proto {
        proto::TCP => Some((packet.l4 + 16, true)),
        proto::UDP => Some((packet.l4 + 6, true)),
        proto::ICMP => Some((packet.l4 + 2, false)),
        _ => None,
    }
}

#[inline(always)]
fn address<W: World>(world: &W, packet: &Packet, offset: u32, from: &Addr, to: &Addr) -> bool {
    let (from, to) = (from.v4_word(), to.v4_word());
    if from == to {
        return true;
    }
    if let Some((at, true)) = checksum(packet)
        && !world.fix_l4(at, from, to, 4, true, packet.proto == proto::UDP)
    {
        return false;
    }
    world.fix_l3(IP_CHECKSUM, from, to) && world.store(offset, &to)
}

#[inline(always)]
fn ports<W: World>(world: &W, packet: &Packet, to: &Ends) -> bool {
    let Some((at, _)) = checksum(packet) else { return true };
    // An ICMP echo has one identifier, which is the port of the end that asks.
    let (src_at, dst_at) = if packet.proto == proto::ICMP { (4, 4) } else { (0, 2) };
    port(world, packet, at, src_at, packet.src_port, to.src_port)
        && port(world, packet, at, dst_at, packet.dst_port, to.dst_port)
}

#[inline(always)]
fn port<W: World>(world: &W, packet: &Packet, checksum: u32, at: u32, from: Be16, to: Be16) -> bool {
    if from.0 == to.0 {
        return true;
    }
    world.fix_l4(checksum, u32::from(from.0), u32::from(to.0), 2, false, packet.proto == proto::UDP)
        && world.store(packet.l4 + at, &to)
}
