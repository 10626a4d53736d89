//! Bytes to [`Packet`]. Every read goes through [`Skb::load`], which the kernel bounds; what the headers claim
//! is compared with what is there before anything is believed.

use crate::{Scratch, World};
use fairlead_abi::{Addr, Be16, Be32, Config, FragmentValue, Reason};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Length of the Ethernet header, where the IP header begins.
pub const L3: u32 = 14;
/// `ETH_P_IP`.
pub const ETH_IPV4: u16 = 0x0800;
/// `ETH_P_ARP`.
pub const ETH_ARP: u16 = 0x0806;
/// `ETH_P_IPV6`.
pub const ETH_IPV6: u16 = 0x86dd;

/// IP protocol numbers.
pub mod proto {
    #![expect(missing_docs, reason = "the names are the protocols' own")]
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// TCP header flags.
pub mod tcp {
    #![expect(missing_docs, reason = "the names are the header's own")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// What a packet is, as far as any decision needs to know.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Source port; the identifier of an ICMP echo request; else 0.
    pub src_port: Be16,
    /// Destination port; the identifier of an ICMP echo reply; else 0.
    pub dst_port: Be16,
    /// IP protocol number.
    pub proto: u8,
    /// TCP flags; 0 for the rest and for later fragments.
    pub tcp_flags: u8,
    /// `Packet::*` bits.
    pub kind: u8,
    /// Type of an ICMP message.
    pub icmp_type: u8,
    /// Offset of the transport header.
    pub l4: u32,
    /// Bytes from there to the end that the IP header gives.
    pub l4_len: u32,
}

impl Packet {
    /// The first piece of a datagram in pieces.
    pub const FIRST_FRAGMENT: u8 = 1 << 0;
    /// A later piece: there is no transport header, ports are those of the first piece.
    pub const LATER_FRAGMENT: u8 = 1 << 1;
    /// An ICMP error with the beginning of the packet it is about.
    pub const ICMP_ERROR: u8 = 1 << 2;

    /// Whether any of the `kind` bits is set.
    #[inline(always)]
    pub const fn is(&self, kind: u8) -> bool {
        self.kind & kind != 0
    }

    /// Whether this opens a TCP connection.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.proto == proto::TCP && self.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
    }
}

/// IPv4 header without options (RFC 791).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Length of header and payload.
    pub total_len: Be16,
    /// Identification of the datagram.
    pub id: Be16,
    /// Flags and fragment offset.
    pub fragment: Be16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub proto: u8,
    /// Header checksum, as on the wire.
    pub checksum: u16,
    /// Source, as on the wire.
    pub src: u32,
    /// Destination, as on the wire.
    pub dst: u32,
}

/// TCP header without options (RFC 9293).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Tcp {
    /// Source port.
    pub src: Be16,
    /// Destination port.
    pub dst: Be16,
    /// Sequence number, as on the wire.
    pub seq: u32,
    /// Acknowledgement number, as on the wire.
    pub ack: u32,
    /// Header length in words, in the upper half.
    pub offset: u8,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: Be16,
    /// Checksum, as on the wire.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: Be16,
}

/// The first eight bytes that UDP (RFC 768), ICMP (RFC 792) and SCTP (RFC 9260) headers have.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Eight {
    /// UDP and SCTP: source port. ICMP: type and code.
    a: Be16,
    /// UDP and SCTP: destination port. ICMP: checksum.
    b: Be16,
    /// UDP: length. ICMP echo: identifier.
    c: Be16,
    /// UDP: checksum.
    d: Be16,
}

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Seconds after which a piece without its first one is not waited for (RFC 791 says 15 or more, Linux has 30).
const FRAGMENT_SECONDS: u32 = 30;

