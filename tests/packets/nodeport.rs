//! NodePorts and external addresses from outside, and the way back.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;

fn node_with(net: &Net, backends: &[End]) -> Bench {
    let mut node = Bench::new();
    node.service(net.any(), 30080, TCP, 8, backends);
    node.service(net.any(), 30080, UDP, 9, backends);
    node
}

#[test]
fn a_local_backend_sees_the_client_and_answers_as_the_node() {
    for net in NETS {
        let client: End = (net.outside, 50000);
        let asked: End = (net.node, 30080);
        let backend = (net.b.ip, 8080);
        let mut node = node_with(&net, &[backend]);
        for (there, seen, back, answered) in [
            (
                tcp(client, asked, SYN),
                tcp(client, backend, SYN),
                tcp(backend, client, SYN | ACK),
                tcp(asked, client, SYN | ACK),
            ),
            (
                udp(client, asked, b"?"),
                udp(client, backend, b"?"),
                udp(backend, client, b"!"),
                udp(asked, client, b"!"),
            ),
        ] {
            node.expect("from_uplink", &there.frame(), REDIRECT, &seen.to_pod(&net.b));
            // The stack routes the answer; only then does it get the node's address.
            node.expect("from_pod", &back.frame(), NEXT, &back.frame());
            node.expect("to_uplink", &back.frame(), NEXT, &answered.frame());
            node.expect("from_uplink", &there.frame(), REDIRECT, &seen.to_pod(&net.b));
        }
        assert_eq!(node.all_drops(), []);
    }
}

#[test]
fn a_remote_backend_sees_the_gateway_and_its_answer_comes_back_through_this_node() {
    for net in NETS {
        let client: End = (net.outside, 50000);
        let asked: End = (net.node, 30080);
        let backend = (net.remote, 8080);
        let mut node = node_with(&net, &[backend]);
        let out = node.run("from_uplink", &tcp(client, asked, SYN).frame());
        let (src, dst) = ends(&out.bytes);
        assert_eq!((out.verdict, src.0, dst), (REDIRECT, net.gateway, backend));
        assert!((Config::SNAT_PORT_MIN..=Config::SNAT_PORT_MAX).contains(&src.1));
        assert_sums(&out.bytes);
        assert_eq!(node.metric(Metric::ToOverlay), 1);
        let again = node.run("from_uplink", &tcp(client, asked, ACK).frame());
        assert_eq!(ends(&again.bytes), (src, dst), "the same port for the whole connection");
        assert_eq!(node.metric(Metric::FlowOpened), 1);
    }
}

#[test]
fn a_backend_in_another_nodes_own_network_is_reached_and_answers_by_the_uplink() {
    for net in NETS {
        let client: End = (net.outside, 50000);
        let asked: End = (net.node, 30080);
        let backend = (net.other_node, 8080);
        let mut node = node_with(&net, &[backend]);
        let out = node.run("from_uplink", &tcp(client, asked, SYN).frame());
        let (src, dst) = ends(&out.bytes);
        assert_eq!((out.verdict, src.0, dst), (REDIRECT, net.node, backend));
        node.expect("to_uplink", &out.bytes, NEXT, &out.bytes);
        node.expect(
            "from_uplink",
            &tcp(backend, src, SYN | ACK).frame(),
            REDIRECT,
            &tcp(asked, client, SYN | ACK).hop().frame(),
        );
        assert_eq!(node.metric(Metric::ToClient), 1);
    }
}

#[test]
fn a_backend_in_this_nodes_own_network_is_reached_and_answers_by_the_stack() {
    for net in NETS {
        let client: End = (net.outside, 50000);
        let asked: End = (net.node, 30080);
        let backend = (net.node, 8080);
        let mut node = node_with(&net, &[backend]);
        node.expect(
            "from_uplink",
            &tcp(client, asked, SYN).frame(),
            NEXT,
            &tcp(client, backend, SYN).frame(),
        );
        node.expect(
            "to_uplink",
            &tcp(backend, client, SYN | ACK).frame(),
            NEXT,
            &tcp(asked, client, SYN | ACK).frame(),
        );
    }
}

#[test]
fn a_connection_that_is_over_leaves_its_port_to_the_next_when_no_other_is_free() {
    for net in NETS {
        let asked: End = (net.node, 30080);
        let mut node = node_with(&net, &[(net.remote, 8080)]);
        node.configure(Config { snat_port_min: 20000, snat_port_max: 20000, ..config() });
        let (first, second): (End, End) = ((net.outside, 1000), (net.outside, 1001));
        assert_eq!(node.run("from_uplink", &tcp(first, asked, SYN).frame()).verdict, REDIRECT);
        node.expect_drop("from_uplink", &tcp(second, asked, SYN).frame(), Reason::NatExhausted);
        assert_eq!(node.run("from_uplink", &tcp(first, asked, RST).frame()).verdict, REDIRECT);
        let out = node.run("from_uplink", &tcp(second, asked, SYN).frame());
        assert_eq!((out.verdict, ends(&out.bytes).0.1), (REDIRECT, 20000));
        // It is no longer the first one's, whose packets would be taken for the second's.
        for flags in [ACK, SYN] {
            node.expect_drop("from_uplink", &tcp(first, asked, flags).frame(), Reason::NatExhausted);
        }
        let out = node.run("from_uplink", &tcp(second, asked, ACK).frame());
        assert_eq!((out.verdict, ends(&out.bytes).0.1), (REDIRECT, 20000));
    }
}

