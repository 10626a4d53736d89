//! SCTP between namespaces. Kernels without it are common, so that its packets are written and read here: what the
//! programs do with them is the same.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use fairlead_dataplane::model::Protocol;
use rustix::net::{AddressFamily, SocketType, ipproto, socket};

use crate::{
    address,
    space::Space,
    world::{TestPod, World},
};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;

/// CRC32c (RFC 3720 section 12.1).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    })
}

/// A packet of one chunk (RFC 9260 section 3), from port to port.
fn packet(from: u16, to: u16, chunk: u8, payload: &[u8]) -> Vec<u8> {
    let length = (4 + payload.len()) as u16;
    let mut bytes = [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 0, 0, 0], &[0; 4]].concat();
    bytes.extend([&[chunk, 0][..], &length.to_be_bytes(), payload].concat());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// What was received: ports, chunk and payload.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    from: (IpAddr, u16),
    to: u16,
    chunk: u8,
    payload: Vec<u8>,
}

/// A socket for whole packets of the protocol; `std` has none, but its datagram sockets do the same with them.
fn raw(v4: bool) -> io::Result<UdpSocket> {
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = UdpSocket::from(socket(family, SocketType::RAW, Some(ipproto::SCTP))?);
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> io::Result<Received> {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer)?;
    // IPv4 comes with its header, IPv6 without.
    let header = if from.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
    let bytes = &mut buffer[header..length];
    let sum = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
    bytes[8..12].fill(0);
    assert_eq!(sum, crc32c(bytes), "the checksum of a packet from {from}");
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let end = 12 + usize::from(word(14));
    Ok(Received {
        from: (from.ip(), word(0)),
        to: word(2),
        chunk: bytes[12],
        payload: bytes[16..end].to_vec(),
    })
}

/// Answers every INIT in a namespace with its own name and the client's address, until it is dropped.
struct Answerer {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Answerer {
    fn new(pod: &TestPod, port: u16) -> Answerer {
        let stop = Arc::new(AtomicBool::new(false));
        let serve = |v4: bool| {
            let socket = pod.space.run(|| raw(v4)).expect("a raw socket");
            let (stop, name) = (stop.clone(), pod.key.name.to_string());
            pod.space.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(seen) = receive(&socket) else { continue };
                    assert_eq!((seen.to, seen.chunk), (port, INIT), "{name} got {seen:?}");
                    let said = format!("{name} {}", seen.from.0);
                    let answer = packet(port, seen.from.1, INIT_ACK, said.as_bytes());
                    socket.send_to(&answer, (seen.from.0, 0)).expect("an answer");
                }
            })
        };
        let threads = [true, false].map(serve).into();
        Answerer { stop, threads }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let failed = thread.join().is_err();
            assert!(!failed || std::thread::panicking(), "a server failed");
        }
    }
}

/// Sends an INIT and gives who answered, and what address it saw.
#[track_caller]
fn ask(space: &Space, port: u16, to: (IpAddr, u16)) -> (String, IpAddr) {
    let seen = space.run(|| -> io::Result<Received> {
        let socket = raw(to.0.is_ipv4())?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send_to(&packet(port, to.1, INIT, b"hello"), (to.0, 0))?;
        receive(&socket)
    });
    let seen = seen.unwrap_or_else(|error| panic!("SCTP to {to:?}: {error}"));
    assert_eq!((seen.from, seen.to, seen.chunk), (to, port, INIT_ACK), "the answer comes from who was asked");
    let said = String::from_utf8(seen.payload).expect("a text");
    let (name, client) = said.split_once(' ').expect("a name and an address");
    (name.to_owned(), client.parse().expect("an address"))
}

#[test]
fn sctp_reaches_pods_services_and_node_ports() {
    let mut world = World::dual();
    let client = world.pod(0, "one", "client", &[]);
    let pods = [world.pod(0, "one", "on-a", &[]), world.pod(1, "one", "on-b", &[])];
    let _servers = [0, 1].map(|index| Answerer::new(&pods[index], 8080));
    world.service("sctp", "10.96.0.95,fd00:96::95", Protocol::Sctp, 30095, 8080, &[&pods[0], &pods[1]]);
    let own = [client.address, client.v6.expect("an IPv6 address")];
    for (family, cluster_ip) in [address("10.96.0.95"), address("fd00:96::95")].into_iter().enumerate() {
        for pod in &pods {
            let to = [pod.address, pod.v6.expect("an IPv6 address")][family];
            assert_eq!(ask(&client.space, 40000, (to, 8080)), (pod.key.name.to_string(), own[family]));
        }
        let node = |index: usize| [world.nodes[index].address, world.nodes[index].v6][family];
        let places = [
            (&client.space, (cluster_ip, 80)),
            (&world.outside, (node(0), 30095)),
            (&world.outside, (node(1), 30095)),
        ];
        for (space, to) in places {
            let mut seen: Vec<String> = (41000..41024).map(|port| ask(space, port, to).0).collect();
            seen.sort();
            seen.dedup();
            assert_eq!(seen, ["on-a", "on-b"], "at {to:?}");
        }
    }
}
