//! Builds packets byte by byte, and checks what comes back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

pub const FROM_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
/// That of `lo`, so that test runs take the packet as meant for them.
pub const TO_MAC: [u8; 6] = [0; 6];

pub type End = (IpAddr, u16);

pub const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// An address with two groups in front and one at the end.
pub const fn v6(a: u16, b: u16, c: u16, d: u16, last: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, last))
}

/// The bytes of the wire.
pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// An Ethernet frame with an IP packet.
#[derive(Clone)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub id: u16,
    /// Flags and offset, as in the IPv4 header. IPv6 gets a fragment header for it, behind its extension headers.
    pub fragment: u16,
    /// Of the IPv4 header.
    pub options: Vec<u8>,
    /// IPv6 extension headers, each with its number; their first byte is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub hops: u8,
    pub body: Vec<u8>,
}

pub fn tcp(from: End, to: End, flags: u8) -> Packet {
    tcp_with(from, to, flags, b"")
}

pub fn tcp_with(from: End, to: End, flags: u8, data: &[u8]) -> Packet {
    let mut body = Vec::new();
    body.extend(from.1.to_be_bytes());
    body.extend(to.1.to_be_bytes());
    body.extend(1000u32.to_be_bytes());
    body.extend(if flags & ACK != 0 { 2000u32 } else { 0 }.to_be_bytes());
    body.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    body.extend(data);
    sealed(TCP, from.0, to.0, body, 16)
}

pub fn udp(from: End, to: End, data: &[u8]) -> Packet {
    let mut body = Vec::new();
    body.extend(from.1.to_be_bytes());
    body.extend(to.1.to_be_bytes());
    body.extend((8 + data.len() as u16).to_be_bytes());
    body.extend([0, 0]);
    body.extend(data);
    sealed(UDP, from.0, to.0, body, 6)
}

/// SCTP with one chunk: type 1 opens an association, 0 is data.
pub fn sctp(from: End, to: End, chunk: u8, data: &[u8]) -> Packet {
    let mut body = Vec::new();
    body.extend(from.1.to_be_bytes());
    body.extend(to.1.to_be_bytes());
    body.extend([1, 2, 3, 4, 0, 0, 0, 0, chunk, 0]);
    body.extend((4 + data.len() as u16).to_be_bytes());
    body.extend(data);
    let sum = crc32c(&body).to_le_bytes();
    body[8..12].copy_from_slice(&sum);
    Packet { fragment: 0x4000, ..other(from.0, to.0, SCTP, &body) }
}

/// CRC32c (RFC 3720 section 12.1).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    })
}

/// The family's own ICMP.
pub fn icmp_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { ICMP } else { ICMPV6 }
}

