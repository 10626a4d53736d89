//! Bytes to [`Packet`]. Every read goes through [`Skb::load`], which the kernel bounds; what the headers claim
//! is compared with what is there before anything is believed.

use crate::family::Family;
use crate::steps::outcome;
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
    /// Type of a message of the family's own ICMP.
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
    /// Either.
    pub const FRAGMENT: u8 = Self::FIRST_FRAGMENT | Self::LATER_FRAGMENT;
    /// An ICMP error with the beginning of the packet it is about.
    pub const ICMP_ERROR: u8 = 1 << 2;
    /// An ICMP echo request.
    pub const ECHO_REQUEST: u8 = 1 << 3;
    /// ICMP for IPv4, or ICMPv6 for IPv6: not the other family's, which is a protocol like any other.
    pub const ICMP: u8 = 1 << 4;
    /// IPv6.
    pub const V6: u8 = 1 << 5;
    /// An SCTP INIT chunk, which opens an association.
    pub const INIT: u8 = 1 << 6;

    /// Whether any of the `kind` bits is set.
    #[inline(always)]
    pub const fn is(&self, kind: u8) -> bool {
        self.kind & kind != 0
    }

    /// Whether this is IPv6.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.is(Self::V6)
    }

    /// Whether this is what every IPv6 interface sends by itself: multicast listener (RFC 3810) and neighbour discovery
    /// (RFC 4861) messages.
    #[inline(always)]
    pub const fn is_link_local_noise(&self) -> bool {
        self.is_v6() && self.is(Self::ICMP) && is_noise(self.icmp_type)
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

/// IPv6 fixed header (RFC 8200).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class and flow label, as on the wire.
    pub version_flow: u32,
    /// Length of what follows this header.
    pub payload_len: Be16,
    /// Protocol of what follows.
    pub next: u8,
    /// Hop limit.
    pub hops: u8,
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
}

impl Ipv6 {
    /// Length of the header.
    pub const LEN: u32 = 40;

    /// Whether the version is right.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        u32::from_be(self.version_flow) >> 28 == 6
    }
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

/// The first eight bytes that UDP (RFC 768), ICMP (RFC 792, RFC 4443) and SCTP (RFC 9260) headers have.
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

/// Types of ICMPv6 messages.
pub mod icmpv6 {
    #![expect(missing_docs, reason = "the names are the protocol's own")]
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// Seconds after which a piece without its first one is not waited for (RFC 791 says 15 or more, Linux has 30).
const FRAGMENT_SECONDS: u32 = 30;

/// Fills `scratch.packet` and `scratch.to` from a packet of the family that the link header names.
///
/// # Errors
/// `Malformed`, `FragmentUnknown` for a later piece whose first piece has not been here, `BadDestination` for one that
/// is source routed; on a node without IPv6 pods `Ipv6Unsupported`, or `LinkLocalNoise`.
#[inline(always)]
pub fn ip<W: World>(world: &W, scratch: &mut Scratch, config: &Config) -> Result<(), Reason> {
    outcome(world.parse(scratch, config))
}

/// The body of [`ip`].
#[inline(always)]
pub fn read<W: World>(world: &W, scratch: &mut Scratch, config: &Config) -> Result<(), Reason> {
    let offset = if world.ether_type() == ETH_IPV6 {
        let offset = ipv6(world, scratch)?;
        if !Family::has_v6(config) {
            return Err(unsupported(world, &scratch.packet));
        }
        offset
    } else {
        ipv4(world, scratch)?
    };
    let packet = &mut scratch.packet;
    if packet.is(Packet::FRAGMENT) {
        fragments(world, scratch, offset)?;
    } else {
        transport(world, packet)?;
    }
    let (packet, to) = (&scratch.packet, &mut scratch.to);
    (to.src_port, to.dst_port) = (packet.src_port, packet.dst_port);
    Ok(())
}

/// The IPv4 header; returns the fragment offset.
#[inline(always)]
fn ipv4<W: World>(world: &W, scratch: &mut Scratch) -> Result<u16, Reason> {
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
    let offset = fragment & FRAGMENT_OFFSET;
    if offset != 0 {
        packet.kind = Packet::LATER_FRAGMENT;
    } else if fragment & MORE_FRAGMENTS != 0 {
        packet.kind = Packet::FIRST_FRAGMENT;
    }
    if packet.kind != 0 {
        (scratch.fragment.id, scratch.fragment.proto) = (Be32::new(u32::from(ip.id.get())), ip.proto);
    }
    Ok(offset)
}

/// The IPv6 header and its extensions; returns the fragment offset.
#[inline(always)]
fn ipv6<W: World>(world: &W, scratch: &mut Scratch) -> Result<u16, Reason> {
    let mut ip = Ipv6::default();
    if !world.load(L3, &mut ip) || !ip.is_v6() {
        return Err(Reason::Malformed);
    }
    let there = world.length().saturating_sub(L3 + Ipv6::LEN);
    let mut total = u32::from(ip.payload_len.get());
    if total == 0 && world.is_gso() {
        // BIG TCP (Linux 5.19).
        total = there;
    }
    let packet = &mut scratch.packet;
    packet.kind = Packet::V6;
    (packet.src, packet.dst) = (ip.src, ip.dst);
    (scratch.to.src, scratch.to.dst) = (ip.src, ip.dst);
    packet.proto = ip.next;
    // A mapped address on the wire would pass for IPv4 in every table.
    if total > there || ip.src.is_v4() || ip.dst.is_v4() {
        return Err(Reason::Malformed);
    }
    packet.l4 = L3 + Ipv6::LEN;
    packet.l4_len = total;
    if matches!(ip.next, proto::TCP | proto::UDP | proto::ICMPV6) {
        return Ok(0);
    }
    let chain = &mut scratch.chain;
    chain.begin(L3 + Ipv6::LEN, total, ip.next);
    extensions(world, chain)?;
    let packet = &mut scratch.packet;
    packet.kind |= chain.piece;
    packet.proto = chain.next;
    packet.l4 = chain.at;
    packet.l4_len = chain.end - chain.at;
    (scratch.fragment.id, scratch.fragment.proto) = (chain.id, 0);
    Ok(chain.offset)
}

/// Extension headers that are followed; more is no packet that anybody sends.
const MAX_EXTENSIONS: u32 = 8;

/// Where the walk along extension headers is.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Chain {
    /// Offset of the next header.
    pub at: u32,
    /// Offset after the packet's last byte.
    pub end: u32,
    /// Identification field of a fragment header.
    pub id: Be32,
    /// Its offset, in units of eight bytes.
    pub offset: u16,
    /// Protocol number of the next header.
    pub next: u8,
    /// `Packet::FIRST_FRAGMENT`, `Packet::LATER_FRAGMENT` or 0.
    pub piece: u8,
}