#[test]
fn whoever_connects_again_is_seen_with_the_same_port() {
    for net in NETS {
        let asked: End = (net.node, 30080);
        let mut node = node_with(&net, &[(net.remote, 8080)]);
        let mut run = |port: u16, flags: u8| {
            let out = node.run("from_uplink", &tcp((net.outside, port), asked, flags).frame());
            assert_eq!(out.verdict, REDIRECT);
            ends(&out.bytes).0.1
        };
        let clients: Vec<u16> = (32768..60999).step_by(2).step_by(16).collect();
        let first: Vec<u16> = clients.iter().map(|port| run(*port, SYN)).collect();
        let each: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(each.len(), first.len(), "one for each port that Linux connects from");
        for flags in [RST, SYN] {
            let again: Vec<u16> = clients.iter().map(|port| run(*port, flags)).collect();
            assert_eq!(again, first);
        }
    }
}

#[test]
fn ports_for_remote_backends_are_each_claimed_once() {
    for net in NETS {
        let asked: End = (net.node, 30080);
        let mut node = node_with(&net, &[(net.remote, 8080)]);
        let mut config = config();
        (config.snat_port_min, config.snat_port_max) = (20000, 20007);
        node.configure(config);
        let mut ports = std::collections::BTreeSet::new();
        let mut exhausted = 0;
        for port in 0..64 {
            let out = node.run("from_uplink", &tcp((net.outside, 1000 + port), asked, SYN).frame());
            match out.verdict {
                REDIRECT => assert!(ports.insert(ends(&out.bytes).0.1), "a port was given twice"),
                _ => exhausted += 1,
            }
        }
        assert!(ports.iter().all(|port| (20000..=20007).contains(port)));
        assert_eq!(node.drops(Reason::NatExhausted).packets, exhausted);
        assert!(exhausted >= 56, "eight ports serve eight clients at most");
    }
}

#[test]
fn policy_stands_between_outside_and_backend() {
    for net in NETS {
        let client: End = (net.outside, 50000);
        let asked: End = (net.node, 30080);
        let backend = (net.b.ip, 8080);
        let mut node = node_with(&net, &[backend]);
        node.endpoint(&net.b, |b| b.ingress_ruleset = 7);
        node.expect_drop("from_uplink", &tcp(client, asked, SYN).frame(), Reason::PolicyIngress);
        node.identity(net.outside, net.bits, 40);
        node.rule(7, RuleKey::FULL, (40, TCP, 8080), 70, true);
        assert_eq!(node.run("from_uplink", &tcp(client, asked, SYN).frame()).verdict, REDIRECT);
    }
}

#[test]
fn an_external_address_is_a_service_like_any_other() {
    for net in NETS {
        let client: End = (net.outside, 50000);
        let external = (net.external_ip, 443);
        let mut node = Bench::new();
        node.service(external.0, external.1, TCP, 8, &[(net.b.ip, 8443)]);
        node.expect(
            "from_uplink",
            &tcp(client, external, SYN).frame(),
            REDIRECT,
            &tcp(client, (net.b.ip, 8443), SYN).to_pod(&net.b),
        );
    }
}

#[test]
fn pods_reach_the_node_port_of_their_own_node() {
    for net in NETS {
        let asked: End = (net.node, 30080);
        let backend = (net.b.ip, 8080);
        let mut node = node_with(&net, &[backend]);
        let mut port = 40000;
        for asked in [asked, (net.gateway, 30080)] {
            port += 1;
            let client = (net.a.ip, port);
            node.expect(
                "from_pod",
                &tcp(client, asked, SYN).frame(),
                REDIRECT,
                &tcp(client, backend, SYN).to_pod(&net.b),
            );
            node.expect(
                "from_pod",
                &tcp(backend, client, SYN | ACK).frame(),
                REDIRECT,
                &tcp(asked, client, SYN | ACK).to_pod(&net.a),
            );
        }
    }
}

#[test]
fn without_backends_the_client_outside_is_refused_at_once() {
    for net in NETS {
        let client: End = (net.outside, 50000);
        let asked: End = (net.node, 30080);
        let mut node = node_with(&net, &[]);
        let out = node.run("from_uplink", &tcp(client, asked, SYN).frame());
        assert_eq!((out.verdict, ends(&out.bytes)), (REDIRECT, (asked, client)));
        assert_sums(&out.bytes);
        let out = node.run("from_uplink", &udp(client, asked, b"?").frame());
        assert_eq!((out.verdict, headers(&out.bytes).proto), (REDIRECT, icmp_of(net.node)));
        assert_sums(&out.bytes);
        assert_eq!(node.all_drops(), [(Reason::NoBackend, 2)]);
    }
}

