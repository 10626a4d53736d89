//! Builds packets byte by byte, and checks what comes back.

use std::net::Ipv4Addr;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub const FROM_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
/// That of `lo`, so that test runs take the packet as meant for them.
pub const TO_MAC: [u8; 6] = [0; 6];

pub type End = (Ipv4Addr, u16);

/// An Ethernet frame with an IPv4 packet.
#[derive(Clone)]
pub struct Packet {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub proto: u8,
    pub id: u16,
    /// Flags and offset, as in the header.
    pub fragment: u16,
    pub options: Vec<u8>,
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

pub fn echo(src: Ipv4Addr, dst: Ipv4Addr, request: bool, id: u16) -> Packet {
    let mut body = vec![if request { 8 } else { 0 }, 0, 0, 0];
    body.extend(id.to_be_bytes());
    body.extend([0, 1, b'p', b'i', b'n', b'g']);
    sealed(ICMP, src, dst, body, 2)
}

/// An ICMP error that quotes the header and eight bytes of a frame's packet.
pub fn error(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, code: u8, quoted: &[u8]) -> Packet {
    let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
    body.extend(&quoted[14..14 + 28]);
    sealed(ICMP, src, dst, body, 2)
}

pub fn other(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, body: &[u8]) -> Packet {
    Packet { src, dst, proto, id: 1, fragment: 0, options: vec![], body: body.to_vec() }
}

fn sealed(proto: u8, src: Ipv4Addr, dst: Ipv4Addr, mut body: Vec<u8>, at: usize) -> Packet {
    let mut sum = transport_sum(proto, src, dst, &body);
    if proto == UDP && sum == 0 {
        sum = 0xffff;
    }
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Packet { src, dst, proto, id: 1, fragment: 0x4000, options: vec![], body }
}

impl Packet {
    pub fn frame(&self) -> Vec<u8> {
        let mut ip = Vec::new();
        let header = 20 + self.options.len();
        ip.extend([0x40 | (header / 4) as u8, 0]);
        ip.extend(((header + self.body.len()) as u16).to_be_bytes());
        ip.extend(self.id.to_be_bytes());
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([64, self.proto, 0, 0]);
        ip.extend(self.src.octets());
        ip.extend(self.dst.octets());
        ip.extend(&self.options);
        let sum = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend(&self.body);
        ethernet(0x0800, &ip)
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

fn transport_sum(proto: u8, src: Ipv4Addr, dst: Ipv4Addr, body: &[u8]) -> u16 {
    let mut total = sum(body);
    if proto != ICMP {
        total += sum(&src.octets()) + sum(&dst.octets()) + u64::from(proto) + body.len() as u64;
    }
    !fold(total)
}

/// Panics unless all checksums of a frame with an unfragmented IPv4 packet are right.
#[track_caller]
pub fn assert_sums(frame: &[u8]) {
    let ip = &frame[14..];
    let header = usize::from(ip[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    assert_eq!(fold(sum(&ip[..header])), 0xffff, "IPv4 header checksum");
    let (src, dst) =
        (Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]), Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]));
    if matches!(ip[9], ICMP | TCP | UDP) {
        assert_eq!(transport_sum(ip[9], src, dst, &ip[header..total]), 0, "transport checksum");
    }
}

/// Source and destination of a frame with TCP or UDP.
pub fn ends(frame: &[u8]) -> (End, End) {
    let ip = &frame[14..];
    let l4 = &ip[usize::from(ip[0] & 15) * 4..];
    let port = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    (
        (Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]), port(0)),
        (Ipv4Addr::new(ip[16], ip[17], ip[18], ip[19]), port(2)),
    )
}
