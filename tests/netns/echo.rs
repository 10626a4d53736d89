//! Servers that run inside namespaces.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::space::Space;

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
            // The kernel's timeout for what is received holds for what is accepted, too.
            for fd in [listener.as_fd(), socket.as_fd()] {
                let recheck = Some(Duration::from_millis(50));
                rustix::net::sockopt::set_socket_timeout(fd, rustix::net::sockopt::Timeout::Recv, recheck)
                    .expect("a timeout");
            }
            (listener, socket)
        });
        let (flag, who) = (self.stop.clone(), name.to_owned());
        self.threads.push(space.spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                if let Ok((stream, peer)) = listener.accept() {
                    let who = who.clone();
                    std::thread::spawn(move || echo(stream, &who, peer));
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
    // What the listener waits for is not what its connections wait for.
    let _ = stream.set_read_timeout(None);
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
