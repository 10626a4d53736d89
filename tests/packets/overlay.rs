//! The overlay, with tunnel metadata: who is believed, and where packets go.

use crate::harness::{NETS, NEXT, Net, REDIRECT, V4, V6, config, endpoint, own_address};
use crate::host::{Sent, World};
use crate::packet::*;
use fairlead_abi::*;
use fairlead_programs::{overlay, pod, uplink};
use std::net::IpAddr;

/// A family of pods over a family of nodes. A node has one address by which it sends and is reached, and may have
/// another, which has a route of its own then.
struct Case {
    net: Net,
    other_node: IpAddr,
    stranger: IpAddr,
    world: World,
}

fn cases() -> Vec<Case> {
    let pairs = NETS.into_iter().flat_map(|net| NETS.into_iter().map(move |under| (net, under)));
    pairs
        .map(|(net, under)| Case {
            net,
            other_node: under.other_node,
            stranger: under.router,
            world: world(&under),
        })
        .collect()
}

fn world(under: &Net) -> World {
    let mut world = World::new(config());
    let home = Route { node: under.other_node.into(), flags: 0 };
    for net in NETS {
        world.endpoints.insert(net.a.ip.into(), Endpoint { ifindex: 1, ..endpoint(&net.a) });
        world.endpoints.insert(net.b.ip.into(), Endpoint { ifindex: 77, ..endpoint(&net.b) });
        world.nodes.insert(net.node.into(), own_address());
        world.nodes.insert(net.gateway.into(), own_address());
        world.nodes.insert(net.other_node.into(), Node { flags: 0 });
        let len = if net.bits == 32 { 24 } else { 64 };
        world.routes.push((Prefix::new(net.remote, len), home));
        if net.bits != under.bits {
            world.routes.push((Prefix::new(net.other_node, net.bits as u8), home));
        }
    }
    world
}

fn from(node: IpAddr) -> Option<(u32, Addr)> {
    Some((1, node.into()))
}

#[test]
fn another_nodes_pod_reaches_ours() {
    for Case { net, other_node, world, .. } in cases() {
        world.tunnel.set(from(other_node));
        let packet = tcp((net.remote, 40000), (net.b.ip, 80), SYN);
        let (outcome, bytes) = world.run(overlay::from_overlay, &packet.frame());
        assert_eq!(outcome, Ok(REDIRECT));
        assert_eq!(bytes, packet.to_pod(&net.b));
        assert_eq!(world.sent.get(), Sent::Peer(77));
        assert!(world.accepted.get(), "whatever its inner destination MAC was");
    }
}