#[test]
fn what_a_bridge_flooded_to_this_node_is_left_to_its_receiver() {
    for net in NETS {
        let client: End = (net.outside, 50000);
        let asked: End = (net.node, 30080);
        let mut node = node_with(&net, &[(net.b.ip, 8080)]);
        let mut frame = tcp(client, asked, SYN).frame();
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
        node.expect("from_uplink", &frame, NEXT, &frame);
    }
}

#[test]
fn node_ports_answer_on_the_addresses_that_have_them() {
    for net in NETS {
        let mut node = node_with(&net, &[(net.b.ip, 8080)]);
        node.put::<Addr, _>("NODES", net.node.into(), Node { flags: Node::SELF });
        let frame = tcp((net.outside, 50000), (net.node, 30080), SYN).frame();
        node.expect_untouched("from_uplink", &frame);
        let out = node.run("from_pod", &tcp((net.a.ip, 40000), (net.gateway, 30080), SYN).frame());
        assert_eq!(ends(&out.bytes).1, (net.b.ip, 8080));
        let asked = tcp((net.a.ip, 40000), (net.node, 30080), SYN).frame();
        node.expect_untouched("from_pod", &asked);
    }
}

#[test]
fn clients_outside_of_the_source_ranges_are_dropped() {
    for net in NETS {
        let mut node = Bench::new();
        let (external, backend) = ((net.external_ip, 443), (net.b.ip, 8443));
        let service = Service { id: 8, backends: 1, flags: Service::RANGES, ..Service::default() };
        node.service_with(external.0, external.1, TCP, service, &[backend]);
        let frame = tcp((net.outside, 50000), external, SYN).frame();
        node.expect_drop("from_uplink", &frame, Reason::SourceRange);
        let key = |id: u32| RangeKey { service: Be32::new(id), addr: net.outside.into() };
        node.put_lpm("RANGES", 32 + 128 - 8, key(9), 1u32);
        node.expect_drop("from_uplink", &frame, Reason::SourceRange);
        node.put_lpm("RANGES", 32 + 128 - 8, key(8), 1u32);
        assert_eq!(node.run("from_uplink", &frame).verdict, REDIRECT);
        let pod = tcp((net.a.ip, 40000), external, SYN).frame();
        node.expect_drop("from_pod", &pod, Reason::SourceRange);
    }
}

#[test]
fn a_packet_between_two_wires_loses_a_hop_and_ends_when_it_has_none() {
    for net in NETS {
        for backend in [(net.remote, 8080), (net.other_node, 8080)] {
            let mut node = node_with(&net, &[backend]);
            let packet = tcp((net.outside, 50000), (net.node, 30080), SYN);
            let out = node.run("from_uplink", &packet.frame());
            assert_eq!((out.verdict, headers(&out.bytes).hops), (REDIRECT, 63));
            assert_sums(&out.bytes);
            for hops in [0, 1] {
                let frame = Packet { hops, ..packet.clone() }.frame();
                assert_eq!(node.run("from_uplink", &frame).verdict, DROP);
            }
            assert_eq!(node.all_drops(), [(Reason::HopLimit, 2)]);
        }
        // What ends here keeps them.
        let mut node = node_with(&net, &[(net.b.ip, 8080)]);
        let packet = Packet { hops: 1, ..tcp((net.outside, 50000), (net.node, 30080), SYN) };
        let out = node.run("from_uplink", &packet.frame());
        assert_eq!((out.verdict, headers(&out.bytes).hops), (REDIRECT, 1));
    }
}

#[test]
fn pods_and_the_outside_may_be_served_by_others_at_one_address() {
    for net in NETS {
        for external in [(net.external_ip, 443), (net.node, 30080)] {
            let mut node = Bench::new();
            let at = if external.0 == net.node { net.any() } else { external.0 };
            let local =
                Service { id: 8, backends: 1, flags: Service::LOCAL | Service::INSIDE, ..Service::default() };
            node.service_with(at, external.1, TCP, local, &[(net.b.ip, 8443)]);
            let (pod, client) = ((net.a.ip, 40000), (net.outside, 50000));
            // Until the other entry is written, the one that is there serves.
            let out = node.run("from_pod", &tcp((net.a.ip, 39999), external, SYN).frame());
            assert_eq!(ends(&out.bytes).1, (net.b.ip, 8443));
            node.service_inside(at, external.1, TCP, 9, &[(net.remote, 8443)]);
            let out = node.run("from_pod", &tcp(pod, external, SYN).frame());
            assert_eq!(ends(&out.bytes), (pod, (net.remote, 8443)));
            let out = node.run("from_uplink", &tcp(client, external, SYN).frame());
            assert_eq!(ends(&out.bytes), (client, (net.b.ip, 8443)));
        }
    }
}
