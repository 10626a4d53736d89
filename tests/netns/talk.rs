//! Servers and clients that run inside namespaces.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::world::Space;

/// How long a packet that should arrive may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for a packet that should not arrive.
const IMPATIENCE: Duration = Duration::from_millis(700);

/// A server on TCP and UDP, over IPv4 and IPv6, that says its name and the peer's address, then echoes. It ends when it
/// is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub fn new(space: &Space, name: &str, port: u16) -> Self {
        let mut server = Server { stop: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        // Namespaces of the tests have `bindv6only` set, so that each family has sockets of its own.
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
            server.serve(space, name, SocketAddr::new(any, port));
        }
        server
    }

    fn serve(&mut self, space: &Space, name: &str, at: SocketAddr) {
        let (listener, socket) = space.run(|| {
            let listener = TcpListener::bind(at).expect("a TCP listener");
            let socket = UdpSocket::bind(at).expect("a UDP socket");
            listener.set_nonblocking(true).expect("a non-blocking listener");
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
            (listener, socket)
        });
        let (flag, who) = (self.stop.clone(), name.to_owned());
        self.threads.push(space.spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        let who = who.clone();
                        std::thread::spawn(move || echo(stream, &who, peer));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        }));
        let (flag, who) = (self.stop.clone(), name.to_owned());
        self.threads.push(space.spawn(move || {
            let mut buffer = [0; 2048];
            while !flag.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let mut answer = format!("{who} {}\n", peer.ip()).into_bytes();
                    answer.extend_from_slice(&buffer[..length]);
                    let _ = socket.send_to(&answer, peer);
                }
            }
        }));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn echo(mut stream: TcpStream, who: &str, peer: SocketAddr) {
    let _ = stream.set_nonblocking(false);
    if stream.write_all(format!("{who} {}\n", peer.ip()).as_bytes()).is_err() {
        return;
    }
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

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

/// Whether TCP gets through.
pub fn reaches(space: &Space, to: SocketAddr) -> bool {
    connect_within(space, to, IMPATIENCE).is_ok()
}

/// Sends one datagram from a new socket and waits for the answer; `connected` chooses connect() or sendto().
pub fn datagram(space: &Space, to: SocketAddr, connected: bool) -> io::Result<Seen> {
    space.run(|| {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
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