#[test]
fn only_nodes_are_believed_and_each_for_its_own_pods() {
    for Case { net, other_node, stranger, world } in cases() {
        let good = (net.remote, 40000);
        type Case = (&'static str, Option<(u32, Addr)>, End);
        let cases: [Case; 7] = [
            ("no tunnel", None, good),
            ("another network number", Some((2, other_node.into())), good),
            ("no node", from(stranger), good),
            ("this node itself", from(if other_node.is_ipv4() { V4.node } else { V6.node }), good),
            ("an address of this node's pods", from(other_node), (net.a.ip, 40000)),
            ("an address of a third node's pods", from(other_node), (net.nowhere, 1)),
            ("an address outside", from(other_node), (net.outside, 1)),
        ];
        for (name, tunnel, src) in cases {
            world.tunnel.set(tunnel);
            let (outcome, _) = world.run(overlay::from_overlay, &tcp(src, (net.b.ip, 80), SYN).frame());
            assert_eq!(outcome, Err(Reason::ForgedOverlay), "{name}");
        }
        world.tunnel.set(from(other_node));
        let (outcome, _) =
            world.run(overlay::from_overlay, &tcp((net.other_node, 1), (net.b.ip, 80), SYN).frame());
        assert_eq!(outcome, Ok(REDIRECT), "the other node itself");
    }
}

#[test]
fn the_overlay_leads_to_pods_and_the_node_only() {
    for Case { net, other_node, world, .. } in cases() {
        world.tunnel.set(from(other_node));
        for dst in [net.nobody, net.outside, net.nowhere, net.cluster_ip] {
            let (outcome, _) =
                world.run(overlay::from_overlay, &tcp((net.remote, 1), (dst, 80), SYN).frame());
            assert_eq!(outcome, Err(Reason::UnknownEndpoint), "{dst}");
        }
        let frame = tcp((net.remote, 80), (net.gateway, 50000), SYN | ACK).frame();
        assert_eq!(world.run(overlay::from_overlay, &frame), (Ok(NEXT), frame));
    }
}

#[test]
fn ingress_policy_is_judged_before_the_pods_hook_is_skipped() {
    for Case { net, other_node, mut world, .. } in cases() {
        world.endpoints.insert(net.b.ip.into(), Endpoint { ingress_ruleset: 5, ..endpoint(&net.b) });
        world.tunnel.set(from(other_node));
        let frame = tcp((net.remote, 1), (net.b.ip, 80), SYN).frame();
        assert_eq!(world.run(overlay::from_overlay, &frame).0, Err(Reason::PolicyIngress));
        world.endpoints.insert(net.b.ip.into(), Endpoint { flags: Endpoint::CLOSED, ..endpoint(&net.b) });
        assert_eq!(world.run(overlay::from_overlay, &frame).0, Err(Reason::EndpointClosed));
    }
}

#[test]
fn a_remote_backend_answers_as_the_service() {
    for Case { net, other_node, mut world, .. } in cases() {
        serve(&mut world, net.cluster_ip.into(), 80, (net.remote, 8080));
        let (client, asked) = ((net.a.ip, 40000), (net.cluster_ip, 80));
        let (outcome, bytes) = world.run(pod::from_pod, &tcp(client, asked, SYN).frame());
        assert_eq!((outcome, &bytes), (Ok(REDIRECT), &tcp(client, (net.remote, 8080), SYN).frame()));
        assert_sums(&bytes);
        world.tunnel.set(from(other_node));
        let (outcome, bytes) =
            world.run(overlay::from_overlay, &tcp((net.remote, 8080), client, SYN | ACK).frame());
        assert_eq!((outcome, &bytes), (Ok(REDIRECT), &tcp(asked, client, SYN | ACK).to_pod(&net.a)));
        assert_sums(&bytes);
    }
}

#[test]
fn a_remote_backend_of_a_node_port_answers_the_client_through_this_node() {
    for Case { net, other_node, mut world, .. } in cases() {
        serve(&mut world, Addr::UNSPECIFIED, 30080, (net.remote, 8080));
        let (client, asked) = ((net.outside, 50000), (net.node, 30080));
        let (outcome, bytes) = world.run(uplink::from_uplink, &tcp(client, asked, SYN).frame());
        let (src, dst) = ends(&bytes);
        assert_eq!(
            (outcome, src.0, dst, world.sent.get()),
            (Ok(REDIRECT), net.gateway, (net.remote, 8080), Sent::Out(2))
        );
        assert_sums(&bytes);
        world.tunnel.set(from(other_node));
        let (outcome, answer) = world.run(overlay::from_overlay, &tcp(dst, src, SYN | ACK).frame());
        assert_eq!((outcome, world.sent.get()), (Ok(REDIRECT), Sent::Neighbour(1)));
        assert_eq!(answer, tcp(asked, client, SYN | ACK).hop().frame());
        // And an error about what was sent there.
        let refusal = error(net.remote, net.gateway, 3, 3, &bytes).frame();
        let (outcome, refusal) = world.run(overlay::from_overlay, &refusal);
        assert_eq!((outcome, world.sent.get()), (Ok(REDIRECT), Sent::Neighbour(1)));
        assert_sums(&refusal);
        let outer = headers(&refusal);
        assert_eq!((outer.src, outer.dst), (net.node, net.outside));
        let quoted = outer.body.len() - 8 - 4;
        assert_eq!(outer.body[8..8 + quoted], tcp(client, asked, SYN).hop().frame()[14..14 + quoted]);
    }
}

#[test]
fn another_node_that_asks_with_its_own_address_is_answered_by_the_overlay() {
    for Case { net, other_node, world, .. } in cases() {
        world.tunnel.set(from(other_node));
        let (client, server) = ((net.other_node, 50000), (net.a.ip, 80));
        assert_eq!(world.run(overlay::from_overlay, &tcp(client, server, SYN).frame()).0, Ok(REDIRECT));
        let answer = tcp(server, client, SYN | ACK).frame();
        assert_eq!(world.run(pod::from_pod, &answer), (Ok(REDIRECT), answer.clone()));
        assert_eq!(world.sent.get(), Sent::Out(2));
        world.tunnel.set(None);
        assert_eq!(world.run(overlay::to_overlay, &answer).0, Ok(NEXT));
        assert_eq!(world.tunnel.get(), from(other_node));
        // What a pod sends there by itself leaves by the uplink.
        let own = tcp((net.a.ip, 5000), (net.other_node, 443), SYN).frame();
        assert_eq!(world.run(pod::from_pod, &own), (Ok(NEXT), own));
    }
}

#[test]
fn what_leaves_is_addressed_to_the_pods_node() {
    for Case { net, other_node, world, .. } in cases() {
        let frame = tcp((net.a.ip, 1), (net.remote, 80), SYN).frame();
        assert_eq!(world.run(overlay::to_overlay, &frame), (Ok(NEXT), frame));
        assert_eq!(world.tunnel.get(), from(other_node));
        world.tunnel.set(None);
        let nowhere = tcp((net.a.ip, 1), (net.nowhere, 80), SYN).frame();
        assert_eq!(world.run(overlay::to_overlay, &nowhere).0, Err(Reason::NoRoute));
    }
}

#[test]
fn a_packet_cut_at_any_length_is_dropped() {
    for Case { net, other_node, world, .. } in cases() {
        world.tunnel.set(from(other_node));
        let frame = tcp((net.remote, 40000), (net.b.ip, 80), SYN).frame();
        for len in 14..frame.len() {
            let (outcome, bytes) = world.run(overlay::from_overlay, &frame[..len]);
            assert_eq!((outcome, bytes.len()), (Err(Reason::Malformed), len));
            let (outcome, _) = world.run(pod::to_pod, &frame[..len]);
            assert_eq!(outcome, Err(Reason::Malformed));
        }
    }
}

fn serve(world: &mut World, addr: Addr, port: u16, backend: End) {
    let key = ServiceKey { addr, port: Be16::new(port), proto: TCP, scope: 0 };
    world.services.insert(key, Service { id: 3, backends: 1, ..Service::default() });
    let value = Backend { addr: backend.0.into(), port: Be16::new(backend.1), flags: 0 };
    world.backends.insert(BackendKey { service: 3, slot: 0 }, value);
}
