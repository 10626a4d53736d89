//! The socket hooks' decisions. That the kernel runs them is shown with real sockets in `netns`.

use crate::harness::{CLUSTER_IP, NODE, OUTSIDE, config, own_address};
use crate::host::World;
use crate::packet::{TCP, UDP};
use fairlead_abi::*;
use fairlead_programs::socket::{self, Sock};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;

struct Socket {
    cookie: u64,
    netns: u64,
    proto: u8,
    peer: Cell<(Addr, Be16)>,
    refused: Cell<bool>,
}

impl Sock for Socket {
    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn netns(&self) -> u64 {
        self.netns
    }

    fn proto(&self) -> u8 {
        self.proto
    }

    fn peer(&self) -> (Addr, Be16) {
        self.peer.get()
    }

    fn set_peer(&self, addr: &Addr, port: Be16) {
        self.peer.set((*addr, port));
    }

    fn refuse(&self) {
        self.refused.set(true);
    }
}

const POD: u64 = 5000;
const HOST: u64 = 5001;

fn world(backends: u8) -> World {
    let mut world = World::new(config());
    world.netns.insert(POD, NetnsEntry { role: NetnsEntry::POD, endpoint: 1 });
    world.netns.insert(HOST, NetnsEntry { role: NetnsEntry::NODE, endpoint: 0 });
    world.nodes.insert(NODE.into(), own_address());
    for proto in [TCP, UDP] {
        for (addr, port) in [(Addr::from(CLUSTER_IP), 80), (Addr::UNSPECIFIED, 30080)] {
            let key = ServiceKey { addr, port: Be16::new(port), proto, scope: 0 };
            world.services.insert(key, Service { id: 3, backends: backends.into(), ..Service::default() });
        }
    }
    for slot in 0..backends {
        world.backends.insert(BackendKey { service: 3, slot: slot.into() }, backend(slot));
    }
    world
}

fn backend(number: u8) -> Backend {
    Backend { addr: Addr::v4([10, 244, 2, 10 + number]), port: Be16::new(8080), flags: 0 }
}

fn socket(cookie: u64, netns: u64, proto: u8, to: (IpAddr, u16)) -> Socket {
    let peer = (to.0.into(), Be16::new(to.1));
    Socket { cookie, netns, proto, peer: Cell::new(peer), refused: Cell::new(false) }
}

#[test]
fn what_is_for_inside_alone_serves_pods_and_the_node() {
    for netns in [POD, HOST] {
        let mut world = world(1);
        let key = ServiceKey {
            addr: Addr::UNSPECIFIED,
            port: Be16::new(30080),
            proto: TCP,
            scope: ServiceKey::INSIDE,
        };
        if let Some(service) = world.services.get_mut(&ServiceKey { scope: 0, ..key }) {
            service.flags = Service::LOCAL | Service::INSIDE;
        }
        world.services.insert(key, Service { id: 4, backends: 1, ..Service::default() });
        world.backends.insert(BackendKey { service: 4, slot: 0 }, backend(7));
        let sock = socket(1, netns, TCP, (NODE, 30080));
        assert!(socket::connect(&world, &sock));
        assert_eq!(sock.peer().0, backend(7).addr);
    }
}

#[test]
fn pods_and_the_node_connect_to_backends_in_turn_and_see_the_service() {
    let world = world(4);
    let mut seen: BTreeMap<[u8; 16], u32> = BTreeMap::new();
    for cookie in 0..1000 {
        let netns = if cookie % 2 == 0 { POD } else { HOST };
        let sock = socket(cookie, netns, TCP, (CLUSTER_IP, 80));
        assert!(socket::connect(&world, &sock));
        *seen.entry(sock.peer().0.octets()).or_default() += 1;
        socket::restore(&world, &sock);
        assert_eq!(sock.peer(), (CLUSTER_IP.into(), Be16::new(80)));
    }
    assert_eq!(seen.values().copied().collect::<Vec<_>>(), [250; 4]);
}

#[test]
fn node_ports_of_the_own_node_are_services_too() {
    let world = world(1);
    let sock = socket(1, POD, TCP, (NODE, 30080));
    assert!(socket::connect(&world, &sock));
    assert_eq!(sock.peer(), (backend(0).addr, backend(0).port));
}

#[test]
fn everything_else_is_left_alone() {
    let world = world(1);
    for (netns, proto, to) in [
        (9999, TCP, (CLUSTER_IP, 80)),
        (POD, TCP, (CLUSTER_IP, 81)),
        (POD, TCP, (OUTSIDE, 30080)),
        (POD, 132, (CLUSTER_IP, 80)),
        (POD, 1, (CLUSTER_IP, 0)),
    ] {
        let sock = socket(1, netns, proto, to);
        assert!(socket::connect(&world, &sock) && socket::sendmsg(&world, &sock));
        assert_eq!(sock.peer(), (to.0.into(), Be16::new(to.1)));
        socket::restore(&world, &sock);
        assert_eq!(sock.peer(), (to.0.into(), Be16::new(to.1)));
    }
}