impl Chain {
    /// Before the first header, with `len` bytes left.
    #[inline(always)]
    pub const fn begin(&mut self, at: u32, len: u32, next: u8) {
        (self.at, self.end, self.next) = (at, at + len, next);
        (self.id, self.offset, self.piece) = (Be32(0), 0, 0);
    }
}

/// Walks to the transport header, or to the end of the headers that a later piece has. A function of its own in the
/// kernel, too: most packets have no extension headers.
///
/// # Errors
/// `Malformed`; `BadDestination` when a routing header names another destination than the one that is judged.
#[inline(never)]
pub fn extensions<W: World>(world: &W, chain: &mut Chain) -> Result<(), Reason> {
    for _ in 0..=MAX_EXTENSIONS {
        // Hop-by-hop, routing, fragment, authentication (RFC 4302), destination options.
        if !matches!(chain.next, 0 | 43 | 44 | 51 | 60) || chain.piece == Packet::LATER_FRAGMENT {
            return if chain.at <= chain.end { Ok(()) } else { Err(Reason::Malformed) };
        }
        let mut head = [0u8; 8];
        if chain.at + 8 > chain.end || !world.load(chain.at, &mut head) {
            return Err(Reason::Malformed);
        }
        let [next, len, high, low, id @ ..] = head;
        let length = match chain.next {
            44 => {
                let field = u16::from_be_bytes([high, low]);
                // One that is all there is no piece (RFC 6946).
                if field & !6 != 0 {
                    if chain.piece != 0 {
                        return Err(Reason::Malformed);
                    }
                    (chain.id, chain.offset) = (Be32(u32::from_ne_bytes(id)), field >> 3);
                    chain.piece =
                        if chain.offset == 0 { Packet::FIRST_FRAGMENT } else { Packet::LATER_FRAGMENT };
                }
                8
            }
            43 if low != 0 => return Err(Reason::BadDestination),
            51 => (u32::from(len) + 2) * 4,
            _ => (u32::from(len) + 1) * 8,
        };
        chain.at += length;
        chain.next = next;
    }
    Err(Reason::Malformed)
}

/// Why an IPv6 packet is dropped on a node that forwards none: its own kind of noise, or real traffic.
#[inline(always)]
fn unsupported<W: World>(world: &W, packet: &Packet) -> Reason {
    let mut head = Eight::default();
    if packet.proto != proto::ICMPV6 || packet.is(Packet::LATER_FRAGMENT) {
        return Reason::Ipv6Unsupported;
    }
    if packet.l4_len < 8 || !world.load(packet.l4, &mut head) {
        return Reason::Malformed;
    }
    if is_noise((head.a.get() >> 8) as u8) { Reason::LinkLocalNoise } else { Reason::Ipv6Unsupported }
}

#[inline(always)]
const fn is_noise(icmp_type: u8) -> bool {
    matches!(icmp_type, 130..=137 | 143)
}

