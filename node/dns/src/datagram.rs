//! UDP sockets that receive and send many datagrams with one system call, and answer from the address that was asked.
//!
//! The address matters: a client drops an answer that comes from another one, and a node has several.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

/// Datagrams taken with one system call.
pub const BATCH: usize = 32;
/// Octets of a query that are read; a longer one is cut, and refused as malformed.
const QUERY: usize = 2048;
/// Room for one control message with an IPv6 address and an interface.
const CONTROL: usize = 64;
/// What the kernel is asked to hold for a server that restarts; it gives at most net.core.rmem_max.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Room for control messages, aligned as the kernel's headers in it are.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// The address a query was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    V4(Ipv4Addr),
    /// With the interface, which link-local addresses need.
    V6(Ipv6Addr, u32),
}

/// Who asked, and at which address.
#[derive(Clone, Copy)]
pub struct Peer {
    name: libc::sockaddr_storage,
    length: libc::socklen_t,
    local: Option<Local>,
}

/// A bound UDP socket.
#[derive(Debug)]
pub struct Datagrams {
    socket: OwnedFd,
}

/// Queries of one system call.
pub struct Batch {
    queries: Vec<[u8; QUERY]>,
    received: Vec<(usize, Peer)>,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { queries: vec![[0; QUERY]; BATCH], received: Vec::with_capacity(BATCH) }
    }
}

impl Batch {
    /// The queries and who sent them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Peer)> {
        let queries = self.queries.iter().zip(&self.received);
        queries.map(|(query, (length, peer))| (query.get(..*length).unwrap_or_default(), peer))
    }
}

/// Opens a socket that other processes of this user may open too: while one is replaced by the next, both answer.
///
/// # Errors
/// What the system says; an IPv6 address where there is no IPv6 is `AddrNotAvailable` or `Unsupported`.
pub fn open(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    if kind == SocketType::STREAM {
        // Connections of the process before linger after its end.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

impl Datagrams {
    /// Opens and binds one.
    ///
    /// # Errors
    /// As [`open`].
    pub fn bind(address: SocketAddr) -> io::Result<Datagrams> {
        let socket = open(address, SocketType::DGRAM)?;
        // Less than asked for is as good as it gets.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
        let (level, option) = match address {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        let on: libc::c_int = 1;
        // SAFETY: the option's value is one `c_int`, which lives for the call and whose size is given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Datagrams { socket })
    }

    /// Takes a socket that [`Datagrams::bind`] made in another process.
    #[must_use]
    pub fn from_socket(socket: OwnedFd) -> Datagrams {
        Datagrams { socket }
    }

    /// The socket alone, to hand it on.
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// What the system says.
    pub fn local(&self) -> io::Result<SocketAddr> {
        let address = rustix::net::getsockname(&self.socket)?;
        SocketAddr::try_from(address).map_err(io::Error::other)
    }

    /// Waits for at least one datagram and takes what is there, up to [`BATCH`].
    ///
    /// # Errors
    /// What the system says.
    pub fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        batch.received.clear();
        let mut names = [empty_name(); BATCH];
        let mut controls = [Control([0; CONTROL]); BATCH];
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: `mmsghdr` is made of integers and pointers; all-zero is a value of the type.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for ((((header, part), query), name), control) in
            headers.iter_mut().zip(&mut parts).zip(&mut batch.queries).zip(&mut names).zip(&mut controls)
        {
            part.iov_base = query.as_mut_ptr().cast();
            part.iov_len = QUERY;
            header.msg_hdr.msg_name = (&raw mut *name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = (&raw mut *control).cast();
            header.msg_hdr.msg_controllen = CONTROL;
        }
        // SAFETY: every header points at buffers of the given sizes that live until the end of this function and that
        // nothing else uses meanwhile.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else { return Err(io::Error::last_os_error()) };
        for (header, name) in headers.iter().zip(&names).take(count) {
            // SAFETY: the kernel filled in this header, whose control buffer still lives.
            let local = unsafe { local_address(&header.msg_hdr) };
            let peer = Peer { name: *name, length: header.msg_hdr.msg_namelen, local };
            batch.received.push((header.msg_len as usize, peer));
        }
        Ok(())
    }

    /// Sends answers. One that the system does not take is lost, as datagrams are; it never waits.
    pub fn send(&self, answers: &[(Vec<u8>, Peer)]) {
        let mut rest = answers;
        while !rest.is_empty() {
            let sent = self.send_some(rest).unwrap_or(0);
            // What stopped it is the first one that was not sent.
            let skip = if sent < rest.len().min(BATCH) { sent + 1 } else { sent };
            rest = rest.get(skip..).unwrap_or_default();
        }
    }

    fn send_some(&self, answers: &[(Vec<u8>, Peer)]) -> io::Result<usize> {
        let mut controls = [Control([0; CONTROL]); BATCH];
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: `mmsghdr` is made of integers and pointers; all-zero is a value of the type.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let slots = headers.iter_mut().zip(&mut parts).zip(&mut controls).zip(answers);
        for (((header, part), control), (octets, peer)) in slots {
            // The kernel only reads what it sends: the pointers are mutable because receiving has the same type.
            part.iov_base = octets.as_ptr().cast_mut().cast();
            part.iov_len = octets.len();
            header.msg_hdr.msg_name = (&raw const peer.name).cast_mut().cast();
            header.msg_hdr.msg_namelen = peer.length;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            if let Some(local) = peer.local {
                header.msg_hdr.msg_control = (&raw mut *control).cast();
                header.msg_hdr.msg_controllen = CONTROL;
                // SAFETY: the header points at a control buffer of the given size, aligned for control messages.
                header.msg_hdr.msg_controllen = unsafe { write_local(&header.msg_hdr, local) };
            }
        }
        let count = answers.len().min(BATCH) as libc::c_uint;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the first `count` headers point at names, octets and control messages that live for this call.
        let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), count, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Ends a [`Datagrams::receive`] that waits, now and from now on, in every process that holds the socket.
    pub fn wake(&self) {
        // Linux wakes the readers of an unconnected UDP socket although it then says ENOTCONN (inet_shutdown).
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Read);
    }
}

fn empty_name() -> libc::sockaddr_storage {
    // SAFETY: `sockaddr_storage` is made of integers; all-zero is a value of the type.
    unsafe { zeroed() }
}

/// The address a datagram was sent to.
///
/// # Safety
/// The header's control buffer must live and hold what the kernel wrote.
unsafe fn local_address(header: &libc::msghdr) -> Option<Local> {
    // SAFETY: the caller vouches for the buffer; the kernel writes whole control messages.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return headers within the buffer or null.
        let (level, kind, data) =
            unsafe { ((*message).cmsg_level, (*message).cmsg_type, libc::CMSG_DATA(message)) };
        if level == libc::IPPROTO_IP && kind == libc::IP_PKTINFO {
            // SAFETY: a message of this type carries an `in_pktinfo`; it need not be aligned for it.
            let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
            return Some(Local::V4(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr))));
        }
        if level == libc::IPPROTO_IPV6 && kind == libc::IPV6_PKTINFO {
            // SAFETY: a message of this type carries an `in6_pktinfo`; it need not be aligned for it.
            let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
            return Some(Local::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr), info.ipi6_ifindex));
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    None
}

