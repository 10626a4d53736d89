//! A small synchronous rtnetlink client (rtnetlink(7)): exactly the links, addresses, routes and neighbours that
//! pods and nodes need. It acts in the network namespace its socket was opened in.

use std::{
    io,
    mem::size_of,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

const HEADER: usize = 16;
const RECEIVE_BUFFER: usize = 64 * 1024;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// The address is nobody else's, so that nothing waits for duplicate address detection (RFC 4862).
const IFA_F_NODAD: u8 = 0x02;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTNH_F_ONLINK: u32 = 4;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NESTED: u16 = 0x8000;

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{action}: {source}")]
pub struct NetlinkError {
    action: String,
    source: io::Error,
}

impl NetlinkError {
    /// The kernel's error number, if it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

type Result<T> = std::result::Result<T, NetlinkError>;

/// One interface of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `vxlan`, …; empty for hardware and loopback.
    pub kind: String,
    /// Its hardware address; zero when it has none of six bytes.
    pub mac: [u8; 6],
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
}

/// One address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Number of the interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
}

/// One unicast route of the main table. Both ends are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub destination: IpAddr,
    /// Length of the destination's prefix in bits.
    pub prefix: u8,
    /// Outgoing interface.
    pub index: u32,
    /// Next hop; None when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Source address for packets of this host.
    pub source: Option<IpAddr>,
    /// Whether the next hop is taken as reachable without a route to it.
    pub onlink: bool,
    /// Who made the route (rtm_protocol).
    pub protocol: u8,
}

/// One end of a veth pair that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// The namespace it is made in; None is the socket's own.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Its hardware address; None lets the kernel choose.
    pub mac: Option<[u8; 6]>,
}

/// Changes to an interface; what is None stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkChange {
    /// Administrative state.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Number of the bridge it joins.
    pub master: Option<u32>,
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
}