/// Fills `scratch.packet` and `scratch.to` from an IPv4 packet.
///
/// # Errors
/// `Malformed`, or `FragmentUnknown` for a later piece whose first piece has not been here.
#[inline(always)]
pub fn ipv4<W: World>(world: &W, scratch: &mut Scratch) -> Result<(), Reason> {
    let mut ip = Ipv4::default();
    let packet = &mut scratch.packet;
    if !world.load(L3, &mut ip) {
        return Err(Reason::Malformed);
    }
    let header = u32::from(ip.version_ihl & 15) * 4;
    let there = world.length().saturating_sub(L3);
    let mut total = u32::from(ip.total_len.get());
    if total == 0 && world.is_gso() {
        // A GSO packet of more than 64 KiB cannot say how long it is (Linux 6.3, BIG TCP for IPv4).
        total = there;
    }
    if ip.version_ihl >> 4 != 4 {
        return Err(Reason::Malformed);
    }
    packet.src = Addr::from_v4_word(ip.src);
    packet.dst = Addr::from_v4_word(ip.dst);
    (scratch.to.src, scratch.to.dst) = (packet.src, packet.dst);
    packet.proto = ip.proto;
    if header < 20 || total < header || total > there {
        return Err(Reason::Malformed);
    }
    packet.l4 = L3 + header;
    packet.l4_len = total - header;
    let fragment = ip.fragment.get();
    if fragment & FRAGMENT_OFFSET != 0 {
        packet.kind = Packet::LATER_FRAGMENT;
    } else if fragment & MORE_FRAGMENTS != 0 {
        packet.kind = Packet::FIRST_FRAGMENT;
    }
    if packet.kind == 0 {
        transport(world, packet)?;
    } else {
        fragments(world, scratch, ip.id, fragment & FRAGMENT_OFFSET)?;
    }
    let packet = &scratch.packet;
    let to = &mut scratch.to;
    (to.src_port, to.dst_port) = (packet.src_port, packet.dst_port);
    Ok(())
}

/// The first piece leaves its ports in a map for the others.
#[inline(always)]
fn fragments<W: World>(world: &W, scratch: &mut Scratch, id: Be16, offset: u16) -> Result<(), Reason> {
    let packet = &mut scratch.packet;
    let key = &mut scratch.fragment;
    (key.src, key.dst, key.proto, key._pad) = (packet.src, packet.dst, packet.proto, [0; 3]);
    key.id = Be32::new(u32::from(id.get()));
    let now = world.now();
    if packet.is(Packet::FIRST_FRAGMENT) {
        transport(world, packet)?;
        let value = FragmentValue {
            src_port: packet.src_port,
            dst_port: packet.dst_port,
            expires: now.saturating_add(FRAGMENT_SECONDS),
        };
        world.set_fragment(key, &value);
        return Ok(());
    }
    if packet.l4_len == 0 || (packet.proto == proto::TCP && offset < 3) {
        // A piece that could overwrite the ports or flags that were judged (RFC 1858, RFC 3128).
        return Err(Reason::Malformed);
    }
    match world.fragment(key) {
        Some(first) if first.expires >= now => {
            packet.src_port = first.src_port;
            packet.dst_port = first.dst_port;
            Ok(())
        }
        _ => Err(Reason::FragmentUnknown),
    }
}

