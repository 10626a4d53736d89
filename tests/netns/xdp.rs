//! The uplink's driver forwards what only passes through a node.

use std::net::{IpAddr, SocketAddr};

use fairlead_abi::{ABI_VERSION, Counter};
use fairlead_dataplane::{
    Xdp,
    maps::{Observed, carry},
    model::Protocol,
};

use crate::{
    at,
    echo::Server,
    talk::{connect, datagram, exchange},
    world::World,
};

/// Packets that the first node's driver has forwarded.
fn forwarded(world: &World) -> u64 {
    let maps = Observed::open(&carry::directory(&world.nodes[0].settings.pins, ABI_VERSION));
    let counters: Vec<Counter> = maps.expect("the maps").early.get(&0).expect("the counter");
    counters.iter().map(|one| one.packets).sum()
}

fn is_attached(world: &World) -> bool {
    world.nodes[0].settings.pins.join("links/from_wire").exists()
}

#[test]
fn a_node_ports_packets_to_another_node_do_not_reach_the_stack() {
    let mut world = World::dual();
    assert!(!is_attached(&world), "a veth is no hardware");
    let _port = world.make_port_a_wire(0);
    world.reconfigure(0, |settings| settings.xdp = Xdp::Force);
    assert!(is_attached(&world));
    let _server = Server::new(&world.nodes[1].space, "other", 8080);
    let backend = world.host(1);
    for (name, protocol, number) in [("tcp", Protocol::Tcp, 91), ("udp", Protocol::Udp, 92)] {
        let addresses = format!("10.96.0.{number},fd00:96::{number}");
        world.service(name, &addresses, protocol, 30091, 8080, &[&backend]);
    }
    let own: [IpAddr; 2] = [world.nodes[0].address, world.nodes[0].v6];
    let asked: [SocketAddr; 2] = own.map(|address| at(address, 30091));
    let mut streams = Vec::new();
    for (to, own) in asked.into_iter().zip(own) {
        let before = forwarded(&world);
        let (stream, seen) = connect(&world.outside, to);
        assert_eq!((seen.server.as_str(), seen.client), ("other", own));
        exchange(&stream, 4 << 20);
        let packets = forwarded(&world) - before;
        assert!(packets > 1000, "{to}: {packets} packets forwarded");
        for connected in [true, false] {
            assert_eq!(datagram(&world.outside, to, connected).expect("an answer").server, "other");
        }
        streams.push(stream);
    }
    // The program stays without an agent, and goes when it is not wanted any more; streams go on.
    world.kill(0);
    let before = forwarded(&world);
    streams.iter().for_each(|stream| exchange(stream, 1 << 20));
    assert!(forwarded(&world) > before);
    world.start(0);
    for (mode, attached) in [(Xdp::Off, false), (Xdp::Force, true), (Xdp::Auto, false)] {
        world.reconfigure(0, |settings| settings.xdp = mode);
        assert_eq!(is_attached(&world), attached, "{mode:?}");
        let before = forwarded(&world);
        streams.iter().for_each(|stream| exchange(stream, 1 << 20));
        assert_eq!(forwarded(&world) > before, attached, "{mode:?}");
    }
}

#[test]
fn with_a_program_in_its_driver_everything_else_works_as_before() {
    let mut world = World::new();
    let _port = world.make_port_a_wire(0);
    world.reconfigure(0, |settings| settings.xdp = Xdp::Force);
    let pods = [world.pod(0, "one", "near", &[]), world.pod(1, "one", "far", &[])];
    let _servers = [0, 1].map(|index| Server::new(&pods[index].space, &pods[index].key.name, 8080));
    for (number, pod) in pods.iter().enumerate() {
        let port = 30093 + number as u16;
        world.service(&pod.key.name, &format!("10.96.0.{}", 93 + number), Protocol::Tcp, port, 8080, &[pod]);
        let (stream, seen) = connect(&world.outside, at(world.nodes[0].address, port));
        assert_eq!(seen.server, &*pod.key.name);
        exchange(&stream, 4 << 20);
    }
    let (stream, _) = connect(&pods[0].space, at(pods[1].address, 8080));
    exchange(&stream, 4 << 20);
    assert_eq!(forwarded(&world), 0, "what goes by the overlay or ends here is tc's");
}