/// A message under construction.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        // Flags are defined as ints by libc but are 16 bits on the wire.
        bytes.extend_from_slice(&(flags as u16 | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Message(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = (value.len() + 4) as u16;
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
        self
    }

    fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn optional(self, kind: u16, value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.attribute(kind, value),
            None => self,
        }
    }

    fn nested(mut self, kind: u16, fill: impl FnOnce(Message) -> Message) -> Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut filled = fill(self);
        let length = (filled.0.len() - start) as u16;
        filled.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        filled
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Splits a run of attributes into (kind, value) pairs; a malformed rest ends it.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn read_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?))
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// The bytes of the wire.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn read_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// An open rtnetlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let failed = |source| NetlinkError { action: "opening a netlink socket".to_owned(), source };
        // SAFETY: socket() takes three integers; the result is checked before it is owned.
        let raw = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
        };
        if raw < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        // SAFETY: `raw` was just returned by socket() and is owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let patience = libc::timeval { tv_sec: 5, tv_usec: 0 };
        // SAFETY: the option value is a timeval of the stated length that lives across the call.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const patience).cast(),
                size_of::<libc::timeval>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(Socket { fd, sequence: 0 })
    }

    fn send(&mut self, mut message: Message) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = message.0.len() as u32;
        message.0[0..4].copy_from_slice(&length.to_ne_bytes());
        message.0[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        // SAFETY: the buffer is ours and as long as stated; send() only reads it.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), message.0.as_ptr().cast(), message.0.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(self.sequence) }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer is ours, writable and as long as stated.
        let received =
            unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// Sends a request and gives each answer (type, body) to `each` until the kernel says it is done.
    fn exchange(&mut self, message: Message, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let sequence = self.send(message)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        loop {
            let received = self.receive(&mut buffer)?;
            let mut rest = &buffer[..received];
            while let Some(header) = rest.get(..HEADER) {
                let length = read_u32(header).unwrap_or_default() as usize;
                let Some(body) = rest.get(HEADER..length) else {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "truncated netlink message"));
                };
                let kind = i32::from(u16::from_ne_bytes([header[4], header[5]]));
                let ours = read_u32(&header[8..]) == Some(sequence);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                // An answer to an earlier request that timed out is not ours.
                if !ours {
                    continue;
                }
                match kind {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let code = read_u32(body).unwrap_or_default() as i32;
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(body),
                }
            }
        }
    }

    fn command(&mut self, message: Message, action: impl FnOnce() -> String) -> Result<()> {
        self.exchange(message, |_| {}).map_err(|source| NetlinkError { action: action(), source })
    }

    fn dump(&mut self, kind: u16, header: &[u8], what: &str, each: impl FnMut(&[u8])) -> Result<()> {
        self.exchange(Message::new(kind, libc::NLM_F_DUMP, header), each)
            .map_err(|source| NetlinkError { action: format!("listing {what}"), source })
    }

    /// Every interface of the namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut links = Vec::new();
        self.dump(libc::RTM_GETLINK, &link_header(0, 0, 0), "interfaces", |body| {
            links.extend(parse_link(body))
        })?;
        Ok(links)
    }

    /// The interface of that name, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses for another reason than that there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut found = None;
        let request =
            Message::new(libc::RTM_GETLINK, libc::NLM_F_ACK, &link_header(0, 0, 0)).text(IFLA_IFNAME, name);
        match self.exchange(request, |body| found = parse_link(body)) {
            Ok(()) => Ok(found),
            Err(source) if source.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(NetlinkError { action: format!("looking up interface {name}"), source }),
        }
    }

    fn new_link(
        &mut self,
        name: &str,
        mtu: u32,
        mac: Option<[u8; 6]>,
        kind: &str,
        data: impl FnOnce(Message) -> Message,
    ) -> Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK;
        let mut message = Message::new(libc::RTM_NEWLINK, flags, &link_header(0, 0, 0))
            .text(IFLA_IFNAME, name)
            .optional(IFLA_ADDRESS, mac.as_ref().map(<[u8; 6]>::as_slice));
        if mtu > 0 {
            message = message.number(IFLA_MTU, mtu);
        }
        let message = message.nested(IFLA_LINKINFO, |info| data(info.text(IFLA_INFO_KIND, kind)));
        self.command(message, || format!("making {kind} interface {name}"))
    }

    /// Makes a veth pair, each end straight in its namespace, both with the same MTU.
    ///
    /// # Errors
    /// EEXIST when either name is taken.
    pub fn add_veth(&mut self, near: VethEnd<'_>, far: VethEnd<'_>, mtu: u32) -> Result<()> {
        self.new_link(near.name, mtu, near.mac, "veth", |info| {
            info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |mut peer| {
                    peer.0.extend_from_slice(&link_header(0, 0, 0));
                    let namespace = far.namespace.map(|fd| fd.as_raw_fd().to_ne_bytes());
                    peer.text(IFLA_IFNAME, far.name)
                        .number(IFLA_MTU, mtu)
                        .optional(IFLA_ADDRESS, far.mac.as_ref().map(<[u8; 6]>::as_slice))
                        .optional(IFLA_NET_NS_FD, namespace.as_ref().map(<[u8; 4]>::as_slice))
                })
            })
        })
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// EEXIST when the name is taken.
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        self.new_link(name, 0, None, "bridge", |info| info)
    }

    /// Makes a VXLAN device whose tunnels are set per packet (`external`), without address learning.
    ///
    /// # Errors
    /// EEXIST when the name is taken or another such device uses the port.
    pub fn add_vxlan(&mut self, name: &str, port: u16, mtu: u32, mac: [u8; 6]) -> Result<()> {
        self.new_link(name, mtu, Some(mac), "vxlan", |info| {
            info.nested(IFLA_INFO_DATA, |data| {
                data.attribute(IFLA_VXLAN_COLLECT_METADATA, &[1])
                    .attribute(IFLA_VXLAN_LEARNING, &[0])
                    .attribute(IFLA_VXLAN_PORT, &port.to_be_bytes())
            })
        })
    }

    /// Changes an interface.
    ///
    /// # Errors
    /// When the kernel refuses, such as for an MTU out of range.
    pub fn change_link(&mut self, index: u32, change: LinkChange) -> Result<()> {
        let up = libc::IFF_UP as u32;
        let (flags, mask) = match change.up {
            Some(true) => (up, up),
            Some(false) => (0, up),
            None => (0, 0),
        };
        let message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK, &link_header(index, flags, mask))
            .optional(IFLA_MTU, change.mtu.map(u32::to_ne_bytes).as_ref().map(<[u8; 4]>::as_slice))
            .optional(IFLA_MASTER, change.master.map(u32::to_ne_bytes).as_ref().map(<[u8; 4]>::as_slice))
            .optional(IFLA_ADDRESS, change.mac.as_ref().map(<[u8; 6]>::as_slice));
        self.command(message, || format!("changing interface {index} ({change:?})"))
    }

    /// Deletes an interface; one that is gone already is fine.
    ///
    /// # Errors
    /// When the kernel refuses for another reason.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        let message = Message::new(libc::RTM_DELLINK, libc::NLM_F_ACK, &link_header(index, 0, 0));
        tolerate(self.command(message, || format!("deleting interface {index}")), &[libc::ENODEV])
    }

    /// Every address of the namespace, of both families.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let mut addresses = Vec::new();
        let header = [libc::AF_UNSPEC as u8, 0, 0, 0, 0, 0, 0, 0];
        self.dump(libc::RTM_GETADDR, &header, "addresses", |body| addresses.extend(parse_address(body)))?;
        Ok(addresses)
    }

    /// Gives an interface an address; one that it has already is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&mut self, address: Address) -> Result<()> {
        self.address_command(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, address)
    }

    /// Takes an address away; one that is not there is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_address(&mut self, address: Address) -> Result<()> {
        tolerate(self.address_command(libc::RTM_DELADDR, 0, address), &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }

    fn address_command(&mut self, kind: u16, flags: i32, address: Address) -> Result<()> {
        let flags_byte = if address.address.is_ipv6() { IFA_F_NODAD } else { 0 };
        let mut header = [family(address.address), address.prefix, flags_byte, 0, 0, 0, 0, 0];
        header[4..8].copy_from_slice(&address.index.to_ne_bytes());
        let octets = octets(address.address);
        let message = Message::new(kind, flags | libc::NLM_F_ACK, &header)
            .attribute(IFA_LOCAL, &octets)
            .attribute(IFA_ADDRESS, &octets);
        self.command(message, || format!("address {}/{}", address.address, address.prefix))
    }

    /// Unicast routes of the main table, of both families.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        // Without a family the kernel lists those it has, so a kernel without IPv6 is no special case.
        self.dump(libc::RTM_GETROUTE, &[0; 12], "routes", |body| routes.extend(parse_route(body)))?;
        Ok(routes)
    }

    /// Makes a route, in the place of one with the same destination.
    ///
    /// # Errors
    /// When the kernel refuses, such as for a next hop that cannot be reached.
    pub fn replace_route(&mut self, route: Route) -> Result<()> {
        self.route_command(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, route)
    }

    /// Deletes a route; one that is gone already is fine.
    ///
    /// # Errors
    /// When the kernel refuses for another reason.
    pub fn delete_route(&mut self, route: Route) -> Result<()> {
        tolerate(self.route_command(libc::RTM_DELROUTE, 0, route), &[libc::ESRCH, libc::ENODEV])
    }

    fn route_command(&mut self, kind: u16, flags: i32, route: Route) -> Result<()> {
        let scope = if route.gateway.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        let mut header = [
            family(route.destination),
            route.prefix,
            0,
            0,
            libc::RT_TABLE_MAIN,
            route.protocol,
            scope,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        if route.onlink {
            header[8..12].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        }
        let message = Message::new(kind, flags | libc::NLM_F_ACK, &header)
            .attribute(RTA_DST, &octets(route.destination))
            .number(RTA_OIF, route.index)
            .optional(RTA_GATEWAY, route.gateway.map(octets).as_deref())
            .optional(RTA_PREFSRC, route.source.map(octets).as_deref());
        self.command(message, || format!("route {}/{}", route.destination, route.prefix))
    }

    /// Makes a permanent neighbour entry, in the place of one for the same address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn replace_neighbour(&mut self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        let message = Message::new(
            libc::RTM_NEWNEIGH,
            libc::NLM_F_CREATE | libc::NLM_F_REPLACE | libc::NLM_F_ACK,
            &neighbour_header(index, address),
        )
        .attribute(NDA_DST, &octets(address))
        .attribute(NDA_LLADDR, &mac);
        self.command(message, || format!("neighbour {address}"))
    }

    /// Deletes a neighbour entry; one that is gone already is fine.
    ///
    /// # Errors
    /// When the kernel refuses for another reason.
    pub fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> Result<()> {
        let message = Message::new(libc::RTM_DELNEIGH, libc::NLM_F_ACK, &neighbour_header(index, address))
            .attribute(NDA_DST, &octets(address));
        tolerate(
            self.command(message, || format!("deleting neighbour {address}")),
            &[libc::ENOENT, libc::ENODEV, libc::ENXIO],
        )
    }
}

