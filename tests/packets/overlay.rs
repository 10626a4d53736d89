//! The overlay, with tunnel metadata: who is believed, and where packets go.

use crate::harness::{
    A, B, CLUSTER_IP, GATEWAY, NEXT, NODE, OTHER_NODE, OUTSIDE, REDIRECT, REMOTE, config, endpoint,
};
use crate::host::{Sent, World};
use crate::packet::*;
use fairlead_abi::*;
use fairlead_programs::{overlay, pod, uplink};
use std::net::Ipv4Addr;

fn world() -> World {
    let mut world = World::new(config());
    world.endpoints.insert(A.ip.into(), Endpoint { ifindex: 1, ..endpoint(&A) });
    world.endpoints.insert(B.ip.into(), Endpoint { ifindex: 77, ..endpoint(&B) });
    world.nodes.insert(NODE.into(), Node { flags: Node::SELF });
    world.nodes.insert(GATEWAY.into(), Node { flags: Node::SELF });
    world.nodes.insert(OTHER_NODE.into(), Node { flags: 0 });
    let prefix = Prefix::new(Ipv4Addr::new(10, 244, 2, 0).into(), 24);
    world.routes.push((prefix, Route { node: OTHER_NODE.into(), flags: 0 }));
    world
}

fn from(node: Ipv4Addr) -> Option<(u32, Addr)> {
    Some((1, node.into()))
}

#[test]
fn another_nodes_pod_reaches_ours() {
    let world = world();
    world.tunnel.set(from(OTHER_NODE));
    let packet = tcp((REMOTE, 40000), (B.ip, 80), SYN);
    let (outcome, bytes) = world.run(overlay::from_overlay, &packet.frame());
    assert_eq!(outcome, Ok(REDIRECT));
    assert_eq!(bytes, packet.to_pod(&B));
    assert_eq!(world.sent.get(), Sent::Peer(77));
    assert!(world.accepted.get(), "whatever its inner destination MAC was");
}

