//! Pods' packets to the outside, and the answers.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;

/// Sends a pod's packet out and returns the source that the outside sees.
#[track_caller]
fn leave(node: &mut Bench, packet: &Packet) -> End {
    let frame = packet.frame();
    node.expect("from_pod", &frame, NEXT, &frame);
    let out = node.run("to_uplink", &frame);
    assert_eq!(out.verdict, NEXT, "{:?}", node.all_drops());
    assert_sums(&out.bytes);
    ends(&out.bytes).0
}

#[test]
fn tcp_and_udp_leave_with_the_nodes_address_and_answers_come_back() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.outside, 443);
        let mut node = Bench::new();
        let src = leave(&mut node, &tcp(client, server, SYN));
        assert_eq!(src.0, net.node);
        assert_eq!(leave(&mut node, &tcp(client, server, ACK)), src, "one port for the whole connection");
        node.expect(
            "from_uplink",
            &tcp(server, src, SYN | ACK).frame(),
            REDIRECT,
            &tcp(server, client, SYN | ACK).to_pod(&net.a),
        );
        let src = leave(&mut node, &udp(client, (net.outside, 53), b"name?"));
        node.expect(
            "from_uplink",
            &udp((net.outside, 53), src, b"address").frame(),
            REDIRECT,
            &udp((net.outside, 53), client, b"address").to_pod(&net.a),
        );
        assert_eq!(node.metric(Metric::MasqueradeFlow), 2);
    }
}

#[test]
fn pings_get_an_identifier_of_their_own() {
    for net in NETS {
        let mut node = Bench::new();
        let ids: Vec<u16> = [&net.a, &net.b]
            .iter()
            .map(|pod| {
                let ping = echo(pod.ip, net.outside, true, 7).frame();
                node.expect("from_pod", &ping, NEXT, &ping);
                let out = node.run("to_uplink", &ping);
                assert_sums(&out.bytes);
                let out = headers(&out.bytes);
                assert_eq!(out.src, net.node);
                u16::from_be_bytes([out.body[4], out.body[5]])
            })
            .collect();
        assert_ne!(ids[0], ids[1]);
        for (pod, id) in [(&net.a, ids[0]), (&net.b, ids[1])] {
            node.expect(
                "from_uplink",
                &echo(net.outside, net.node, false, id).frame(),
                REDIRECT,
                &echo(net.outside, pod.ip, false, 7).to_pod(pod),
            );
        }
    }
}

#[test]
fn no_port_is_given_to_two_flows_to_the_same_end() {
    for net in NETS {
        let server: End = (net.outside, 443);
        let mut node = Bench::new();
        node.configure(Config { snat_port_min: 20000, snat_port_max: 20007, ..config() });
        let mut ports = std::collections::BTreeSet::new();
        for port in 0..64 {
            let out = node.run("to_uplink", &tcp((net.a.ip, 1000 + port), server, SYN).frame());
            if out.verdict == NEXT {
                assert!(ports.insert(ends(&out.bytes).0.1), "a port was given twice");
            }
        }
        assert!(ports.iter().all(|port| (20000..=20007).contains(port)));
        assert_eq!(node.drops(Reason::NatExhausted).packets, 64 - ports.len() as u64);
        // Another destination is another set of ports.
        let out = node.run("to_uplink", &tcp((net.a.ip, 1000), (net.outside, 80), SYN).frame());
        assert_eq!(out.verdict, NEXT);
    }
}

#[test]
fn a_connection_that_is_over_gives_its_port_back() {
    for net in NETS {
        let server: End = (net.outside, 443);
        let (first, second): (End, End) = ((net.a.ip, 1000), (net.b.ip, 1000));
        let mut node = Bench::new();
        node.configure(Config { snat_port_min: 20000, snat_port_max: 20000, ..config() });
        let mut send = |client: End, flags: u8| {
            node.run("from_pod", &tcp(client, server, flags).frame());
            node.run("to_uplink", &tcp(client, server, flags).frame()).verdict
        };
        assert_eq!(send(first, SYN), NEXT);
        assert_eq!(send(second, SYN), DROP);
        assert_eq!(send(first, RST), NEXT);
        assert_eq!(send(second, SYN), NEXT);
    }
}

#[test]
fn the_nodes_own_sockets_are_never_answered_to_a_pod() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.outside, 443);
        let mut node = Bench::new();
        let own = (net.node, 20000);
        let frame = tcp(own, server, SYN).frame();
        node.expect("to_uplink", &frame, NEXT, &frame);
        node.configure(Config { snat_port_min: 20000, snat_port_max: 20000, ..config() });
        node.expect_drop("to_uplink", &tcp(client, server, SYN).frame(), Reason::NatExhausted);
        let back = tcp(server, own, SYN | ACK).frame();
        node.expect("from_uplink", &back, NEXT, &back);
    }
}

#[test]
fn protocols_without_ports_go_out_for_one_pod_at_a_time() {
    for net in NETS {
        let mut node = Bench::new();
        let out = node.run("to_uplink", &other(net.a.ip, net.outside, 47, b"GRE").frame());
        assert_eq!((out.verdict, headers(&out.bytes).src), (NEXT, net.node));
        node.expect_drop(
            "to_uplink",
            &other(net.b.ip, net.outside, 47, b"GRE").frame(),
            Reason::NatExhausted,
        );
        node.run("from_pod", &other(net.a.ip, net.outside, 47, b"GRE").frame());
        let out = node.run("from_uplink", &other(net.outside, net.node, 47, b"GRE").frame());
        assert_eq!((out.verdict, headers(&out.bytes).dst), (REDIRECT, net.a.ip));
    }
}

#[test]
fn answers_to_nothing_stay_with_the_node() {
    for net in NETS {
        let server: End = (net.outside, 443);
        let mut node = Bench::new();
        let stray = tcp(server, (net.node, 20000), ACK).frame();
        node.expect("from_uplink", &stray, NEXT, &stray);
    }
}

#[test]
fn without_the_flag_pods_keep_their_address() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.outside, 443);
        let mut node = Bench::new();
        node.configure(Config { flags: Config::OVERLAY, ..config() });
        let frame = tcp(client, server, SYN).frame();
        node.expect("to_uplink", &frame, NEXT, &frame);
    }
}

#[test]
fn a_flow_keeps_its_port_when_one_half_of_it_was_evicted() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.outside, 443);
        let mut node = Bench::new();
        let src = leave(&mut node, &tcp(client, server, SYN));
        for (key, _) in node.all::<NatKey, NatValue>("NAT") {
            if key.kind == NatKey::MASQUERADE {
                node.remove::<NatKey, NatValue>("NAT", key);
            }
        }
        node.configure(Config { snat_port_min: src.1, snat_port_max: src.1, ..config() });
        assert_eq!(leave(&mut node, &tcp(client, server, ACK)), src);
    }
}

#[test]
fn direct_destinations_see_the_pod() {
    for net in NETS {
        let mut node = Bench::new();
        let flags = Config::OVERLAY | Config::MASQUERADE | Config::DIRECT;
        node.configure(Config { flags, ..config() });
        node.put_prefix("DIRECT", net.outside, net.bits - 8, 1u32);
        let frame = tcp((net.a.ip, 40000), (net.outside, 443), SYN).frame();
        node.expect("to_uplink", &frame, NEXT, &frame);
        let out = node.run("to_uplink", &tcp((net.a.ip, 40000), (net.external_ip, 443), SYN).frame());
        assert_eq!(headers(&out.bytes).src, net.node);
    }
}
