//! ClusterIPs translated per packet, for what sockets could not translate.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

const CLIENT: End = (A.ip, 40000);
const VIRTUAL: End = (CLUSTER_IP, 80);

fn node_with(backends: &[End]) -> Bench {
    let mut node = Bench::new();
    node.service(CLUSTER_IP, 80, TCP, 3, backends);
    node.service(CLUSTER_IP, 80, UDP, 4, backends);
    node
}

#[test]
fn a_local_backend_is_reached_and_answers_as_the_service() {
    let backend = (B.ip, 8080);
    let mut node = node_with(&[backend]);
    node.expect(
        "from_pod",
        &tcp(CLIENT, VIRTUAL, SYN).frame(),
        REDIRECT,
        &tcp(CLIENT, backend, SYN).to_pod(&B),
    );
    node.expect(
        "from_pod",
        &tcp(backend, CLIENT, SYN | ACK).frame(),
        REDIRECT,
        &tcp(VIRTUAL, CLIENT, SYN | ACK).to_pod(&A),
    );
    let data = b"odd number of bytes";
    node.expect(
        "from_pod",
        &udp(CLIENT, VIRTUAL, data).frame(),
        REDIRECT,
        &udp(CLIENT, backend, data).to_pod(&B),
    );
    node.expect(
        "from_pod",
        &udp(backend, CLIENT, data).frame(),
        REDIRECT,
        &udp(VIRTUAL, CLIENT, data).to_pod(&A),
    );
    assert_eq!(node.metric(Metric::ServiceFlow), 2);
}

#[test]
fn a_udp_packet_without_checksum_stays_without() {
    let mut node = node_with(&[(B.ip, 8080)]);
    let mut frame = udp(CLIENT, VIRTUAL, b"x").frame();
    frame[14 + 20 + 6..14 + 20 + 8].fill(0);
    let out = node.run("from_pod", &frame);
    assert_eq!(out.verdict, REDIRECT);
    assert_eq!(ends(&out.bytes), (CLIENT, (B.ip, 8080)));
    assert_eq!(out.bytes[14 + 20 + 6..14 + 20 + 8], [0, 0]);
}

#[test]
fn a_wrong_checksum_stays_wrong_by_the_same_amount() {
    let mut node = node_with(&[(B.ip, 8080)]);
    let mut frame = tcp(CLIENT, VIRTUAL, SYN).frame();
    let right = tcp(CLIENT, (B.ip, 8080), SYN).frame();
    let sum = |frame: &[u8]| u16::from_be_bytes([frame[50], frame[51]]);
    let wrong = sum(&frame).wrapping_sub(0x0101);
    frame[50..52].copy_from_slice(&wrong.to_be_bytes());
    let out = node.run("from_pod", &frame);
    assert_eq!(out.verdict, REDIRECT);
    assert_ne!(sum(&out.bytes), sum(&right));
    let ones = |a: u16, b: u16| (u32::from(a) + 0xffff - u32::from(b)) % 0xffff;
    assert_eq!(ones(sum(&right), sum(&out.bytes)), 0x0101, "one's complement difference");
}

#[test]
fn a_remote_backend_is_reached_by_the_overlay() {
    let backend = (REMOTE, 8080);
    let mut node = node_with(&[backend]);
    node.expect("from_pod", &tcp(CLIENT, VIRTUAL, SYN).frame(), REDIRECT, &tcp(CLIENT, backend, SYN).frame());
    assert_eq!(node.metric(Metric::ToOverlay), 1);
}

#[test]
fn a_backend_on_the_node_itself_is_reached_by_the_stack_and_answers_as_the_service() {
    let backend = (NODE, 6443);
    let mut node = node_with(&[backend]);
    node.expect("from_pod", &tcp(CLIENT, VIRTUAL, SYN).frame(), NEXT, &tcp(CLIENT, backend, SYN).frame());
    node.expect(
        "to_pod",
        &tcp(backend, CLIENT, SYN | ACK).frame(),
        NEXT,
        &tcp(VIRTUAL, CLIENT, SYN | ACK).frame(),
    );
}

