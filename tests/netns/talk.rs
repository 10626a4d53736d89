//! Clients that run inside namespaces.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, sockopt::Timeout};

use crate::space::Space;

/// How long a packet that should arrive may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for a packet that should not arrive.
const IMPATIENCE: Duration = Duration::from_millis(700);

/// An answer: who gave it, and the address it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub server: String,
    pub client: IpAddr,
}

fn parse(line: &str) -> Seen {
    let (server, client) = line.trim_end().split_once(' ').expect("a name and an address");
    Seen { server: server.to_owned(), client: client.parse().expect("an address") }
}

fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    String::from_utf8(line).map_err(io::Error::other)
}

/// Connects over TCP within `patience`; gives the stream and what the server said.
pub fn connect_within(space: &Space, to: SocketAddr, patience: Duration) -> io::Result<(TcpStream, Seen)> {
    space.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let seen = parse(&read_line(&mut stream)?);
        Ok((stream, seen))
    })
}

/// Connects over TCP, which must go well.
#[track_caller]
pub fn connect(space: &Space, to: SocketAddr) -> (TcpStream, Seen) {
    match connect_within(space, to, PATIENCE) {
        Ok(done) => done,
        Err(error) => panic!("TCP to {to}: {error}"),
    }
}

/// Connects over TCP from a port of one's own choice, which must go well.
#[track_caller]
pub fn connect_from(space: &Space, port: u16, to: SocketAddr) -> (TcpStream, Seen) {
    let done = space.run(|| -> io::Result<(TcpStream, Seen)> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddr::new(any(to), port))?;
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        rustix::net::connect(&socket, &to)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        let seen = parse(&read_line(&mut stream)?);
        Ok((stream, seen))
    });
    match done {
        Ok(done) => done,
        Err(error) => panic!("TCP from port {port} to {to}: {error}"),
    }
}

/// Whether TCP gets through.
pub fn reaches(space: &Space, to: SocketAddr) -> bool {
    connect_within(space, to, IMPATIENCE).is_ok()
}

/// Sends one datagram from a new socket and waits for the answer; `connected` chooses connect() or sendto().
pub fn datagram(space: &Space, to: SocketAddr, connected: bool) -> io::Result<Seen> {
    ask(space, 0, to, connected)
}

/// The same over a connected socket, from a port of one's own choice.
pub fn datagram_from(space: &Space, port: u16, to: SocketAddr) -> io::Result<Seen> {
    ask(space, port, to, true)
}

/// Every address of a family.
fn any(of: SocketAddr) -> IpAddr {
    if of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn ask(space: &Space, port: u16, to: SocketAddr, connected: bool) -> io::Result<Seen> {
    space.run(|| {
        let socket = UdpSocket::bind((any(to), port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = [0; 2048];
        let length = if connected {
            socket.connect(to)?;
            socket.send(b"ping")?;
            socket.recv(&mut buffer)?
        } else {
            socket.send_to(b"ping", to)?;
            let (length, from) = socket.recv_from(&mut buffer)?;
            assert_eq!(from, to, "the answer comes from where the question went");
            length
        };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Ok(parse(text.lines().next().unwrap_or_default()))
    })
}

/// Sends `total` bytes of a known pattern and checks that they all come back.
#[track_caller]
pub fn exchange(stream: &TcpStream, total: usize) {
    let mut writer = stream.try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || {
        let mut sent = 0;
        while sent < total {
            let chunk: Vec<u8> = (sent..total.min(sent + 65_536)).map(|at| (at % 251) as u8).collect();
            writer.write_all(&chunk).expect("bytes sent");
            sent += chunk.len();
        }
    });
    let mut reader = stream.try_clone().expect("a second handle");
    let mut buffer = vec![0; 65_536];
    let mut received = 0;
    while received < total {
        let length = reader.read(&mut buffer).expect("bytes received");
        assert_ne!(length, 0, "the stream ended after {received} bytes");
        for byte in &buffer[..length] {
            assert_eq!(*byte, (received % 251) as u8, "byte {received}");
            received += 1;
        }
    }
    sender.join().expect("the sender");
}
