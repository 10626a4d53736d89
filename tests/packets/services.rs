//! ClusterIPs translated per packet, for what sockets could not translate.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use std::collections::BTreeMap;
use std::net::IpAddr;

fn node_with(net: &Net, backends: &[End]) -> Bench {
    let mut node = Bench::new();
    node.service(net.cluster_ip, 80, TCP, 3, backends);
    node.service(net.cluster_ip, 80, UDP, 4, backends);
    node
}

#[test]
fn a_local_backend_is_reached_and_answers_as_the_service() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let backend = (net.b.ip, 8080);
        let mut node = node_with(&net, &[backend]);
        node.expect(
            "from_pod",
            &tcp(client, virtual_end, SYN).frame(),
            REDIRECT,
            &tcp(client, backend, SYN).to_pod(&net.b),
        );
        node.expect(
            "from_pod",
            &tcp(backend, client, SYN | ACK).frame(),
            REDIRECT,
            &tcp(virtual_end, client, SYN | ACK).to_pod(&net.a),
        );
        let data = b"odd number of bytes";
        node.expect(
            "from_pod",
            &udp(client, virtual_end, data).frame(),
            REDIRECT,
            &udp(client, backend, data).to_pod(&net.b),
        );
        node.expect(
            "from_pod",
            &udp(backend, client, data).frame(),
            REDIRECT,
            &udp(virtual_end, client, data).to_pod(&net.a),
        );
        assert_eq!(node.metric(Metric::ServiceFlow), 2);
    }
}

#[test]
fn a_udp_packet_without_checksum_stays_without() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let mut node = node_with(&net, &[(net.b.ip, 8080)]);
        let mut frame = udp(client, virtual_end, b"x").frame();
        let at = l4_at(&frame) + 6;
        frame[at..at + 2].fill(0);
        let out = node.run("from_pod", &frame);
        assert_eq!(out.verdict, REDIRECT);
        assert_eq!(ends(&out.bytes), (client, (net.b.ip, 8080)));
        assert_eq!(out.bytes[at..at + 2], [0, 0]);
    }
}

#[test]
fn a_wrong_checksum_stays_wrong_by_the_same_amount() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let mut node = node_with(&net, &[(net.b.ip, 8080)]);
        let mut frame = tcp(client, virtual_end, SYN).frame();
        let right = tcp(client, (net.b.ip, 8080), SYN).frame();
        let at = l4_at(&frame) + 16;
        let sum = |frame: &[u8]| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let wrong = sum(&frame).wrapping_sub(0x0101);
        frame[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
        let out = node.run("from_pod", &frame);
        assert_eq!(out.verdict, REDIRECT);
        assert_ne!(sum(&out.bytes), sum(&right));
        let ones = |a: u16, b: u16| (u32::from(a) + 0xffff - u32::from(b)) % 0xffff;
        assert_eq!(ones(sum(&right), sum(&out.bytes)), 0x0101, "one's complement difference");
    }
}

#[test]
fn a_remote_backend_is_reached_by_the_overlay() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let backend = (net.remote, 8080);
        let mut node = node_with(&net, &[backend]);
        node.expect(
            "from_pod",
            &tcp(client, virtual_end, SYN).frame(),
            REDIRECT,
            &tcp(client, backend, SYN).frame(),
        );
        assert_eq!(node.metric(Metric::ToOverlay), 1);
    }
}

#[test]
fn a_backend_on_the_node_itself_is_reached_by_the_stack_and_answers_as_the_service() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let backend = (net.node, 6443);
        let mut node = node_with(&net, &[backend]);
        node.expect(
            "from_pod",
            &tcp(client, virtual_end, SYN).frame(),
            NEXT,
            &tcp(client, backend, SYN).frame(),
        );
        node.expect(
            "to_pod",
            &tcp(backend, client, SYN | ACK).frame(),
            NEXT,
            &tcp(virtual_end, client, SYN | ACK).frame(),
        );
    }
}

