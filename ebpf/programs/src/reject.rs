//! Tells a sender that nobody serves: TCP reset, or ICMP port unreachable.

use crate::parse::{Ipv4, L3, Tcp, proto, tcp};
use crate::{Packet, Scratch, World};
use fairlead_abi::Be16;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An answer: IP header, then a TCP header or an ICMP header with the quoted packet.
#[derive(Clone, Copy, Default, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Header {
    words: [u32; 14],
}

/// Words of an IPv4 header without options.
const IP: usize = 5;
const RESET: usize = IP + 5;
const UNREACHABLE: usize = IP + 2 + IP + 2;

/// Turns the packet into its own refusal; false when there is none to give (it is a reset itself, or a later
/// fragment, or has IP options).
#[inline(always)]
pub fn answer<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    let packet = &scratch.packet;
    if packet.l4 != L3 + 20 || packet.is(Packet::LATER_FRAGMENT) || packet.tcp_flags & tcp::RST != 0 {
        return false;
    }
    let mut macs = [[0u8; 6]; 2];
    let mut ip = Ipv4::default();
    if !world.load(0, &mut macs) || !world.load(L3, &mut ip) {
        return false;
    }
    macs = [macs[1], macs[0]];
    let written = match packet.proto {
        proto::TCP => reset(world, scratch, &ip),
        _ => unreachable(world, scratch),
    };
    written && world.store(0, &macs)
}

/// RFC 9293 section 3.10.7.1: a reset for a segment to a closed port.
#[inline(always)]
fn reset<W: World>(world: &W, scratch: &mut Scratch, ip: &Ipv4) -> bool {
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
    let w = &mut scratch.header.words;
    address(w, ip.dst, ip.src, 40, proto::TCP);
    w[5] = pair(segment.dst, segment.src);
    w[6] = seq;
    w[7] = ack;
    w[8] = u32::from_ne_bytes([0x50, flags, 0, 0]);
    w[9] = 0;
    let mut sum = add(add(add(add(0, w[5]), w[6]), w[7]), w[8]);
    sum = add(add(add(sum, w[3]), w[4]), u32::from_ne_bytes([0, proto::TCP, 0, 20]));
    w[9] = u32::from(fold(sum));
    if cfg!(target_endian = "big") {
        w[9] <<= 16;
    }
    let mut out = [0u32; RESET];
    out.copy_from_slice(&w[..RESET]);
    world.resize(L3 + 4 * RESET as u32) && world.store(L3, &out)
}

/// RFC 792: destination unreachable, port unreachable, with header and eight bytes of what was sent.
#[inline(always)]
fn unreachable<W: World>(world: &W, scratch: &mut Scratch) -> bool {
    let mut quoted = [0u32; IP + 2];
    if !world.load(L3, &mut quoted) {
        return false;
    }
    let w = &mut scratch.header.words;
    address(w, quoted[4], quoted[3], 4 * UNREACHABLE as u16, proto::ICMP);
    w[5] = u32::from_ne_bytes([3, 3, 0, 0]);
    w[6] = 0;
    (w[7], w[8], w[9], w[10]) = (quoted[0], quoted[1], quoted[2], quoted[3]);
    (w[11], w[12], w[13]) = (quoted[4], quoted[5], quoted[6]);
    let mut sum = add(add(add(add(0, w[5]), w[7]), w[8]), w[9]);
    sum = add(add(add(add(sum, w[10]), w[11]), w[12]), w[13]);
    let check = fold(sum).to_ne_bytes();
    w[5] = u32::from_ne_bytes([3, 3, check[0], check[1]]);
    let header = scratch.header;
    world.resize(L3 + 4 * UNREACHABLE as u32) && world.store(L3, &header)
}

/// An IPv4 header with checksum.
#[inline(always)]
fn address(w: &mut [u32; 14], src: u32, dst: u32, total: u16, proto: u8) {
    const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
    const TTL: u8 = 64;
    let length = total.to_be_bytes();
    w[0] = u32::from_ne_bytes([0x45, 0, length[0], length[1]]);
    w[1] = u32::from_ne_bytes([0, 0, DONT_FRAGMENT[0], DONT_FRAGMENT[1]]);
    w[2] = u32::from_ne_bytes([TTL, proto, 0, 0]);
    w[3] = src;
    w[4] = dst;
    let check = fold(add(add(add(add(add(0, w[0]), w[1]), w[2]), w[3]), w[4])).to_ne_bytes();
    w[2] = u32::from_ne_bytes([TTL, proto, check[0], check[1]]);
}

#[inline(always)]
fn pair(a: Be16, b: Be16) -> u32 {
    let (a, b) = (a.0.to_ne_bytes(), b.0.to_ne_bytes());
    u32::from_ne_bytes([a[0], a[1], b[0], b[1]])
}

/// Adds a word's two halves, in the machine's order, which RFC 1071 section 2 shows to be as good as any.
#[inline(always)]
fn add(sum: u64, word: u32) -> u64 {
    sum + u64::from(word & 0xffff) + u64::from(word >> 16)
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
