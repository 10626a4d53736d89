//! NodePorts and external addresses from outside, and the way back.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use std::net::Ipv4Addr;

const CLIENT: End = (OUTSIDE, 50000);
const ASKED: End = (NODE, 30080);

fn node_with(backends: &[End]) -> Bench {
    let mut node = Bench::new();
    node.service(Ipv4Addr::UNSPECIFIED, 30080, TCP, 8, backends);
    node.service(Ipv4Addr::UNSPECIFIED, 30080, UDP, 9, backends);
    node
}

#[test]
fn a_local_backend_sees_the_client_and_answers_as_the_node() {
    let backend = (B.ip, 8080);
    let mut node = node_with(&[backend]);
    for (there, seen, back, answered) in [
        (
            tcp(CLIENT, ASKED, SYN),
            tcp(CLIENT, backend, SYN),
            tcp(backend, CLIENT, SYN | ACK),
            tcp(ASKED, CLIENT, SYN | ACK),
        ),
        (
            udp(CLIENT, ASKED, b"?"),
            udp(CLIENT, backend, b"?"),
            udp(backend, CLIENT, b"!"),
            udp(ASKED, CLIENT, b"!"),
        ),
    ] {
        node.expect("from_uplink", &there.frame(), REDIRECT, &seen.to_pod(&B));
        // The stack routes the answer; only then does it get the node's address.
        node.expect("from_pod", &back.frame(), NEXT, &back.frame());
        node.expect("to_uplink", &back.frame(), NEXT, &answered.frame());
        node.expect("from_uplink", &there.frame(), REDIRECT, &seen.to_pod(&B));
    }
    assert_eq!(node.all_drops(), []);
}

#[test]
fn a_remote_backend_sees_the_gateway_and_its_answer_comes_back_through_this_node() {
    let backend = (REMOTE, 8080);
    let mut node = node_with(&[backend]);
    let out = node.run("from_uplink", &tcp(CLIENT, ASKED, SYN).frame());
    let (src, dst) = ends(&out.bytes);
    assert_eq!((out.verdict, src.0, dst), (REDIRECT, GATEWAY, backend));
    assert!((Config::SNAT_PORT_MIN..=Config::SNAT_PORT_MAX).contains(&src.1));
    assert_sums(&out.bytes);
    assert_eq!(node.metric(Metric::ToOverlay), 1);
    let again = node.run("from_uplink", &tcp(CLIENT, ASKED, ACK).frame());
    assert_eq!(ends(&again.bytes), (src, dst), "the same port for the whole connection");
    assert_eq!(node.metric(Metric::FlowOpened), 1);
}

#[test]
fn a_backend_in_another_nodes_own_network_is_reached_and_answers_by_the_uplink() {
    let backend = (OTHER_NODE, 8080);
    let mut node = node_with(&[backend]);
    let out = node.run("from_uplink", &tcp(CLIENT, ASKED, SYN).frame());
    let (src, dst) = ends(&out.bytes);
    assert_eq!((out.verdict, src.0, dst), (REDIRECT, NODE, backend));
    node.expect("to_uplink", &out.bytes, NEXT, &out.bytes);
    node.expect(
        "from_uplink",
        &tcp(backend, src, SYN | ACK).frame(),
        REDIRECT,
        &tcp(ASKED, CLIENT, SYN | ACK).frame(),
    );
    assert_eq!(node.metric(Metric::ToClient), 1);
}

#[test]
fn a_backend_in_this_nodes_own_network_is_reached_and_answers_by_the_stack() {
    let backend = (NODE, 8080);
    let mut node = node_with(&[backend]);
    node.expect("from_uplink", &tcp(CLIENT, ASKED, SYN).frame(), NEXT, &tcp(CLIENT, backend, SYN).frame());
    node.expect(
        "to_uplink",
        &tcp(backend, CLIENT, SYN | ACK).frame(),
        NEXT,
        &tcp(ASKED, CLIENT, SYN | ACK).frame(),
    );
}

#[test]
fn ports_for_remote_backends_are_each_claimed_once() {
    let mut node = node_with(&[(REMOTE, 8080)]);
    let mut config = config();
    (config.snat_port_min, config.snat_port_max) = (20000, 20007);
    node.configure(config);
    let mut ports = std::collections::BTreeSet::new();
    let mut exhausted = 0;
    for port in 0..64 {
        let out = node.run("from_uplink", &tcp((OUTSIDE, 1000 + port), ASKED, SYN).frame());
        match out.verdict {
            REDIRECT => assert!(ports.insert(ends(&out.bytes).0.1), "a port was given twice"),
            _ => exhausted += 1,
        }
    }
    assert!(ports.iter().all(|port| (20000..=20007).contains(port)));
    assert_eq!(node.drops(Reason::NatExhausted).packets, exhausted);
    assert!(exhausted >= 56, "eight ports serve eight clients at most");
}

#[test]
fn policy_stands_between_outside_and_backend() {
    let backend = (B.ip, 8080);
    let mut node = node_with(&[backend]);
    node.endpoint(&B, |b| b.ingress_ruleset = 7);
    node.expect_drop("from_uplink", &tcp(CLIENT, ASKED, SYN).frame(), Reason::PolicyIngress);
    node.identity(OUTSIDE, 32, 40);
    node.rule(7, RuleKey::FULL, (40, TCP, 8080), 70, true);
    assert_eq!(node.run("from_uplink", &tcp(CLIENT, ASKED, SYN).frame()).verdict, REDIRECT);
}

#[test]
fn an_external_address_is_a_service_like_any_other() {
    let external = (Ipv4Addr::new(198, 51, 100, 80), 443);
    let mut node = Bench::new();
    node.service(external.0, external.1, TCP, 8, &[(B.ip, 8443)]);
    node.expect(
        "from_uplink",
        &tcp(CLIENT, external, SYN).frame(),
        REDIRECT,
        &tcp(CLIENT, (B.ip, 8443), SYN).to_pod(&B),
    );
}

#[test]
fn pods_reach_the_node_port_of_their_own_node() {
    let backend = (B.ip, 8080);
    let mut node = node_with(&[backend]);
    let mut port = 40000;
    for asked in [ASKED, (GATEWAY, 30080)] {
        port += 1;
        let client = (A.ip, port);
        node.expect(
            "from_pod",
            &tcp(client, asked, SYN).frame(),
            REDIRECT,
            &tcp(client, backend, SYN).to_pod(&B),
        );
        node.expect(
            "from_pod",
            &tcp(backend, client, SYN | ACK).frame(),
            REDIRECT,
            &tcp(asked, client, SYN | ACK).to_pod(&A),
        );
    }
}

#[test]
fn without_backends_the_client_outside_is_refused_at_once() {
    let mut node = node_with(&[]);
    let out = node.run("from_uplink", &tcp(CLIENT, ASKED, SYN).frame());
    assert_eq!((out.verdict, ends(&out.bytes)), (REDIRECT, (ASKED, CLIENT)));
    assert_sums(&out.bytes);
    let out = node.run("from_uplink", &udp(CLIENT, ASKED, b"?").frame());
    assert_eq!((out.verdict, out.bytes[23]), (REDIRECT, ICMP));
    assert_sums(&out.bytes);
    assert_eq!(node.all_drops(), [(Reason::NoBackend, 2)]);
}

#[test]
fn what_a_bridge_flooded_to_this_node_is_left_to_its_receiver() {
    let mut node = node_with(&[(B.ip, 8080)]);
    let mut frame = tcp(CLIENT, ASKED, SYN).frame();
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    node.expect("from_uplink", &frame, NEXT, &frame);
}