#[test]
fn a_backend_outside_is_masqueraded_and_answers_as_the_service() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let backend = (net.outside, 6443);
        let mut node = node_with(&net, &[backend]);
        let translated = tcp(client, backend, SYN).frame();
        node.expect("from_pod", &tcp(client, virtual_end, SYN).frame(), NEXT, &translated);
        let out = node.run("to_uplink", &translated);
        let (src, dst) = ends(&out.bytes);
        assert_eq!((out.verdict, src.0, dst), (NEXT, net.node, backend));
        node.expect(
            "from_uplink",
            &tcp(backend, src, SYN | ACK).frame(),
            REDIRECT,
            &tcp(virtual_end, client, SYN | ACK).to_pod(&net.a),
        );
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let backend = (net.a.ip, 8080);
        let mut node = node_with(&net, &[backend]);
        // Policies do not stand between a pod and itself.
        node.endpoint(&net.a, |a| (a.ingress_ruleset, a.egress_ruleset) = (5, 6));
        let seen = (net.pod_gateway, client.1);
        node.expect(
            "from_pod",
            &tcp(client, virtual_end, SYN).frame(),
            REDIRECT,
            &tcp(seen, backend, SYN).to_pod(&net.a),
        );
        node.expect(
            "from_pod",
            &tcp(backend, seen, SYN | ACK).frame(),
            REDIRECT,
            &tcp(virtual_end, client, SYN | ACK).to_pod(&net.a),
        );
        node.expect(
            "from_pod",
            &tcp(client, virtual_end, ACK).frame(),
            REDIRECT,
            &tcp(seen, backend, ACK).to_pod(&net.a),
        );
    }
}

#[test]
fn the_pods_gateway_answers_nobody_else() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        node.expect_drop(
            "from_pod",
            &tcp(client, (net.pod_gateway, 80), SYN).frame(),
            Reason::BadDestination,
        );
    }
}

#[test]
fn a_connection_stays_with_its_backend_and_new_ones_take_turns() {
    for net in NETS {
        let virtual_end: End = (net.cluster_ip, 80);
        let backends: Vec<End> = (0..4).map(|n| (net.remote_pod(10 + n), 8080)).collect();
        let mut node = node_with(&net, &backends);
        let mut seen: BTreeMap<End, u32> = BTreeMap::new();
        for port in 20000..21000 {
            let client = (net.a.ip, port);
            let first = ends(&node.run("from_pod", &tcp(client, virtual_end, SYN).frame()).bytes).1;
            let second = ends(&node.run("from_pod", &tcp(client, virtual_end, ACK).frame()).bytes).1;
            assert_eq!(first, second);
            *seen.entry(first).or_default() += 1;
        }
        assert_eq!(seen, backends.iter().map(|backend| (*backend, 250)).collect());
    }
}

#[test]
fn a_backend_that_left_keeps_its_connections_and_gets_no_new_ones() {
    for net in NETS {
        let virtual_end: End = (net.cluster_ip, 80);
        let (stays, leaves) = ((net.remote, 8080), (net.b.ip, 8080));
        let mut node = node_with(&net, &[leaves, stays]);
        let old = (net.a.ip, 30000);
        let syn = node.run("from_pod", &tcp(old, virtual_end, SYN).frame());
        assert_eq!(ends(&syn.bytes).1, leaves);
        node.service(net.cluster_ip, 80, TCP, 3, &[stays]);
        assert_eq!(ends(&node.run("from_pod", &tcp(old, virtual_end, ACK).frame()).bytes).1, leaves);
        for port in 30001..30010 {
            let out = node.run("from_pod", &tcp((net.a.ip, port), virtual_end, SYN).frame());
            assert_eq!(ends(&out.bytes).1, stays);
        }
        // The same source port, connecting again.
        assert_eq!(ends(&node.run("from_pod", &tcp(old, virtual_end, SYN).frame()).bytes).1, stays);
    }
}

#[test]
fn datagrams_move_on_when_their_backend_leaves() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let (stays, leaves) = ((net.remote, 53), (net.b.ip, 53));
        let mut node = node_with(&net, &[leaves, stays]);
        for _ in 0..3 {
            assert_eq!(ends(&node.run("from_pod", &udp(client, virtual_end, b"?").frame()).bytes).1, leaves);
        }
        node.service(net.cluster_ip, 80, UDP, 4, &[stays]);
        assert_eq!(ends(&node.run("from_pod", &udp(client, virtual_end, b"?").frame()).bytes).1, stays);
    }
}

#[test]
fn affinity_keeps_a_client_at_its_backend_while_that_is_one() {
    for net in NETS {
        let virtual_end: End = (net.cluster_ip, 80);
        let backends: Vec<End> = (0..4).map(|n| (net.remote_pod(10 + n), 8080)).collect();
        let mut node = Bench::new();
        let service = Service { id: 3, backends: 4, affinity_seconds: 3600, ..Service::default() };
        node.service_with(net.cluster_ip, 80, TCP, service, &backends);
        let to = |node: &mut Bench, client: IpAddr, port| {
            ends(&node.run("from_pod", &tcp((client, port), virtual_end, SYN).frame()).bytes).1
        };
        let (a, b) = (to(&mut node, net.a.ip, 1), to(&mut node, net.b.ip, 1));
        assert_ne!(a, b, "two clients take turns");
        for port in 2..20 {
            assert_eq!(to(&mut node, net.a.ip, port), a);
            assert_eq!(to(&mut node, net.b.ip, port), b);
        }
        // The first slot gets another backend.
        let replaced = (net.remote_pod(99), 8080);
        node.service_with(
            net.cluster_ip,
            80,
            TCP,
            service,
            &[replaced, backends[1], backends[2], backends[3]],
        );
        assert_ne!(to(&mut node, net.a.ip, 30), a);
        assert_eq!(to(&mut node, net.b.ip, 30), b);
    }
}

