//! Questions, answers and announcements on the uplink's segment: ARP (RFC 826, RFC 5227) and neighbour discovery
//! (RFC 4861).

use std::{
    io,
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::Claims;

const BROADCAST: [u8; 6] = [0xff; 6];
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const ARP_LENGTH: usize = 28;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
/// Override: caches are to take the new hardware address.
const OVERRIDE: u8 = 0x20;
/// Packets read at one go at most.
const AT_ONCE: usize = 4096;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn socket(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let kind = kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket() takes three integers; the result is checked before it is owned.
    let raw = check(unsafe { libc::socket(domain, kind, protocol) })?;
    // SAFETY: the kernel has just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn option<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value is as long as stated and lives across the call.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    })
    .map(drop)
}

/// Sockets on one uplink.
pub(super) struct Segment {
    index: u32,
    mac: [u8; 6],
    own: Vec<IpAddr>,
    arp: OwnedFd,
    /// None on a node without IPv6.
    icmp: Option<OwnedFd>,
}

impl Segment {
    /// Opens the sockets (CAP_NET_RAW).
    pub(super) fn open(claims: &Claims) -> io::Result<Self> {
        let (index, mac) = claims.uplink;
        let arp = socket(libc::AF_PACKET, libc::SOCK_DGRAM, i32::from((libc::ETH_P_ARP as u16).to_be()))?;
        let here = link_address(index, [0; 6]);
        // SAFETY: the address is a sockaddr_ll of the stated length that lives across the call.
        check(unsafe {
            libc::bind(
                arp.as_raw_fd(),
                (&raw const here).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        let icmp = if claims.own.iter().any(IpAddr::is_ipv6) { Some(open_icmp(index)?) } else { None };
        Ok(Segment { index, mac, own: claims.own.clone(), arp, icmp })
    }

    /// Whether the sockets are those that these claims need.
    pub(super) fn is_for(&self, claims: &Claims) -> bool {
        (self.index, self.mac) == claims.uplink && self.own == claims.own
    }

    /// Asks who has an address.
    pub(super) fn ask(&self, address: IpAddr) {
        match address {
            IpAddr::V4(target) => {
                let own = self.own.iter().find_map(|own| match own {
                    IpAddr::V4(own) => Some(*own),
                    IpAddr::V6(_) => None,
                });
                // Without an address of one's own it is a probe (RFC 5227), which is answered all the same.
                let own = own.unwrap_or(Ipv4Addr::UNSPECIFIED);
                self.send_arp(&arp(ARP_REQUEST, self.mac, own, [0; 6], target));
            }
            IpAddr::V6(target) => self.send_icmp(solicited_node(target), &solicitation(target, self.mac)),
        }
    }

    /// Says that this node has an address: a gratuitous ARP request, which also old hosts take up, or an unsolicited
    /// neighbour advertisement.
    pub(super) fn announce(&self, address: IpAddr) {
        match address {
            IpAddr::V4(own) => {
                self.send_arp(&arp(ARP_REQUEST, self.mac, own, [0; 6], own));
                self.send_arp(&arp(ARP_REPLY, self.mac, own, BROADCAST, own));
            }
            IpAddr::V6(own) => {
                const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
                self.send_icmp(ALL_NODES, &advertisement(own, self.mac));
            }
        }
    }

    /// Answers that have come in: who has which address.
    pub(super) fn heard(&self) -> Vec<(IpAddr, [u8; 6])> {
        let mut heard = Vec::new();
        let mut buffer = [0; 1500];
        for _ in 0..AT_ONCE {
            let Some(length) = receive(&self.arp, &mut buffer) else { break };
            heard.extend(parse_arp(&buffer[..length]));
        }
        for _ in 0..AT_ONCE {
            let Some(length) = self.icmp.as_ref().and_then(|icmp| receive(icmp, &mut buffer)) else { break };
            heard.extend(parse_advertisement(&buffer[..length]));
        }
        heard
    }

    fn send_arp(&self, packet: &[u8]) {
        let to = link_address(self.index, BROADCAST);
        // SAFETY: packet and address are as long as stated and only read.
        let sent = unsafe {
            libc::sendto(
                self.arp.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "an ARP packet was not sent");
        }
    }

    fn send_icmp(&self, to: Ipv6Addr, packet: &[u8]) {
        let Some(icmp) = &self.icmp else { return };
        // SAFETY: all zero is a valid sockaddr_in6.
        let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        address.sin6_addr.s6_addr = to.octets();
        address.sin6_scope_id = self.index;
        // SAFETY: packet and address are as long as stated and only read. The kernel fills in the checksum.
        let sent = unsafe {
            libc::sendto(
                icmp.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_in6>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "a neighbour discovery packet was not sent");
        }
    }
}

/// A socket for neighbour advertisements alone, bound to the uplink.
fn open_icmp(index: u32) -> io::Result<OwnedFd> {
    const ICMP6_FILTER: libc::c_int = 1;
    /// Neighbour discovery is taken only with the hop limit that no router passes on (RFC 4861 section 7.1).
    const HOPS: libc::c_int = 255;
    let icmp = socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)?;
    // One bit for each type that is kept out.
    let mut filter = [u32::MAX; 8];
    filter[usize::from(ADVERTISEMENT) / 32] &= !(1 << (ADVERTISEMENT % 32));
    option(&icmp, libc::IPPROTO_ICMPV6, ICMP6_FILTER, &filter)?;
    option(&icmp, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, &HOPS)?;
    option(&icmp, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, &HOPS)?;
    option(&icmp, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &(index as libc::c_int))?;
    option(&icmp, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, &0)?;
    Ok(icmp)
}

fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Option<usize> {
    // SAFETY: the buffer is ours, writable and as long as stated.
    let received = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    usize::try_from(received).ok()
}

fn link_address(index: u32, mac: [u8; 6]) -> libc::sockaddr_ll {
    // SAFETY: all zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ARP as u16).to_be();
    address.sll_ifindex = index as i32;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&mac);
    address
}

fn arp(operation: u16, mac: [u8; 6], own: Ipv4Addr, to: [u8; 6], target: Ipv4Addr) -> Vec<u8> {
    // Ethernet, IPv4, and the lengths of their addresses.
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(mac);
    packet.extend(own.octets());
    packet.extend(to);
    packet.extend(target.octets());
    packet
}

fn parse_arp(packet: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    let packet: &[u8; ARP_LENGTH] = packet.get(..ARP_LENGTH)?.try_into().ok()?;
    let [0, 1, 8, 0, 6, 4, operation @ ..] = packet else { return None };
    let operation = u16::from_be_bytes([operation[0], operation[1]]);
    let mac: [u8; 6] = packet[8..14].try_into().ok()?;
    let own: [u8; 4] = packet[14..18].try_into().ok()?;
    // A gratuitous request says the same as an answer.
    (operation == ARP_REPLY || (operation == ARP_REQUEST && packet[14..18] == packet[24..28]))
        .then(|| (Ipv4Addr::from(own).into(), mac))
}

fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Type, code, checksum (the kernel's), flags, target, one option with the hardware address.
fn discovery(kind: u8, flags: u8, target: Ipv6Addr, option: u8, mac: [u8; 6]) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    packet.extend(target.octets());
    packet.extend([option, 1]);
    packet.extend(mac);
    packet
}

fn solicitation(target: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    discovery(SOLICITATION, 0, target, OPTION_SOURCE, mac)
}

fn advertisement(own: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    discovery(ADVERTISEMENT, OVERRIDE, own, OPTION_TARGET, mac)
}

fn parse_advertisement(packet: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    if *packet.first()? != ADVERTISEMENT {
        return None;
    }
    let target: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
    let mut options = packet.get(24..)?;
    loop {
        let [kind, units, ..] = options else { return None };
        let option = options.get(..usize::from(*units).checked_mul(8).filter(|length| *length > 0)?)?;
        if *kind == OPTION_TARGET {
            return Some((Ipv6Addr::from(target).into(), option.get(2..8)?.try_into().ok()?));
        }
        options = &options[option.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn arp_answers_and_announcements_are_read_and_questions_are_not() {
        let (own, other) = (Ipv4Addr::new(192, 0, 2, 7), Ipv4Addr::new(192, 0, 2, 1));
        let found = Some((IpAddr::from(own), MAC));
        assert_eq!(parse_arp(&arp(ARP_REPLY, MAC, own, BROADCAST, other)), found);
        assert_eq!(parse_arp(&arp(ARP_REQUEST, MAC, own, [0; 6], own)), found);
        assert_eq!(parse_arp(&arp(ARP_REQUEST, MAC, own, [0; 6], other)), None);
        let packet = arp(ARP_REPLY, MAC, own, BROADCAST, other);
        assert!((0..packet.len()).all(|length| parse_arp(&packet[..length]).is_none()));
        let padded = [packet, vec![0; 18]].concat();
        assert_eq!(parse_arp(&padded), found, "Ethernet pads to 46 bytes");
    }

    #[test]
    fn advertisements_are_read_whatever_comes_before_their_option() {
        let own: Ipv6Addr = "2001:db8::7".parse().expect("an address");
        let packet = advertisement(own, MAC);
        assert_eq!(parse_advertisement(&packet), Some((own.into(), MAC)));
        assert!((0..packet.len()).all(|length| parse_advertisement(&packet[..length]).is_none()));
        let mut other = packet[..24].to_vec();
        other.extend([14, 1, 0, 0, 0, 0, 0, 0]);
        other.extend(&packet[24..]);
        assert_eq!(parse_advertisement(&other), Some((own.into(), MAC)));
        let mut endless = packet;
        endless[25] = 0;
        assert_eq!(parse_advertisement(&endless), None);
        assert_eq!(parse_advertisement(&solicitation(own, MAC)), None);
        assert_eq!(solicited_node(own).to_string(), "ff02::1:ff00:7");
    }
}