#[test]
fn a_backend_outside_is_masqueraded_and_answers_as_the_service() {
    let backend = (OUTSIDE, 6443);
    let mut node = node_with(&[backend]);
    let translated = tcp(CLIENT, backend, SYN).frame();
    node.expect("from_pod", &tcp(CLIENT, VIRTUAL, SYN).frame(), NEXT, &translated);
    let out = node.run("to_uplink", &translated);
    let (src, dst) = ends(&out.bytes);
    assert_eq!((out.verdict, src.0, dst), (NEXT, NODE, backend));
    node.expect(
        "from_uplink",
        &tcp(backend, src, SYN | ACK).frame(),
        REDIRECT,
        &tcp(VIRTUAL, CLIENT, SYN | ACK).to_pod(&A),
    );
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let backend = (A.ip, 8080);
    let mut node = node_with(&[backend]);
    // Policies do not stand between a pod and itself.
    node.endpoint(&A, |a| (a.ingress_ruleset, a.egress_ruleset) = (5, 6));
    let seen = (POD_GATEWAY, CLIENT.1);
    node.expect(
        "from_pod",
        &tcp(CLIENT, VIRTUAL, SYN).frame(),
        REDIRECT,
        &tcp(seen, backend, SYN).to_pod(&A),
    );
    node.expect(
        "from_pod",
        &tcp(backend, seen, SYN | ACK).frame(),
        REDIRECT,
        &tcp(VIRTUAL, CLIENT, SYN | ACK).to_pod(&A),
    );
    node.expect(
        "from_pod",
        &tcp(CLIENT, VIRTUAL, ACK).frame(),
        REDIRECT,
        &tcp(seen, backend, ACK).to_pod(&A),
    );
}

#[test]
fn the_pods_gateway_answers_nobody_else() {
    let mut node = Bench::new();
    node.expect_drop("from_pod", &tcp(CLIENT, (POD_GATEWAY, 80), SYN).frame(), Reason::BadDestination);
}

#[test]
fn a_connection_stays_with_its_backend_and_new_ones_take_turns() {
    let backends: Vec<End> = (0..4).map(|n| (Ipv4Addr::new(10, 244, 2, 10 + n), 8080)).collect();
    let mut node = node_with(&backends);
    let mut seen: BTreeMap<End, u32> = BTreeMap::new();
    for port in 20000..21000 {
        let client = (A.ip, port);
        let first = ends(&node.run("from_pod", &tcp(client, VIRTUAL, SYN).frame()).bytes).1;
        let second = ends(&node.run("from_pod", &tcp(client, VIRTUAL, ACK).frame()).bytes).1;
        assert_eq!(first, second);
        *seen.entry(first).or_default() += 1;
    }
    assert_eq!(seen, backends.iter().map(|backend| (*backend, 250)).collect());
}

#[test]
fn a_backend_that_left_keeps_its_connections_and_gets_no_new_ones() {
    let (stays, leaves) = ((REMOTE, 8080), (B.ip, 8080));
    let mut node = node_with(&[leaves, stays]);
    let old = (A.ip, 30000);
    let syn = node.run("from_pod", &tcp(old, VIRTUAL, SYN).frame());
    assert_eq!(ends(&syn.bytes).1, leaves);
    node.service(CLUSTER_IP, 80, TCP, 3, &[stays]);
    assert_eq!(ends(&node.run("from_pod", &tcp(old, VIRTUAL, ACK).frame()).bytes).1, leaves);
    for port in 30001..30010 {
        let out = node.run("from_pod", &tcp((A.ip, port), VIRTUAL, SYN).frame());
        assert_eq!(ends(&out.bytes).1, stays);
    }
    // The same source port, connecting again.
    assert_eq!(ends(&node.run("from_pod", &tcp(old, VIRTUAL, SYN).frame()).bytes).1, stays);
}

#[test]
fn datagrams_move_on_when_their_backend_leaves() {
    let (stays, leaves) = ((REMOTE, 53), (B.ip, 53));
    let mut node = node_with(&[leaves, stays]);
    for _ in 0..3 {
        assert_eq!(ends(&node.run("from_pod", &udp(CLIENT, VIRTUAL, b"?").frame()).bytes).1, leaves);
    }
    node.service(CLUSTER_IP, 80, UDP, 4, &[stays]);
    assert_eq!(ends(&node.run("from_pod", &udp(CLIENT, VIRTUAL, b"?").frame()).bytes).1, stays);
}

