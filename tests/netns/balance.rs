//! Which backend gets a connection, and which way its answers go.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, TcpStream},
};

use fairlead_dataplane::model::{Algorithm, Change, Key, Protocol, Service, ServicePort};

use crate::{
    address, at,
    echo::Server,
    space::{OUTSIDE, OUTSIDE_V6},
    talk::{connect, connect_from, datagram, datagram_from, exchange},
    world::{TestPod, World},
};

/// A Service of its own shape over pods, asked at node port `30000 + last` and ClusterIPs that end with `last`.
fn spread(
    world: &mut World,
    name: &str,
    protocol: Protocol,
    last: u16,
    pods: &[&TestPod],
    shape: impl FnOnce(&mut Service),
) {
    let cluster_ips = format!("10.96.0.{last},fd00:96::{last}");
    let node_port = 30000 + last;
    world.service(name, &cluster_ips, protocol, node_port, 8080, pods);
    let mut service = Service {
        cluster_ips: cluster_ips.split(',').map(|text| text.parse().expect("an address")).collect(),
        ports: vec![ServicePort { name: String::new(), protocol, port: 80, node_port }],
        ..Service::new(Key::new("one", name))
    };
    shape(&mut service);
    world.send(Change::Service(service));
    world.settle();
}

#[test]
fn with_direct_return_the_backend_sees_the_client_and_answers_it_without_a_detour() {
    let mut world = World::dual();
    let pods = [world.pod(0, "one", "on-a", &[]), world.pod(1, "one", "on-b", &[])];
    let _servers = [0, 1].map(|index| Server::new(&pods[index].space, &pods[index].key.name, 8080));
    for (name, protocol, last) in [("tcp", Protocol::Tcp, 90), ("udp", Protocol::Udp, 91)] {
        spread(&mut world, name, protocol, last, &[&pods[0], &pods[1]], |service| {
            service.direct_return = true
        });
    }
    for node in 0..2 {
        for (address, client) in [(world.nodes[node].address, OUTSIDE), (world.nodes[node].v6, OUTSIDE_V6)] {
            let mut seen = BTreeSet::new();
            for round in 0..24 {
                let (stream, answer) = connect(&world.outside, at(address, 30090));
                exchange(&stream, 1 << 16);
                assert_eq!(answer.client, client, "round {round} at {address}: {answer:?}");
                seen.insert(answer.server);
                let answer = datagram(&world.outside, at(address, 30091), true).expect("an answer");
                assert_eq!(answer.client, client, "round {round} at {address}: {answer:?}");
                seen.insert(answer.server);
            }
            assert_eq!(seen, ["on-a", "on-b"].map(str::to_owned).into(), "at {address}");
        }
    }
    // Answers that go straight to the client pass no other node: what both nodes get from the client is then more than
    // what the one that is asked gets from the other.
    let asked = at(world.nodes[0].address, 30090);
    let far = (0..64)
        .map(|_| connect(&world.outside, asked))
        .find(|(_, answer)| answer.server == "on-b")
        .expect("a connection to the other node");
    let overlay = |node: usize| world.received(node, "fairlead-vxlan");
    let before = overlay(0);
    exchange(&far.0, 8 << 20);
    let back = overlay(0) - before;
    assert!(back < 1 << 20, "8 MiB of answers came back over the node that was asked: {back} bytes");
}

/// Who answers a connection from this port of the host outside.
fn asked_from(world: &World, port: u16, to: SocketAddr) -> String {
    let (stream, answer) = connect_from(&world.outside, port, to);
    reset(&stream);
    answer.server
}

/// Has the kernel forget the connection at once, so that its port can be used again.
fn reset(stream: &TcpStream) {
    let linger = Some(std::time::Duration::ZERO);
    rustix::net::sockopt::set_socket_linger(stream, linger).expect("an option");
}

#[test]
fn a_client_gets_the_same_backend_whichever_node_it_asks() {
    let mut world = World::dual();
    let pods: Vec<TestPod> =
        (0..5).map(|number| world.pod(number % 2, "one", &format!("web-{number}"), &[])).collect();
    let _servers: Vec<Server> = pods.iter().map(|pod| Server::new(&pod.space, &pod.key.name, 8080)).collect();
    let all: Vec<&TestPod> = pods.iter().collect();
    spread(&mut world, "tcp", Protocol::Tcp, 92, &all, |_| {});
    spread(&mut world, "udp", Protocol::Udp, 93, &all, |_| {});
    // Only what is the same whichever node is asked can decide: the virtual address, not the node's own.
    let virtual_addresses: [IpAddr; 2] = [address("198.51.100.1"), address("2001:db8:1::1")];
    for (name, protocol, last) in [("tcp", Protocol::Tcp, 92), ("udp", Protocol::Udp, 93)] {
        spread(&mut world, name, protocol, last, &all, |service| {
            service.balancer_ips = virtual_addresses.to_vec();
        });
    }
    for virtual_address in virtual_addresses {
        let to = at(virtual_address, 80);
        let mut chosen: [BTreeMap<u16, [String; 2]>; 2] = Default::default();
        for (index, chosen) in chosen.iter_mut().enumerate() {
            let node = &world.nodes[index];
            let gateway = if virtual_address.is_ipv4() { node.address } else { node.v6 };
            world.outside.route(virtual_address.into(), gateway);
            for port in 40000..40048 {
                let tcp = asked_from(&world, port, to);
                let udp = datagram_from(&world.outside, port, to).expect("an answer").server;
                chosen.insert(port, [tcp, udp]);
            }
        }
        assert_eq!(chosen[0], chosen[1], "{virtual_address}: by the first node, and by the second");
        let backends: BTreeSet<&String> = chosen[0].values().map(|[tcp, _]| tcp).collect();
        assert_eq!(backends.len(), 5, "{virtual_address}: every backend has its share");
    }
}

#[test]
fn least_connections_go_to_the_backend_that_holds_fewer() {
    let mut world = World::dual();
    let client = world.pod(0, "one", "client", &[]);
    let pods = [world.pod(0, "one", "busy", &[]), world.pod(1, "one", "idle", &[])];
    let _servers = [0, 1].map(|index| Server::new(&pods[index].space, &pods[index].key.name, 8080));
    let shape = |service: &mut Service| service.algorithm = Some(Algorithm::LeastConnections);
    spread(&mut world, "web", Protocol::Tcp, 94, &[&pods[0]], shape);
    let to = at(address("10.96.0.94"), 80);
    let held: Vec<_> = (0..80).map(|_| connect(&client.space, to)).collect();
    assert!(held.iter().all(|(_, answer)| answer.server == "busy"));
    spread(&mut world, "web", Protocol::Tcp, 94, &[&pods[0], &pods[1]], |service| {
        service.algorithm = Some(Algorithm::LeastConnections);
    });
    let more: Vec<_> = (0..80).map(|_| connect(&client.space, to)).collect();
    let idle = more.iter().filter(|(_, answer)| answer.server == "idle").count();
    // Of two drawn at random the one with fewer: three in four, with a standard deviation of 4 of 80.
    assert!(idle >= 48, "{idle} of 80 went to the one that held none while the other held 80");
}
