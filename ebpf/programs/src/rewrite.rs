//! Changes the ends of a packet and mends its checksums. Differences are applied, never whole sums: a sum that
//! was wrong stays wrong, and one that hardware has yet to finish (CHECKSUM_PARTIAL) stays unfinished.

use crate::parse::{L3, proto};
use crate::steps::outcome;
use crate::{Ends, Packet, Scratch, World, sctp};
use fairlead_abi::{Addr, Be16, Reason};

/// A checksum that covers what changes.
#[derive(Clone, Copy)]
pub struct Sum {
    /// Its offset.
    pub at: u32,
    /// Whether it covers addresses as those of a pseudo header, else as data.
    pub pseudo: bool,
    /// Whether zero means that there is none.
    pub optional: bool,
}

/// Which address of an IP header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Src,
    /// The destination.
    Dst,
}

/// What a changed word (or half word) adds to a checksum, where no helper does it (RFC 1624): `~from + to`, in the
/// machine's order.
#[inline(always)]
pub const fn change(from: u32, to: u32) -> u64 {
    (!from & 0xffff) as u64 + (!from >> 16) as u64 + (to & 0xffff) as u64 + (to >> 16) as u64
}

/// A checksum after such changes.
#[inline(always)]
pub const fn mended(sum: u16, change: u64) -> u16 {
    let sum = !sum as u64 + change;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Gives the packet the ends `scratch.to`.
///
/// # Errors
/// `Malformed` when the kernel refuses a write.
#[inline(always)]
pub fn apply<W: World>(world: &W, scratch: &mut Scratch) -> Result<(), Reason> {
    outcome(world.rewrite(scratch))
}

/// The body of [`apply`].
#[inline(always)]
pub fn write<W: World>(world: &W, scratch: &mut Scratch) -> Result<(), Reason> {
    let (packet, to) = (&scratch.packet, &scratch.to);
    let (v6, sum) = (packet.is_v6(), checksum(packet));
    let covering = match sum {
        Some(Sum { pseudo: true, .. }) => sum,
        _ => None,
    };
    let done = address(world, v6, L3, Side::Src, covering, &packet.src, &to.src)
        && address(world, v6, L3, Side::Dst, covering, &packet.dst, &to.dst)
        && ports(world, packet, sum, to);
    if done { Ok(()) } else { Err(Reason::Malformed) }
}

/// The transport checksum.
#[inline(always)]
fn checksum(packet: &Packet) -> Option<Sum> {
    if packet.is(Packet::LATER_FRAGMENT) {
        return None;
    }
    match packet.proto {
        proto::TCP => Some(Sum { at: packet.l4 + 16, pseudo: true, optional: false }),
        proto::UDP => Some(Sum { at: packet.l4 + 6, pseudo: true, optional: true }),
        _ if packet.is(Packet::ICMP) => {
            Some(Sum { at: packet.l4 + 2, pseudo: packet.is_v6(), optional: false })
        }
        _ => None,
    }
}

/// Replaces an address of the IP header at `l3`; false when the kernel refuses.
#[inline(always)]
pub fn address<W: World>(
    world: &W,
    v6: bool,
    l3: u32,
    side: Side,
    sum: Option<Sum>,
    from: &Addr,
    to: &Addr,
) -> bool {
    if from.v4_word() == to.v4_word() && (!v6 || from == to) {
        return true;
    }
    if v6 {
        let at = l3 + if side == Side::Src { 8 } else { 24 };
        return match sum {
            Some(Sum { at: sum, pseudo: false, .. }) => {
                world.fix_l4_addr(sum, from, to, false, false) && world.store(at, to)
            }
            Some(Sum { at: sum, optional, .. }) => {
                world.fix_l4_addr(sum, from, to, true, optional) && world.store_summed(at, to)
            }
            None => world.store_summed(at, to),
        };
    }
    let (from, to) = (from.v4_word(), to.v4_word());
    let at = l3 + if side == Side::Src { 12 } else { 16 };
    if let Some(sum) = sum
        && sum.pseudo
        && !world.fix_l4(sum.at, from, to, 4, true, sum.optional)
    {
        return false;
    }
    world.fix_l3(l3 + 10, from, to) && world.store(at, &to)
}

#[inline(always)]
fn ports<W: World>(world: &W, packet: &Packet, sum: Option<Sum>, to: &Ends) -> bool {
    if packet.proto == proto::SCTP && !packet.is(Packet::LATER_FRAGMENT) {
        return sctp::ports(world, packet, to);
    }
    let Some(sum) = sum else { return true };
    // An ICMP echo has one identifier, which is the port of the end that asks.
    let (src_at, dst_at) = if packet.is(Packet::ICMP) { (4, 4) } else { (0, 2) };
    port(world, sum, packet.l4 + src_at, packet.src_port, to.src_port)
        && port(world, sum, packet.l4 + dst_at, packet.dst_port, to.dst_port)
}

/// Replaces a port at an offset; false when the kernel refuses.
#[inline(always)]
pub fn port<W: World>(world: &W, sum: Sum, at: u32, from: Be16, to: Be16) -> bool {
    from.0 == to.0
        || (world.fix_l4(sum.at, u32::from(from.0), u32::from(to.0), 2, false, sum.optional)
            && world.store(at, &to))
}