#[test]
fn affinity_keeps_a_client_at_its_backend_while_that_is_one() {
    let backends: Vec<End> = (0..4).map(|n| (Ipv4Addr::new(10, 244, 2, 10 + n), 8080)).collect();
    let mut node = Bench::new();
    let service = Service { id: 3, backends: 4, affinity_seconds: 3600, ..Service::default() };
    node.service_with(CLUSTER_IP, 80, TCP, service, &backends);
    let to = |node: &mut Bench, client: Ipv4Addr, port| {
        ends(&node.run("from_pod", &tcp((client, port), VIRTUAL, SYN).frame()).bytes).1
    };
    let (a, b) = (to(&mut node, A.ip, 1), to(&mut node, B.ip, 1));
    assert_ne!(a, b, "two clients take turns");
    for port in 2..20 {
        assert_eq!(to(&mut node, A.ip, port), a);
        assert_eq!(to(&mut node, B.ip, port), b);
    }
    // The first slot gets another backend.
    let replaced = (Ipv4Addr::new(10, 244, 2, 99), 8080);
    node.service_with(CLUSTER_IP, 80, TCP, service, &[replaced, backends[1], backends[2], backends[3]]);
    assert_ne!(to(&mut node, A.ip, 30), a);
    assert_eq!(to(&mut node, B.ip, 30), b);
}

#[test]
fn a_service_without_backends_refuses_tcp_with_a_reset() {
    let mut node = node_with(&[]);
    let out = node.run("from_pod", &tcp_with(CLIENT, VIRTUAL, SYN, b"").frame());
    assert_eq!(out.verdict, REDIRECT);
    assert_sums(&out.bytes);
    assert_eq!(ends(&out.bytes), (VIRTUAL, CLIENT));
    assert_eq!((out.bytes.len(), &out.bytes[..12]), (54, &[FROM_MAC, TO_MAC].concat()[..]));
    let segment = &out.bytes[34..];
    assert_eq!(segment[4..12], [0, 0, 0, 0, 0, 0, 0x03, 0xe9], "acknowledges the SYN: 1000 + 1");
    assert_eq!(segment[12..14], [0x50, RST | ACK]);
    // In the middle of a connection: RFC 9293 takes the sequence number from the acknowledgement.
    let out = node.run("from_pod", &tcp_with(CLIENT, VIRTUAL, ACK, b"late data").frame());
    assert_sums(&out.bytes);
    assert_eq!(out.bytes[38..42], 2000u32.to_be_bytes());
    assert_eq!(out.bytes[47], RST);
    assert_eq!(node.all_drops(), [(Reason::NoBackend, 2)]);
    // A reset is not answered with a reset.
    assert_eq!(node.run("from_pod", &tcp(CLIENT, VIRTUAL, RST).frame()).verdict, DROP);
}

#[test]
fn a_service_without_backends_refuses_udp_with_port_unreachable() {
    let mut node = node_with(&[]);
    let asked = udp(CLIENT, VIRTUAL, b"a question that is longer than eight bytes").frame();
    let out = node.run("from_pod", &asked);
    assert_eq!(out.verdict, REDIRECT);
    assert_sums(&out.bytes);
    assert_eq!(out.bytes.len(), 14 + 20 + 8 + 28);
    assert_eq!(out.bytes[23], ICMP);
    assert_eq!(out.bytes[26..34], [CLUSTER_IP.octets(), A.ip.octets()].concat());
    assert_eq!(out.bytes[34..36], [3, 3]);
    assert_eq!(out.bytes[42..70], asked[14..42], "quotes what was sent");
    // The shortest datagram is shorter than its answer.
    let out = node.run("from_pod", &udp(CLIENT, VIRTUAL, b"").frame());
    assert_eq!((out.verdict, out.bytes.len()), (REDIRECT, 70));
    assert_sums(&out.bytes);
}

#[test]
fn another_protocol_or_port_of_a_cluster_ip_is_no_service() {
    let mut node = node_with(&[(B.ip, 8080)]);
    node.expect_drop("from_pod", &tcp(CLIENT, (CLUSTER_IP, 81), SYN).frame(), Reason::NoService);
    node.expect_drop("from_pod", &echo(A.ip, CLUSTER_IP, true, 1).frame(), Reason::NoService);
}

#[test]
fn two_services_with_one_backend_do_not_mix_their_answers() {
    let backend = (B.ip, 8080);
    let second = (Ipv4Addr::new(10, 96, 0, 11), 80);
    let mut node = node_with(&[backend]);
    node.service(second.0, second.1, TCP, 9, &[backend, (REMOTE, 8080)]);
    assert_eq!(ends(&node.run("from_pod", &tcp(CLIENT, VIRTUAL, SYN).frame()).bytes).1, backend);
    // The same client port, to the other service: the only free pair of ends is the other backend's.
    assert_eq!(ends(&node.run("from_pod", &tcp(CLIENT, second, SYN).frame()).bytes).1, (REMOTE, 8080));
    // And past both services, straight to the backend.
    node.expect_drop("from_pod", &tcp(CLIENT, backend, SYN).frame(), Reason::NatExhausted);
}