#[test]
fn a_service_without_backends_refuses() {
    let world = world(0);
    for proto in [TCP, UDP] {
        let sock = socket(1, POD, proto, (CLUSTER_IP, 80));
        assert!(!socket::connect(&world, &sock));
        assert!(sock.refused.get());
    }
    let sock = socket(1, POD, UDP, (CLUSTER_IP, 80));
    assert!(!socket::sendmsg(&world, &sock) && sock.refused.get());
}

#[test]
fn a_sockets_datagrams_stay_with_one_backend_until_it_leaves() {
    let mut world = world(3);
    let send = |world: &World, cookie| {
        let sock = socket(cookie, POD, UDP, (CLUSTER_IP, 80));
        assert!(socket::sendmsg(world, &sock));
        sock.peer().0
    };
    let first = send(&world, 1);
    assert_ne!(send(&world, 2), first, "another socket, another backend");
    assert!((0..5).all(|_| send(&world, 1) == first));
    // The last backend moves into the first slot, as when the first one leaves.
    world.backends.insert(BackendKey { service: 3, slot: 0 }, backend(2));
    for service in world.services.values_mut() {
        service.backends = 2;
    }
    let next = send(&world, 1);
    assert_ne!(next, first);
    assert!((0..5).all(|_| send(&world, 1) == next));
}

#[test]
fn answers_to_one_socket_are_not_changed_for_another() {
    let world = world(1);
    let asking = socket(1, POD, UDP, (CLUSTER_IP, 80));
    assert!(socket::sendmsg(&world, &asking));
    let stranger =
        Socket { cookie: 2, peer: Cell::new(asking.peer()), ..socket(2, POD, UDP, (CLUSTER_IP, 80)) };
    socket::restore(&world, &stranger);
    assert_eq!(stranger.peer().0, backend(0).addr);
}

#[test]
fn affinity_holds_per_network_namespace() {
    let mut world = world(4);
    for service in world.services.values_mut() {
        service.affinity_seconds = 60;
    }
    let connect = |world: &World, netns| {
        let sock = socket(1, netns, TCP, (CLUSTER_IP, 80));
        assert!(socket::connect(world, &sock));
        sock.peer().0
    };
    let (pod, host) = (connect(&world, POD), connect(&world, HOST));
    assert_ne!(pod, host);
    assert!((0..5).all(|_| connect(&world, POD) == pod && connect(&world, HOST) == host));
    world.now.set(world.now.get() + 61);
    assert_ne!(connect(&world, POD), pod, "the time is over");
}

#[test]
fn least_connections_are_counted_until_the_socket_is_closed() {
    let mut world = world(3);
    for service in world.services.values_mut() {
        service.algorithm = Service::LEAST;
    }
    let total = |world: &World| world.loads.borrow().values().sum::<u32>();
    let open: Vec<_> = (0..300)
        .map(|cookie| {
            let sock = socket(cookie, POD, TCP, (CLUSTER_IP, 80));
            assert!(socket::connect(&world, &sock));
            sock
        })
        .collect();
    assert_eq!(total(&world), 300);
    let loads: Vec<u32> = world.loads.borrow().values().copied().collect();
    assert!(loads.len() == 3 && loads.iter().all(|load| (80..=120).contains(load)), "{loads:?}");
    for sock in open {
        let (addr, port) = sock.peer();
        socket::release(&world, sock.cookie, TCP, &addr, port);
        socket::release(&world, sock.cookie, TCP, &addr, port);
    }
    assert_eq!(total(&world), 0);
    assert!(world.sockets.borrow().is_empty(), "nothing of a closed socket stays");
}

#[test]
fn a_pods_socket_leaves_source_ranges_to_its_packets() {
    let mut world = world(1);
    for service in world.services.values_mut() {
        service.flags = Service::RANGES;
    }
    let sock = socket(1, POD, TCP, (CLUSTER_IP, 80));
    assert!(socket::connect(&world, &sock));
    assert_eq!(sock.peer().0, CLUSTER_IP.into());
    let sock = socket(1, HOST, TCP, (CLUSTER_IP, 80));
    assert!(socket::connect(&world, &sock));
    assert_eq!(sock.peer().0, backend(0).addr, "the node itself may ask");
}

#[test]
fn real_ipv6_addresses_are_translated_as_well() {
    let mut world = world(0);
    let net = crate::harness::V6;
    let key = ServiceKey { addr: net.cluster_ip.into(), port: Be16::new(80), proto: TCP, scope: 0 };
    world.services.insert(key, Service { id: 9, backends: 1, ..Service::default() });
    let to = Backend { addr: net.remote.into(), port: Be16::new(8080), flags: 0 };
    world.backends.insert(BackendKey { service: 9, slot: 0 }, to);
    let sock = socket(1, POD, TCP, (net.cluster_ip, 80));
    assert!(socket::connect(&world, &sock));
    assert_eq!(sock.peer(), (net.remote.into(), Be16::new(8080)));
    socket::restore(&world, &sock);
    assert_eq!(sock.peer(), (net.cluster_ip.into(), Be16::new(80)));
}
