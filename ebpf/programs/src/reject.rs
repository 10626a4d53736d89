//! Tells a sender that nobody serves: TCP reset, or ICMP port unreachable.

use crate::parse::{Ipv6, L3, Tcp, proto, tcp};
use crate::{Packet, Scratch, World};
use fairlead_abi::{Addr, Be16};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An answer: IP header, then a TCP header or an ICMP header with the quoted packet.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Header {
    v4: [u32; V4],
    v6: [u32; V6],
    segment: [u32; RESET],
    icmp: [u32; 2],
    quoted_v4: [u32; V4 + 2],
    quoted_v6: [u32; V6 + 2],
}

/// Words of an IPv4 header without options.
const V4: usize = 5;
/// Words of an IPv6 header.
const V6: usize = 10;
/// Words of a TCP header without options.
const RESET: usize = 5;

/// Turns the packet into its own refusal; false when there is none to give (it is a reset itself, or a later
/// fragment, or has IP options).
#[inline(always)]
pub fn answer<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    world.reject(scratch)
}

/// The body of [`answer`].
#[inline(always)]
pub fn turn<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    let packet = &scratch.packet;
    let header = if packet.is_v6() { Ipv6::LEN } else { 4 * V4 as u32 };
    if packet.l4 != L3 + header || packet.is(Packet::LATER_FRAGMENT) || packet.tcp_flags & tcp::RST != 0 {
        return false;
    }
    let mut macs = [[0u8; 6]; 2];
    if !world.load(0, &mut macs) {
        return false;
    }
    macs = [macs[1], macs[0]];
    let written = match (packet.proto, packet.is_v6()) {
        (proto::TCP, _) => reset(world, scratch),
        (_, false) => unreachable_v4(world, scratch),
        (_, true) => unreachable_v6(world, scratch),
    };
    written && world.store(0, &macs)
}

/// RFC 9293 section 3.10.7.1: a reset for a segment to a closed port.
#[inline(always)]
fn reset<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    const LEN: u16 = 4 * RESET as u16;
    let mut segment = Tcp::default();
    if !world.load(scratch.packet.l4, &mut segment) {
        return false;
    }
    let data = scratch.packet.l4_len.saturating_sub(u32::from(segment.offset >> 4) * 4);
    let (seq, ack, flags) = if segment.flags & tcp::ACK != 0 {
        (segment.ack, 0, tcp::RST)
    } else {
        let phantom = u32::from(segment.flags & tcp::SYN != 0) + u32::from(segment.flags & tcp::FIN != 0);
        let next = u32::from_be(segment.seq).wrapping_add(data).wrapping_add(phantom);
        (0, next.to_be(), tcp::RST | tcp::ACK)
    };
    let (src, dst, v6) = (scratch.packet.dst, scratch.packet.src, scratch.packet.is_v6());
    let w = &mut scratch.header.segment;
    w[0] = pair(segment.dst, segment.src);
    w[1] = seq;
    w[2] = ack;
    w[3] = u32::from_ne_bytes([0x50, flags, 0, 0]);
    let mut sum = add(add(add(add(0, w[0]), w[1]), w[2]), w[3]);
    sum = addresses(sum, v6, &src, &dst);
    sum = add(sum, u32::from_ne_bytes([0, proto::TCP, 0, LEN as u8]));
    let check = fold(sum).to_ne_bytes();
    w[4] = u32::from_ne_bytes([check[0], check[1], 0, 0]);
    header(world, scratch, LEN, proto::TCP) && world.store(scratch.packet.l4, &scratch.header.segment)
}

/// RFC 792: destination unreachable, port unreachable, with header and eight bytes of what was sent.
#[inline(always)]
fn unreachable_v4<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    const LEN: u16 = 4 * (2 + V4 as u16 + 2);
    let Header { icmp, quoted_v4: quoted, .. } = &mut scratch.header;
    if !world.load(L3, quoted) {
        return false;
    }
    let mut sum = add(0, u32::from_ne_bytes([3, 3, 0, 0]));
    for word in quoted {
        sum = add(sum, *word);
    }
    let check = fold(sum).to_ne_bytes();
    *icmp = [u32::from_ne_bytes([3, 3, check[0], check[1]]), 0];
    let at = scratch.packet.l4;
    header(world, scratch, LEN, proto::ICMP)
        && world.store(at, &scratch.header.icmp)
        && world.store(at + 8, &scratch.header.quoted_v4)
}