fn neighbour_header(index: u32, address: IpAddr) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family(address);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    header
}

/// Turns the refusals that mean "it is so already" into success.
fn tolerate(result: Result<()>, errors: &[i32]) -> Result<()> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| errors.contains(&errno)) => Ok(()),
        other => other,
    }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: read_u32(body.get(4..8)?)?,
        name: String::new(),
        kind: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: read_u32(body.get(8..12)?)? & libc::IFF_UP as u32 != 0,
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = read_text(value),
            IFLA_MTU => link.mtu = read_u32(value)?,
            IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
            IFLA_LINKINFO => {
                link.kind = attributes(value)
                    .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                    .map(|(_, name)| read_text(name))
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let (prefix, index) = (*body.get(1)?, read_u32(body.get(4..8)?)?);
    // IPv4 names its own address LOCAL (ADDRESS is the peer's); IPv6 has ADDRESS alone, unless there is a peer.
    let find = |wanted| attributes(body.get(8..)?).find(|(kind, _)| *kind == wanted).map(|found| found.1);
    let address = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    Some(Address { index, address: read_address(address)?, prefix })
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let (table, kind) = (*body.get(4)?, *body.get(7)?);
    if table != libc::RT_TABLE_MAIN || kind != libc::RTN_UNICAST {
        return None;
    }
    let destination = match i32::from(*body.first()?) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut route = Route {
        destination,
        prefix: *body.get(1)?,
        index: 0,
        gateway: None,
        source: None,
        onlink: read_u32(body.get(8..12)?)? & RTNH_F_ONLINK != 0,
        protocol: *body.get(5)?,
    };
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            RTA_DST => route.destination = read_address(value)?,
            RTA_OIF => route.index = read_u32(value)?,
            RTA_GATEWAY => route.gateway = read_address(value),
            RTA_PREFSRC => route.source = read_address(value),
            _ => {}
        }
    }
    Some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_carry_their_own_length() {
        let message = Message::new(16, 0, &[]).nested(18, |info| info.text(1, "veth"));
        let expected: &[u8] = &[16, 0, 18, 0x80, 9, 0, 1, 0, b'v', b'e', b't', b'h', 0, 0, 0, 0];
        assert_eq!(&message.0[HEADER..], expected);
        let (kind, value) = attributes(&message.0[HEADER..]).next().expect("one attribute");
        assert_eq!(kind, 18);
        assert_eq!(attributes(value).map(|(_, text)| read_text(text)).collect::<Vec<_>>(), ["veth"]);
    }

    #[test]
    fn attributes_stop_at_a_length_past_the_end() {
        assert_eq!(attributes(&[8, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[]).count(), 0);
    }

    #[test]
    fn own_namespace_lists_its_loopback() {
        let mut socket = Socket::open().expect("a netlink socket");
        let loopback = socket.link("lo").expect("a lookup").expect("lo");
        assert_eq!((loopback.index, loopback.name.as_str()), (1, "lo"));
        assert!(socket.links().expect("a list").contains(&loopback));
        assert_eq!(socket.link("none-such").expect("a lookup"), None);
    }
}