#[inline(always)]
fn transport<W: World>(world: &W, packet: &mut Packet) -> Result<(), Reason> {
    match packet.proto {
        proto::TCP => {
            let mut tcp = Tcp::default();
            let header = if packet.l4_len >= 20 && world.load(packet.l4, &mut tcp) {
                u32::from(tcp.offset >> 4) * 4
            } else {
                0
            };
            if header < 20 || (header > packet.l4_len && packet.kind == 0) {
                return Err(Reason::Malformed);
            }
            packet.src_port = tcp.src;
            packet.dst_port = tcp.dst;
            packet.tcp_flags = tcp.flags;
        }
        proto::UDP | proto::ICMP | proto::SCTP => {
            let mut head = Eight::default();
            if packet.l4_len < 8 || !world.load(packet.l4, &mut head) {
                return Err(Reason::Malformed);
            }
            if packet.proto == proto::ICMP {
                icmp(packet, &head);
            } else {
                packet.src_port = head.a;
                packet.dst_port = head.b;
            }
            let length = u32::from(head.c.get());
            let claims_too_much = length < 8 || (length > packet.l4_len && packet.kind == 0);
            if packet.proto == proto::UDP && claims_too_much && !world.is_gso() {
                return Err(Reason::Malformed);
            }
        }
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn icmp(packet: &mut Packet, head: &Eight) {
    packet.icmp_type = (head.a.get() >> 8) as u8;
    match packet.icmp_type {
        // Echo reply and request.
        0 => packet.dst_port = head.c,
        8 => packet.src_port = head.c,
        // Destination unreachable, time exceeded, parameter problem.
        3 | 11 | 12 => packet.kind |= Packet::ICMP_ERROR,
        _ => {}
    }
}

/// Whether nothing can be delivered there: unspecified, loopback, multicast, reserved or broadcast.
#[inline(always)]
pub fn is_bad_destination(addr: &Addr) -> bool {
    let first = u32::from_be(addr.v4_word()) >> 24;
    first == 0 || first == 127 || first >= 224
}

/// Whether a pod writes overlay packets itself: masqueraded, they would look like its node's.
#[inline(always)]
pub fn is_forged_overlay<W: World>(world: &W, config: &Config, packet: &Packet) -> bool {
    packet.proto == proto::UDP
        && packet.dst_port.0 == config.vxlan_port.0
        && config.flags & Config::OVERLAY != 0
        && world.node(&packet.dst).is_some()
}

/// IPv6 fixed header (RFC 8200).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Ipv6 {
    version_flow: u32,
    payload_len: Be16,
    next: u8,
    hops: u8,
    src: [u32; 4],
    dst: [u32; 4],
}

/// Extension headers that are followed; more is no packet that anybody sends.
const MAX_EXTENSIONS: u32 = 8;

/// Why an IPv6 packet is dropped on a node that forwards none: its own kind of noise, malformed, or real
/// traffic. Fills addresses and protocol for the flow record.
#[inline(always)]
pub fn ipv6<W: World>(world: &W, scratch: &mut Scratch) -> Reason {
    let mut ip = Ipv6::default();
    if !world.load(L3, &mut ip) || u32::from_be(ip.version_flow) >> 28 != 6 {
        return Reason::Malformed;
    }
    let end = L3 + 40 + u32::from(ip.payload_len.get());
    if end > world.length() && !world.is_gso() {
        return Reason::Malformed;
    }
    scratch.packet.src = Addr(ip.src);
    scratch.packet.dst = Addr(ip.dst);
    scratch.to.dst = scratch.packet.dst;
    let (mut next, mut offset) = (ip.next, L3 + 40);
    for _ in 0..MAX_EXTENSIONS {
        let mut head = [0u8; 2];
        // Hop-by-hop, routing, destination options; fragment; authentication (RFC 4302).
        let length = match next {
            0 | 43 | 60 | 44 | 51 if offset + 8 > end || !world.load(offset, &mut head) => {
                return Reason::Malformed;
            }
            0 | 43 | 60 => (u32::from(head[1]) + 1) * 8,
            44 => 8,
            51 => (u32::from(head[1]) + 2) * 4,
            _ => break,
        };
        offset += length;
        next = head[0];
    }
    scratch.packet.proto = next;
    let mut kind = [0u8; 1];
    if next == proto::ICMPV6 {
        if offset + 4 > end || !world.load(offset, &mut kind) {
            return Reason::Malformed;
        }
        // Multicast listener (RFC 3810) and neighbour discovery (RFC 4861) messages.
        if matches!(kind[0], 130..=137 | 143) {
            return Reason::LinkLocalNoise;
        }
    }
    Reason::Ipv6Unsupported
}

/// ARP for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Arp {
    hardware: Be16,
    protocol: Be16,
    lengths: [u8; 2],
    operation: Be16,
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}

/// Takes the two addresses of an ARP message for those of the packet.
///
/// # Errors
/// `Malformed` when it is not ARP for IPv4 over Ethernet.
#[inline(always)]
pub fn arp<W: World>(world: &W, scratch: &mut Scratch) -> Result<(), Reason> {
    let mut arp = Arp::default();
    if !world.load(L3, &mut arp)
        || arp.hardware.get() != 1
        || arp.protocol.get() != ETH_IPV4
        || arp.lengths != [6, 4]
    {
        return Err(Reason::Malformed);
    }
    scratch.packet.src = Addr::v4(arp.sender_ip);
    scratch.packet.dst = Addr::v4(arp.target_ip);
    scratch.to.dst = scratch.packet.dst;
    Ok(())
}