/// The first piece leaves its ports in a map for the others.
#[inline(always)]
fn fragments<W: World>(world: &W, scratch: &mut Scratch, offset: u16) -> Result<(), Reason> {
    let packet = &mut scratch.packet;
    let key = &mut scratch.fragment;
    (key.src, key.dst, key._pad) = (packet.src, packet.dst, [0; 3]);
    let now = world.now();
    if packet.is(Packet::FIRST_FRAGMENT) {
        transport(world, packet)?;
        let value = FragmentValue {
            src_port: packet.src_port,
            dst_port: packet.dst_port,
            expires: now.saturating_add(FRAGMENT_SECONDS),
            proto: packet.proto,
            _pad: [0; 3],
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
            packet.proto = first.proto;
            Ok(())
        }
        _ => Err(Reason::FragmentUnknown),
    }
}

#[inline(always)]
fn transport<W: World>(world: &W, packet: &mut Packet) -> Result<(), Reason> {
    let whole = !packet.is(Packet::FRAGMENT);
    match packet.proto {
        proto::TCP => {
            let mut tcp = Tcp::default();
            let header = if packet.l4_len >= 20 && world.load(packet.l4, &mut tcp) {
                u32::from(tcp.offset >> 4) * 4
            } else {
                0
            };
            if header < 20 || (header > packet.l4_len && whole) {
                return Err(Reason::Malformed);
            }
            packet.src_port = tcp.src;
            packet.dst_port = tcp.dst;
            packet.tcp_flags = tcp.flags;
        }
        proto::UDP | proto::ICMP | proto::ICMPV6 | proto::SCTP => {
            let mut head = Eight::default();
            if packet.l4_len < 8 || !world.load(packet.l4, &mut head) {
                return Err(Reason::Malformed);
            }
            match (packet.proto, packet.is_v6()) {
                (proto::ICMP, false) | (proto::ICMPV6, true) => icmp(packet, &head),
                (proto::ICMP | proto::ICMPV6, _) => {}
                _ => (packet.src_port, packet.dst_port) = (head.a, head.b),
            }
            let mut chunk = 0u8;
            if packet.proto == proto::SCTP && packet.l4_len > 12 && world.load(packet.l4 + 12, &mut chunk) {
                const INIT: u8 = 1;
                packet.kind |= if chunk == INIT { Packet::INIT } else { 0 };
            }
            let length = u32::from(head.c.get());
            let claims_too_much = length < 8 || (length > packet.l4_len && whole);
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
    let kind = (head.a.get() >> 8) as u8;
    packet.icmp_type = kind;
    packet.kind |= Packet::ICMP;
    match (kind, packet.is_v6()) {
        // Echo reply and request.
        (0, false) | (129, true) => packet.dst_port = head.c,
        (8, false) | (128, true) => {
            packet.src_port = head.c;
            packet.kind |= Packet::ECHO_REQUEST;
        }
        // Destination unreachable, time exceeded, parameter problem; packet too big.
        (3 | 11 | 12, false) | (1..=4, true) => packet.kind |= Packet::ICMP_ERROR,
        _ => {}
    }
}

/// Whether nothing can be delivered there: unspecified, loopback, multicast, reserved, broadcast or link-local but for
/// the pods' gateway.
#[inline(always)]
pub fn is_bad_destination(packet: &Packet) -> bool {
    let [a, b, c, d] = packet.dst.0;
    if packet.is_v6() {
        let first = u32::from_be(a);
        // Link-local (RFC 4291 section 2.5.6).
        let near = first >> 22 == 0x3fa && packet.dst != Config::POD_GATEWAY_V6;
        return near || first >> 24 == 0xff || (a | b | c) == 0;
    }
    let first = u32::from_be(d) >> 24;
    first == 0 || first == 127 || first >= 224
}

/// Whether an address holds on one link only (RFC 4291 sections 2.5.6 and 2.7).
#[inline(always)]
pub fn is_link_local(addr: &Addr) -> bool {
    let first = u32::from_be(addr.0[0]);
    first >> 22 == 0x3fa || first >> 16 == 0xff02
}

/// Whether a pod writes overlay packets itself: masqueraded, they would look like its node's.
#[inline(always)]
pub fn is_forged_overlay<W: World>(world: &W, config: &Config, packet: &Packet) -> bool {
    packet.proto == proto::UDP
        && packet.dst_port.0 == config.vxlan_port.0
        && config.flags & Config::OVERLAY != 0
        && world.node(&packet.dst).is_some()
}

/// ARP for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Arp {
    /// 1 for Ethernet.
    pub hardware: Be16,
    /// `ETH_P_IP`.
    pub protocol: Be16,
    /// Bytes of a link-layer address and of an IP address.
    pub lengths: [u8; 2],
    /// 1 for a request, 2 for a reply.
    pub operation: Be16,
    /// Who sends.
    pub sender_mac: [u8; 6],
    /// The same.
    pub sender_ip: [u8; 4],
    /// Who is asked for, or answered.
    pub target_mac: [u8; 6],
    /// The same.
    pub target_ip: [u8; 4],
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
