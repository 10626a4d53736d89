//! Direct server return: the node that is asked sends the packet on as it is, the backend's node translates it and
//! answers the client itself.

use crate::harness::{NETS, NEXT, Net, REDIRECT, config, endpoint, own_address};
use crate::host::{Sent, World};
use crate::packet::*;
use fairlead_abi::*;
use fairlead_programs::{overlay, pod, uplink};
use std::net::IpAddr;

const PORT: u16 = 30080;

/// A node with one pod, in a cluster of two nodes that have a pod each. Slot 0 is the pod of `nets[0]`.
fn node(net: &Net, mine: &[IpAddr], flags: u32) -> World {
    let mut world = World::new(config());
    let backends = [net.a.ip, net.remote];
    for addr in mine {
        world.endpoints.insert((*addr).into(), Endpoint { ifindex: 1, ..endpoint(&net.a) });
    }
    world.nodes.insert(net.node.into(), own_address());
    world.nodes.insert(net.other_node.into(), Node { flags: 0 });
    for addr in backends {
        if !mine.contains(&addr) {
            let prefix = Prefix::new(addr, net.bits as u8);
            world.routes.push((prefix, Route { node: net.other_node.into(), flags: 0 }));
        }
    }
    for (slot, addr) in backends.into_iter().enumerate() {
        let value = Backend { addr: addr.into(), port: Be16::new(8080), flags: 0 };
        world.backends.insert(BackendKey { service: 3, slot: slot as u32 }, value);
    }
    for addr in [net.external_ip.into(), Addr::UNSPECIFIED] {
        let key = ServiceKey { addr, port: Be16::new(PORT), proto: TCP, scope: 0 };
        let service = Service { id: 3, backends: 2, algorithm: Service::MAGLEV, flags, ..Service::default() };
        world.services.insert(key, service);
    }
    world
}

#[test]
fn both_nodes_choose_alike_and_the_answer_leaves_from_the_backends_node() {
    for net in NETS {
        for asked in [(net.external_ip, PORT), (net.node, PORT)] {
            let (mut here, mut there) = (0, 0);
            for port in 50000..50100 {
                let client = (net.outside, port);
                let front = node(&net, &[net.a.ip], Service::DSR);
                let packet = tcp(client, asked, SYN);
                let (outcome, sent) = front.run(uplink::from_uplink, &packet.frame());
                assert_eq!(outcome, Ok(REDIRECT));
                if matches!(front.sent.get(), Sent::Peer(_)) {
                    assert_eq!(ends(&sent).1, (net.a.ip, 8080));
                    here += 1;
                    continue;
                }
                there += 1;
                assert_eq!(front.sent.get(), Sent::Out(2));
                assert_eq!(sent, packet.clone().hop().frame(), "as it came");
                assert_eq!(front.tunnel.get(), Some((1, net.other_node.into())));
                assert_eq!(front.run(overlay::to_overlay, &sent).0, Ok(NEXT));
                assert_eq!(front.tunnel.get(), Some((1, net.other_node.into())));
                // At the backend's node, which is the "other" one's view of the same cluster.
                let mut back = node(&net, &[net.remote], Service::DSR);
                back.nodes.clear();
                back.nodes.insert(net.other_node.into(), own_address());
                back.nodes.insert(net.node.into(), Node { flags: 0 });
                back.tunnel.set(Some((1, net.node.into())));
                let (outcome, seen) = back.run(overlay::from_overlay, &sent);
                assert_eq!((outcome, ends(&seen)), (Ok(REDIRECT), (client, (net.remote, 8080))));
                assert_sums(&seen);
                let answer = tcp((net.remote, 8080), client, SYN | ACK).frame();
                back.tunnel.set(None);
                assert_eq!(back.run(pod::from_pod, &answer), (Ok(NEXT), answer.clone()));
                let (outcome, answer) = back.run(uplink::to_uplink, &answer);
                assert_eq!((outcome, &answer), (Ok(NEXT), &tcp(asked, client, SYN | ACK).frame()));
                // A router on the way to the client cannot forward the answer whole.
                let error = error(net.router, asked.0, 3, 4, &answer);
                let (outcome, passed) = front.run(uplink::from_uplink, &error.frame());
                assert_eq!((outcome, &passed), (Ok(REDIRECT), &error.hop().frame()));
                assert_eq!(
                    (front.sent.get(), front.tunnel.get()),
                    (Sent::Out(2), Some((1, net.other_node.into())))
                );
                back.tunnel.set(Some((1, net.node.into())));
                let (outcome, seen) = back.run(overlay::from_overlay, &passed);
                assert_eq!(outcome, Ok(REDIRECT));
                assert_sums(&seen);
                let seen = headers(&seen);
                assert_eq!((seen.src, seen.dst), (net.router, net.remote));
                let sent = tcp((net.remote, 8080), client, SYN | ACK).frame();
                let ports = l4_at(&sent) - 14;
                assert_eq!(seen.body[8 + ports..8 + ports + 4], sent[14 + ports..14 + ports + 4]);
                // And the flow goes on the same way.
                let (_, again) = front.run(uplink::from_uplink, &tcp(client, asked, ACK).frame());
                assert_eq!(again, tcp(client, asked, ACK).hop().frame());
            }
            assert!(here > 20 && there > 20, "{here} here, {there} there");
        }
    }
}