#[test]
fn only_nodes_are_believed_and_each_for_its_own_pods() {
    let world = world();
    let stranger = Ipv4Addr::new(192, 168, 7, 66);
    let good = (REMOTE, 40000);
    type Case = (&'static str, Option<(u32, Addr)>, End);
    let cases: [Case; 7] = [
        ("no tunnel", None, good),
        ("another network number", Some((2, OTHER_NODE.into())), good),
        ("no node", from(stranger), good),
        ("this node itself", from(NODE), good),
        ("an address of this node's pods", from(OTHER_NODE), (A.ip, 40000)),
        ("an address of a third node's pods", from(OTHER_NODE), (Ipv4Addr::new(10, 244, 3, 3), 1)),
        ("an address outside", from(OTHER_NODE), (OUTSIDE, 1)),
    ];
    for (name, tunnel, src) in cases {
        world.tunnel.set(tunnel);
        let (outcome, _) = world.run(overlay::from_overlay, &tcp(src, (B.ip, 80), SYN).frame());
        assert_eq!(outcome, Err(Reason::ForgedOverlay), "{name}");
    }
    world.tunnel.set(from(OTHER_NODE));
    let (outcome, _) = world.run(overlay::from_overlay, &tcp((OTHER_NODE, 1), (B.ip, 80), SYN).frame());
    assert_eq!(outcome, Ok(REDIRECT), "the other node itself");
}

#[test]
fn the_overlay_leads_to_pods_and_the_node_only() {
    let world = world();
    world.tunnel.set(from(OTHER_NODE));
    for dst in [Ipv4Addr::new(10, 244, 1, 99), OUTSIDE, Ipv4Addr::new(10, 244, 3, 3), CLUSTER_IP] {
        let (outcome, _) = world.run(overlay::from_overlay, &tcp((REMOTE, 1), (dst, 80), SYN).frame());
        assert_eq!(outcome, Err(Reason::UnknownEndpoint), "{dst}");
    }
    let frame = tcp((REMOTE, 80), (GATEWAY, 50000), SYN | ACK).frame();
    assert_eq!(world.run(overlay::from_overlay, &frame), (Ok(NEXT), frame));
}

#[test]
fn ingress_policy_is_judged_before_the_pods_hook_is_skipped() {
    let mut world = world();
    world.endpoints.insert(B.ip.into(), Endpoint { ingress_ruleset: 5, ..endpoint(&B) });
    world.tunnel.set(from(OTHER_NODE));
    let frame = tcp((REMOTE, 1), (B.ip, 80), SYN).frame();
    assert_eq!(world.run(overlay::from_overlay, &frame).0, Err(Reason::PolicyIngress));
    world.endpoints.insert(B.ip.into(), Endpoint { flags: Endpoint::CLOSED, ..endpoint(&B) });
    assert_eq!(world.run(overlay::from_overlay, &frame).0, Err(Reason::EndpointClosed));
}

#[test]
fn a_remote_backend_answers_as_the_service() {
    let mut world = world();
    serve(&mut world, CLUSTER_IP.into(), 80, (REMOTE, 8080));
    let (client, asked) = ((A.ip, 40000), (CLUSTER_IP, 80));
    let (outcome, bytes) = world.run(pod::from_pod, &tcp(client, asked, SYN).frame());
    assert_eq!((outcome, &bytes), (Ok(REDIRECT), &tcp(client, (REMOTE, 8080), SYN).frame()));
    assert_sums(&bytes);
    world.tunnel.set(from(OTHER_NODE));
    let (outcome, bytes) = world.run(overlay::from_overlay, &tcp((REMOTE, 8080), client, SYN | ACK).frame());
    assert_eq!((outcome, &bytes), (Ok(REDIRECT), &tcp(asked, client, SYN | ACK).to_pod(&A)));
    assert_sums(&bytes);
}

#[test]
fn a_remote_backend_of_a_node_port_answers_the_client_through_this_node() {
    let mut world = world();
    serve(&mut world, Addr::UNSPECIFIED, 30080, (REMOTE, 8080));
    let (client, asked) = ((OUTSIDE, 50000), (NODE, 30080));
    let (outcome, bytes) = world.run(uplink::from_uplink, &tcp(client, asked, SYN).frame());
    let (src, dst) = ends(&bytes);
    assert_eq!(
        (outcome, src.0, dst, world.sent.get()),
        (Ok(REDIRECT), GATEWAY, (REMOTE, 8080), Sent::Out(2))
    );
    assert_sums(&bytes);
    world.tunnel.set(from(OTHER_NODE));
    let (outcome, answer) = world.run(overlay::from_overlay, &tcp(dst, src, SYN | ACK).frame());
    assert_eq!((outcome, world.sent.get()), (Ok(REDIRECT), Sent::Neighbour(1)));
    assert_eq!(answer, tcp(asked, client, SYN | ACK).frame());
    // And an error about what was sent there.
    let refusal = error(REMOTE, GATEWAY, 3, 3, &bytes).frame();
    let (outcome, refusal) = world.run(overlay::from_overlay, &refusal);
    assert_eq!((outcome, world.sent.get()), (Ok(REDIRECT), Sent::Neighbour(1)));
    assert_sums(&refusal);
    assert_eq!(refusal[26..34], [NODE.octets(), OUTSIDE.octets()].concat());
    assert_eq!(refusal[42..66], tcp(client, asked, SYN).frame()[14..38]);
}

#[test]
fn another_node_that_asks_with_its_own_address_is_answered_by_the_overlay() {
    let world = world();
    world.tunnel.set(from(OTHER_NODE));
    let (client, server) = ((OTHER_NODE, 50000), (A.ip, 80));
    assert_eq!(world.run(overlay::from_overlay, &tcp(client, server, SYN).frame()).0, Ok(REDIRECT));
    let answer = tcp(server, client, SYN | ACK).frame();
    assert_eq!(world.run(pod::from_pod, &answer), (Ok(REDIRECT), answer.clone()));
    assert_eq!(world.sent.get(), Sent::Out(2));
    world.tunnel.set(None);
    assert_eq!(world.run(overlay::to_overlay, &answer).0, Ok(NEXT));
    assert_eq!(world.tunnel.get(), from(OTHER_NODE));
    // What a pod sends there by itself leaves by the uplink.
    let own = tcp((A.ip, 5000), (OTHER_NODE, 443), SYN).frame();
    assert_eq!(world.run(pod::from_pod, &own), (Ok(NEXT), own));
}

#[test]
fn what_leaves_is_addressed_to_the_pods_node() {
    let world = world();
    let frame = tcp((A.ip, 1), (REMOTE, 80), SYN).frame();
    assert_eq!(world.run(overlay::to_overlay, &frame), (Ok(NEXT), frame));
    assert_eq!(world.tunnel.get(), from(OTHER_NODE));
    let nowhere = tcp((A.ip, 1), (Ipv4Addr::new(10, 244, 3, 3), 80), SYN).frame();
    assert_eq!(world.run(overlay::to_overlay, &nowhere).0, Err(Reason::NoRoute));
}

#[test]
fn a_packet_cut_at_any_length_is_dropped() {
    let world = world();
    world.tunnel.set(from(OTHER_NODE));
    let frame = tcp((REMOTE, 40000), (B.ip, 80), SYN).frame();
    for len in 14..frame.len() {
        let (outcome, bytes) = world.run(overlay::from_overlay, &frame[..len]);
        assert_eq!((outcome, bytes.len()), (Err(Reason::Malformed), len));
        let (outcome, _) = world.run(pod::to_pod, &frame[..len]);
        assert_eq!(outcome, Err(Reason::Malformed));
    }
}

fn serve(world: &mut World, addr: Addr, port: u16, backend: End) {
    let key = ServiceKey { addr, port: Be16::new(port), proto: TCP, _pad: 0 };
    world.services.insert(key, Service { id: 3, backends: 1, ..Service::default() });
    let value = Backend { addr: backend.0.into(), port: Be16::new(backend.1), flags: 0 };
    world.backends.insert(BackendKey { service: 3, slot: 0 }, value);
}