/// Writes the control message that sets an answer's source; returns its length.
///
/// # Safety
/// The header must point at a live control buffer of [`CONTROL`] octets.
unsafe fn write_local(header: &libc::msghdr, local: Local) -> usize {
    // SAFETY: the buffer holds more than one control message header.
    let message = unsafe { libc::CMSG_FIRSTHDR(header) };
    if message.is_null() {
        return 0;
    }
    match local {
        Local::V4(address) => {
            let info = libc::in_pktinfo {
                // The way back is the routing table's choice.
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(address).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let size = size_of::<libc::in_pktinfo>() as libc::c_uint;
            // SAFETY: the buffer has room for the header and this structure.
            unsafe {
                (*message).cmsg_level = libc::IPPROTO_IP;
                (*message).cmsg_type = libc::IP_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(size) as usize;
                libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().write_unaligned(info);
                libc::CMSG_SPACE(size) as usize
            }
        }
        Local::V6(address, interface) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: address.octets() },
                ipi6_ifindex: if address.is_unicast_link_local() { interface } else { 0 },
            };
            let size = size_of::<libc::in6_pktinfo>() as libc::c_uint;
            // SAFETY: the buffer has room for the header and this structure.
            unsafe {
                (*message).cmsg_level = libc::IPPROTO_IPV6;
                (*message).cmsg_type = libc::IPV6_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(size) as usize;
                libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().write_unaligned(info);
                libc::CMSG_SPACE(size) as usize
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn answers_come_from_the_address_that_was_asked() {
        let socket = Datagrams::bind("0.0.0.0:0".parse().expect("an address")).expect("a socket");
        let port = socket.local().expect("an address").port();
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut batch = Batch::default();
        for asked in ["127.0.0.1", "127.0.0.5"] {
            client.send_to(b"hello", (asked, port)).expect("it is sent");
            socket.receive(&mut batch).expect("it comes");
            let answers: Vec<_> = batch.iter().map(|(octets, peer)| (octets.to_vec(), *peer)).collect();
            assert_eq!(answers.len(), 1);
            socket.send(&answers);
            let mut buffer = [0; 16];
            let (length, from) = client.recv_from(&mut buffer).expect("an answer");
            assert_eq!((&buffer[..length], from.ip().to_string().as_str()), (&b"hello"[..], asked));
        }
    }

    #[test]
    fn many_are_taken_at_once_and_all_are_answered() {
        let socket = Datagrams::bind("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.connect(socket.local().expect("an address")).expect("a route");
        for i in 0..100_u8 {
            client.send(&[i]).expect("it is sent");
        }
        let (mut batch, mut answers) = (Batch::default(), Vec::new());
        while answers.len() < 100 {
            socket.receive(&mut batch).expect("they come");
            assert!(batch.iter().count() <= BATCH);
            answers.extend(batch.iter().map(|(octets, peer)| (octets.to_vec(), *peer)));
        }
        socket.send(&answers);
        for i in 0..100_u8 {
            let mut buffer = [0; 16];
            assert_eq!(client.recv(&mut buffer).expect("an answer"), 1);
            assert_eq!(buffer[0], i);
        }
    }

    #[test]
    fn a_waiting_reader_is_woken() {
        let socket = std::sync::Arc::new(
            Datagrams::bind("127.0.0.1:0".parse().expect("an address")).expect("a socket"),
        );
        let reader = socket.clone();
        let thread = std::thread::spawn(move || reader.receive(&mut Batch::default()).is_ok());
        socket.wake();
        assert!(thread.join().is_ok());
    }
}