#[test]
fn a_node_that_disagrees_takes_any_backend_of_its_own_or_drops() {
    for net in NETS {
        let packet = |port| tcp((net.outside, port), (net.external_ip, PORT), SYN).frame();
        let back = node(&net, &[net.a.ip], Service::DSR);
        back.tunnel.set(Some((1, net.other_node.into())));
        for port in 50000..50050 {
            let (outcome, seen) = back.run(overlay::from_overlay, &packet(port));
            assert_eq!((outcome, ends(&seen).1), (Ok(REDIRECT), (net.a.ip, 8080)));
        }
        let back = node(&net, &[], Service::DSR);
        back.tunnel.set(Some((1, net.other_node.into())));
        assert_eq!(back.run(overlay::from_overlay, &packet(1)).0, Err(Reason::NoLocalBackend));
    }
}

#[test]
fn only_such_services_and_only_nodes_may_bring_foreign_sources() {
    for net in NETS {
        let frame = tcp((net.outside, 50000), (net.external_ip, PORT), SYN).frame();
        let plain = node(&net, &[net.a.ip], 0);
        plain.tunnel.set(Some((1, net.other_node.into())));
        assert_eq!(plain.run(overlay::from_overlay, &frame).0, Err(Reason::ForgedOverlay));
        let back = node(&net, &[net.a.ip], Service::DSR);
        for tunnel in
            [None, Some((2, net.other_node.into())), Some((1, net.router.into())), Some((1, net.node.into()))]
        {
            back.tunnel.set(tunnel);
            assert_eq!(back.run(overlay::from_overlay, &frame).0, Err(Reason::ForgedOverlay));
        }
        back.tunnel.set(Some((1, net.other_node.into())));
        for src in [net.nobody, net.nowhere, net.node] {
            let frame = tcp((src, 50000), (net.external_ip, PORT), SYN).frame();
            assert_eq!(back.run(overlay::from_overlay, &frame).0, Err(Reason::ForgedOverlay));
        }
        let quoted = tcp((net.external_ip, 81), (net.outside, 50000), SYN).frame();
        let stray = error(net.router, net.external_ip, 3, 4, &quoted).frame();
        assert_eq!(back.run(overlay::from_overlay, &stray).0, Err(Reason::ForgedOverlay));
        let past = tcp((net.outside, 50000), (net.a.ip, 8080), SYN).frame();
        assert_eq!(back.run(overlay::from_overlay, &past).0, Err(Reason::ForgedOverlay));
    }
}

#[test]
fn policy_and_source_ranges_stand_at_the_backends_node_too() {
    for net in NETS {
        let frame = tcp((net.outside, 50000), (net.external_ip, PORT), SYN).frame();
        let mut back = node(&net, &[net.a.ip], Service::DSR);
        back.endpoints
            .insert(net.a.ip.into(), Endpoint { ifindex: 1, ingress_ruleset: 5, ..endpoint(&net.a) });
        back.tunnel.set(Some((1, net.other_node.into())));
        assert_eq!(back.run(overlay::from_overlay, &frame).0, Err(Reason::PolicyIngress));
        let back = node(&net, &[net.a.ip], Service::DSR | Service::RANGES);
        back.tunnel.set(Some((1, net.other_node.into())));
        assert_eq!(back.run(overlay::from_overlay, &frame).0, Err(Reason::SourceRange));
    }
}