pub fn echo(src: IpAddr, dst: IpAddr, request: bool, id: u16) -> Packet {
    let kind = match (src.is_ipv4(), request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    let mut body = vec![kind, 0, 0, 0];
    body.extend(id.to_be_bytes());
    body.extend([0, 1, b'p', b'i', b'n', b'g']);
    sealed(icmp_of(src), src, dst, body, 2)
}

/// A neighbour solicitation (135) or advertisement (136), or another message of that form.
pub fn neighbour(src: IpAddr, dst: IpAddr, kind: u8, target: IpAddr) -> Packet {
    let mut body = vec![kind, 0, 0, 0, 0x60, 0, 0, 0];
    body.extend(octets(target));
    body.extend([if kind == 136 { 2 } else { 1 }, 1]);
    body.extend(FROM_MAC);
    Packet { hops: 255, ..sealed(ICMPV6, src, dst, body, 2) }
}

/// An ICMP error that quotes the header and eight bytes of a frame's packet. Type and code are those of IPv4; IPv6 gets
/// its own for the same.
pub fn error(src: IpAddr, dst: IpAddr, kind: u8, code: u8, quoted: &[u8]) -> Packet {
    let (kind, code, header) = match (dst.is_ipv4(), kind, code) {
        (true, ..) => (kind, code, 20),
        (false, 3, 3) => (1, 4, 40),
        (false, 3, 4) => (2, 0, 40),
        (false, 11, _) => (3, code, 40),
        (false, ..) => (4, code, 40),
    };
    let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
    body.extend(&quoted[14..14 + header + 8]);
    sealed(icmp_of(dst), src, dst, body, 2)
}

pub fn other(src: IpAddr, dst: IpAddr, proto: u8, body: &[u8]) -> Packet {
    let (options, extensions) = (vec![], vec![]);
    Packet { src, dst, proto, id: 1, fragment: 0, options, extensions, hops: 64, body: body.to_vec() }
}

fn sealed(proto: u8, src: IpAddr, dst: IpAddr, mut body: Vec<u8>, at: usize) -> Packet {
    let mut sum = transport_sum(proto, src, dst, &body);
    if proto == UDP && sum == 0 {
        sum = 0xffff;
    }
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Packet { fragment: 0x4000, ..other(src, dst, proto, &body) }
}

impl Packet {
    pub fn frame(&self) -> Vec<u8> {
        if self.src.is_ipv4() { self.frame_v4() } else { self.frame_v6() }
    }

    fn frame_v4(&self) -> Vec<u8> {
        let mut ip = Vec::new();
        let header = 20 + self.options.len();
        ip.extend([0x40 | (header / 4) as u8, 0]);
        ip.extend(((header + self.body.len()) as u16).to_be_bytes());
        ip.extend(self.id.to_be_bytes());
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.hops, self.proto, 0, 0]);
        ip.extend(octets(self.src));
        ip.extend(octets(self.dst));
        ip.extend(&self.options);
        let sum = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend(&self.body);
        ethernet(0x0800, &ip)
    }

    fn frame_v6(&self) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        if self.fragment & 0x3fff != 0 {
            let field = (self.fragment & 0x1fff) << 3 | self.fragment >> 13 & 1;
            let [high, low] = field.to_be_bytes();
            let id = self.id.to_be_bytes();
            extensions.push((44, vec![0, 0, high, low, 0xfe, 0xed, id[0], id[1]]));
        }
        let (mut first, mut payload) = (self.proto, self.body.clone());
        for (number, mut bytes) in extensions.into_iter().rev() {
            bytes[0] = first;
            bytes.extend(payload);
            (first, payload) = (number, bytes);
        }
        let mut ip = vec![0x60, 0, 0, 0];
        ip.extend((payload.len() as u16).to_be_bytes());
        ip.extend([first, self.hops]);
        ip.extend(octets(self.src));
        ip.extend(octets(self.dst));
        ip.extend(payload);
        ethernet(0x86dd, &ip)
    }

    /// One hop later.
    pub fn hop(mut self) -> Self {
        self.hops -= 1;
        self
    }

    /// The frame as it looks once handed to a pod, with other ends.
    pub fn to_pod(&self, pod: &crate::harness::Pod) -> Vec<u8> {
        let mut frame = self.frame();
        frame[..6].copy_from_slice(&pod.mac);
        frame[6..12].copy_from_slice(&pod.host_mac);
        frame
    }
}

pub fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(TO_MAC);
    frame.extend(FROM_MAC);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn transport_sum(proto: u8, src: IpAddr, dst: IpAddr, body: &[u8]) -> u16 {
    let mut total = sum(body);
    if proto != ICMP {
        total += sum(&octets(src)) + sum(&octets(dst)) + u64::from(proto) + body.len() as u64;
    }
    !fold(total)
}

/// What stands in the headers of a frame with an IP packet without IPv6 extensions but a fragment header.
pub struct Headers<'a> {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    pub hops: u8,
    pub body: &'a [u8],
}

pub fn headers(frame: &[u8]) -> Headers<'_> {
    let ip = &frame[14..];
    if ip[0] >> 4 == 4 {
        let addr = |at: usize| v4(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let body = &ip[usize::from(ip[0] & 15) * 4..total];
        return Headers { src: addr(12), dst: addr(16), proto: ip[9], hops: ip[8], body };
    }
    let addr = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).expect("sixteen bytes"));
    let body = &ip[40..40 + usize::from(u16::from_be_bytes([ip[4], ip[5]]))];
    let (proto, body) = if ip[6] == 44 { (body[0], &body[8..]) } else { (ip[6], body) };
    Headers { src: addr(8), dst: addr(24), proto, hops: ip[7], body }
}

/// Where the transport header of such a frame begins.
pub fn l4_at(frame: &[u8]) -> usize {
    if frame[14] >> 4 == 4 { 14 + usize::from(frame[14] & 15) * 4 } else { 54 }
}

/// Panics unless all checksums of a frame with an unfragmented IP packet are right.
#[track_caller]
pub fn assert_sums(frame: &[u8]) {
    let ip = &frame[14..];
    if ip[0] >> 4 == 4 {
        assert_eq!(fold(sum(&ip[..usize::from(ip[0] & 15) * 4])), 0xffff, "IPv4 header checksum");
    }
    let Headers { src, dst, proto, body, .. } = headers(frame);
    if proto == TCP || proto == UDP || proto == icmp_of(src) {
        assert_eq!(transport_sum(proto, src, dst, body), 0, "transport checksum");
    }
    if proto == SCTP {
        let zeroed = [&body[..8], &[0; 4], &body[12..]].concat();
        assert_eq!(body[8..12], crc32c(&zeroed).to_le_bytes(), "SCTP checksum");
    }
}

/// Source and destination of a frame with TCP or UDP.
pub fn ends(frame: &[u8]) -> (End, End) {
    let Headers { src, dst, body, .. } = headers(frame);
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    ((src, port(0)), (dst, port(2)))
}