#[test]
fn a_service_without_backends_refuses_tcp_with_a_reset() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let mut node = node_with(&net, &[]);
        let out = node.run("from_pod", &tcp_with(client, virtual_end, SYN, b"").frame());
        assert_eq!(out.verdict, REDIRECT);
        assert_sums(&out.bytes);
        assert_eq!(ends(&out.bytes), (virtual_end, client));
        let at = l4_at(&out.bytes);
        assert_eq!((out.bytes.len(), &out.bytes[..12]), (at + 20, &[FROM_MAC, TO_MAC].concat()[..]));
        let segment = &out.bytes[at..];
        assert_eq!(segment[4..12], [0, 0, 0, 0, 0, 0, 0x03, 0xe9], "acknowledges the SYN: 1000 + 1");
        assert_eq!(segment[12..14], [0x50, RST | ACK]);
        // In the middle of a connection: RFC 9293 takes the sequence number from the acknowledgement.
        let out = node.run("from_pod", &tcp_with(client, virtual_end, ACK, b"late data").frame());
        assert_sums(&out.bytes);
        assert_eq!(out.bytes[at + 4..at + 8], 2000u32.to_be_bytes());
        assert_eq!(out.bytes[at + 13], RST);
        assert_eq!(node.all_drops(), [(Reason::NoBackend, 2)]);
        // A reset is not answered with a reset.
        assert_eq!(node.run("from_pod", &tcp(client, virtual_end, RST).frame()).verdict, DROP);
    }
}

#[test]
fn a_service_without_backends_refuses_udp_with_port_unreachable() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let mut node = node_with(&net, &[]);
        let asked = udp(client, virtual_end, b"a question that is longer than eight bytes").frame();
        let out = node.run("from_pod", &asked);
        assert_eq!(out.verdict, REDIRECT);
        assert_sums(&out.bytes);
        let quoted = l4_at(&asked) + 8 - 14;
        let length = l4_at(&asked) + 8 + quoted;
        assert_eq!(out.bytes.len(), length);
        let answer = headers(&out.bytes);
        assert_eq!((answer.src, answer.dst, answer.proto), (net.cluster_ip, net.a.ip, icmp_of(net.a.ip)));
        assert_eq!(answer.body[..2], if net.bits == 32 { [3, 3] } else { [1, 4] });
        assert_eq!(answer.body[8..], asked[14..14 + quoted], "quotes what was sent");
        // The shortest datagram is shorter than its answer.
        let out = node.run("from_pod", &udp(client, virtual_end, b"").frame());
        assert_eq!((out.verdict, out.bytes.len()), (REDIRECT, length));
        assert_sums(&out.bytes);
    }
}

#[test]
fn another_protocol_or_port_of_a_cluster_ip_is_no_service() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = node_with(&net, &[(net.b.ip, 8080)]);
        node.expect_drop("from_pod", &tcp(client, (net.cluster_ip, 81), SYN).frame(), Reason::NoService);
        node.expect_drop("from_pod", &echo(net.a.ip, net.cluster_ip, true, 1).frame(), Reason::NoService);
    }
}

#[test]
fn two_services_with_one_backend_do_not_mix_their_answers() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let backend = (net.b.ip, 8080);
        let second = (net.other_cluster_ip, 80);
        let mut node = node_with(&net, &[backend]);
        node.service(second.0, second.1, TCP, 9, &[backend, (net.remote, 8080)]);
        assert_eq!(ends(&node.run("from_pod", &tcp(client, virtual_end, SYN).frame()).bytes).1, backend);
        // The same client port, to the other service: the only free pair of ends is the other backend's.
        assert_eq!(
            ends(&node.run("from_pod", &tcp(client, second, SYN).frame()).bytes).1,
            (net.remote, 8080)
        );
        // And past both services, straight to the backend.
        node.expect_drop("from_pod", &tcp(client, backend, SYN).frame(), Reason::NatExhausted);
    }
}