/// RFC 4443: destination unreachable, port unreachable, with as much.
#[inline(always)]
fn unreachable_v6<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    const LEN: u8 = 4 * (2 + V6 as u8 + 2);
    let Scratch { packet, header: Header { icmp, quoted_v6: quoted, .. }, .. } = scratch;
    if !world.load(L3, quoted) {
        return false;
    }
    let mut sum = add(0, u32::from_ne_bytes([1, 4, 0, 0]));
    for word in quoted {
        sum = add(sum, *word);
    }
    sum = addresses(sum, true, &packet.dst, &packet.src);
    sum = add(sum, u32::from_ne_bytes([0, proto::ICMPV6, 0, LEN]));
    let check = fold(sum).to_ne_bytes();
    *icmp = [u32::from_ne_bytes([1, 4, check[0], check[1]]), 0];
    let at = scratch.packet.l4;
    header(world, scratch, LEN.into(), proto::ICMPV6)
        && world.store(at, &scratch.header.icmp)
        && world.store(at + 8, &scratch.header.quoted_v6)
}

/// Makes room for an answer and writes its IP header.
#[inline(always)]
fn header<W: World>(world: &W, scratch: &mut Scratch, len: u16, next: u8) -> bool {
    let Scratch { packet, header, .. } = scratch;
    if !world.resize(packet.l4 + u32::from(len)) {
        return false;
    }
    if packet.is_v6() {
        v6_header(&mut header.v6, &packet.dst, &packet.src, len, next);
        return world.store(L3, &header.v6);
    }
    v4_header(&mut header.v4, &packet.dst, &packet.src, 4 * V4 as u16 + len, next);
    world.store(L3, &header.v4)
}

const TTL: u8 = 64;

/// An IPv4 header with checksum.
#[inline(always)]
fn v4_header(w: &mut [u32; V4], src: &Addr, dst: &Addr, total: u16, next: u8) {
    const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
    let length = total.to_be_bytes();
    *w = [
        u32::from_ne_bytes([0x45, 0, length[0], length[1]]),
        u32::from_ne_bytes([0, 0, DONT_FRAGMENT[0], DONT_FRAGMENT[1]]),
        u32::from_ne_bytes([TTL, next, 0, 0]),
        src.v4_word(),
        dst.v4_word(),
    ];
    let check = fold(add(add(add(add(add(0, w[0]), w[1]), w[2]), w[3]), w[4])).to_ne_bytes();
    w[2] = u32::from_ne_bytes([TTL, next, check[0], check[1]]);
}

#[inline(always)]
fn v6_header(w: &mut [u32; V6], src: &Addr, dst: &Addr, len: u16, next: u8) {
    let length = len.to_be_bytes();
    w[0] = u32::from_ne_bytes([0x60, 0, 0, 0]);
    w[1] = u32::from_ne_bytes([length[0], length[1], next, TTL]);
    w[2..6].copy_from_slice(&src.0);
    w[6..].copy_from_slice(&dst.0);
}

/// Adds the addresses of a pseudo header.
#[inline(always)]
pub fn addresses(sum: u64, v6: bool, src: &Addr, dst: &Addr) -> u64 {
    let mut sum = add(add(sum, src.0[3]), dst.0[3]);
    if v6 {
        sum = add(add(add(sum, src.0[0]), src.0[1]), src.0[2]);
        sum = add(add(add(sum, dst.0[0]), dst.0[1]), dst.0[2]);
    }
    sum
}

#[inline(always)]
fn pair(a: Be16, b: Be16) -> u32 {
    let (a, b) = (a.0.to_ne_bytes(), b.0.to_ne_bytes());
    u32::from_ne_bytes([a[0], a[1], b[0], b[1]])
}

/// Adds a word's two halves, in the machine's order, which RFC 1071 section 2 shows to be as good as any.
#[inline(always)]
pub fn add(sum: u64, word: u32) -> u64 {
    sum + u64::from(word & 0xffff) + u64::from(word >> 16)
}

/// The checksum of what was added.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
