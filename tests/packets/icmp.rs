//! ICMP errors find their flow, in both directions and through every translation.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use std::net::Ipv4Addr;

const CLIENT: End = (A.ip, 40000);
const VIRTUAL: End = (CLUSTER_IP, 80);
const PORT_UNREACHABLE: (u8, u8) = (3, 3);
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);

#[test]
fn an_error_passes_with_its_flow_and_not_without() {
    let mut node = Bench::new();
    node.endpoint(&A, |a| a.ingress_ruleset = 5);
    let question = udp(CLIENT, (B.ip, 53), b"?").frame();
    let refusal = error(B.ip, A.ip, 3, 3, &question);
    node.expect_drop("from_pod", &refusal.frame(), Reason::PolicyIngress);
    node.run("from_pod", &question);
    node.expect("from_pod", &refusal.frame(), REDIRECT, &refusal.to_pod(&A));
}

#[test]
fn a_pod_cannot_make_errors_about_the_flows_of_others() {
    let mut node = Bench::new();
    node.endpoint(&A, |a| a.ingress_ruleset = 5);
    let question = udp(CLIENT, (REMOTE, 53), b"?").frame();
    node.run("from_pod", &question);
    node.expect_drop("from_pod", &error(B.ip, A.ip, 3, 3, &question).frame(), Reason::PolicyIngress);
}

#[test]
fn a_backends_error_comes_from_the_service() {
    let mut node = Bench::new();
    node.service(CLUSTER_IP, 80, UDP, 3, &[(B.ip, 8080)]);
    let asked = udp(CLIENT, VIRTUAL, b"?").frame();
    let seen = udp(CLIENT, (B.ip, 8080), b"?").frame();
    node.run("from_pod", &asked);
    let (kind, code) = PORT_UNREACHABLE;
    let out = node.run("from_pod", &error(B.ip, A.ip, kind, code, &seen).frame());
    assert_eq!(out.verdict, REDIRECT);
    assert_quotes(&out.bytes, CLUSTER_IP, A.ip, &asked);
    assert_eq!(out.bytes[..6], A.mac);
}

#[test]
fn a_clients_error_about_an_answer_reaches_the_backend() {
    let mut node = Bench::new();
    node.service(CLUSTER_IP, 80, UDP, 3, &[(B.ip, 8080)]);
    node.run("from_pod", &udp(CLIENT, VIRTUAL, b"?").frame());
    let answered = udp((B.ip, 8080), CLIENT, b"!").frame();
    let seen = node.run("from_pod", &answered).bytes;
    let out = node.run("from_pod", &error(A.ip, CLUSTER_IP, 3, 3, &seen).frame());
    assert_eq!(out.verdict, REDIRECT);
    assert_quotes(&out.bytes, A.ip, B.ip, &answered);
    assert_eq!(out.bytes[..6], B.mac);
}

#[test]
fn errors_about_masqueraded_packets_reach_the_pod() {
    for packet in
        [udp(CLIENT, (OUTSIDE, 53), b"?"), tcp(CLIENT, (OUTSIDE, 80), SYN), echo(A.ip, OUTSIDE, true, 7)]
    {
        let mut node = Bench::new();
        node.endpoint(&A, |a| a.ingress_ruleset = 5);
        let sent = packet.frame();
        node.run("from_pod", &sent);
        let on_wire = node.run("to_uplink", &sent).bytes;
        let router = Ipv4Addr::new(192, 168, 7, 254);
        let (kind, code) = FRAGMENTATION_NEEDED;
        let out = node.run("from_uplink", &error(router, NODE, kind, code, &on_wire).frame());
        assert_eq!(out.verdict, REDIRECT, "{:?}", node.all_drops());
        assert_quotes(&out.bytes, router, A.ip, &sent);
    }
}

#[test]
fn a_pods_error_about_a_masqueraded_answer_hides_the_pod() {
    let mut node = Bench::new();
    let sent = udp(CLIENT, (OUTSIDE, 53), b"?").frame();
    node.run("from_pod", &sent);
    let src = ends(&node.run("to_uplink", &sent).bytes).0;
    let answer = udp((OUTSIDE, 53), src, b"!").frame();
    let seen = node.run("from_uplink", &answer).bytes;
    let refusal = error(A.ip, OUTSIDE, 3, 3, &seen).frame();
    node.expect("from_pod", &refusal, NEXT, &refusal);
    let out = node.run("to_uplink", &refusal);
    assert_eq!(out.verdict, NEXT);
    assert_quotes(&out.bytes, NODE, OUTSIDE, &answer);
}

#[test]
fn errors_between_a_node_ports_client_and_its_backend_are_translated_both_ways() {
    let (client, asked, backend) = ((OUTSIDE, 50000), (NODE, 30080), (B.ip, 8080));
    let mut node = Bench::new();
    node.service(Ipv4Addr::UNSPECIFIED, 30080, UDP, 8, &[backend]);
    let question = udp(client, asked, b"?").frame();
    let seen = node.run("from_uplink", &question).bytes;
    // The backend's port is closed after all.
    let refusal = error(B.ip, OUTSIDE, 3, 3, &seen).frame();
    let out = node.run("from_pod", &refusal);
    assert_eq!((out.verdict, &out.bytes), (NEXT, &refusal), "the stack routes it with the pod's address");
    let out = node.run("to_uplink", &refusal);
    assert_eq!(out.verdict, NEXT);
    assert_quotes(&out.bytes, NODE, OUTSIDE, &question);
    // A router on the way to the client cannot forward the answer whole.
    let answer = udp(backend, client, &[1; 100]).frame();
    let on_wire = node.run("to_uplink", &answer).bytes;
    let router = Ipv4Addr::new(192, 168, 7, 254);
    let out = node.run("from_uplink", &error(router, NODE, 3, 4, &on_wire).frame());
    assert_eq!(out.verdict, REDIRECT);
    assert_quotes(&out.bytes, router, B.ip, &answer);
}

#[test]
fn errors_for_the_node_itself_stay_with_the_node() {
    let mut node = Bench::new();
    let own = udp((NODE, 50000), (OUTSIDE, 53), b"?").frame();
    let refusal = error(OUTSIDE, NODE, 3, 3, &own).frame();
    node.expect("from_uplink", &refusal, NEXT, &refusal);
    // What it quotes was never sent by the node.
    let foreign = udp((REMOTE, 50000), (OUTSIDE, 53), b"?").frame();
    let refusal = error(OUTSIDE, NODE, 3, 3, &foreign).frame();
    node.expect("from_uplink", &refusal, NEXT, &refusal);
}

/// Right checksums, these outer addresses, and a quotation of `frame` (but for a quoted transport checksum,
/// which translation leaves alone).
#[track_caller]
fn assert_quotes(error: &[u8], src: Ipv4Addr, dst: Ipv4Addr, frame: &[u8]) {
    assert_sums(error);
    assert_eq!(error[26..34], [src.octets(), dst.octets()].concat(), "outer addresses");
    let (quoted, original) = (&error[42..70], &frame[14..42]);
    assert_eq!(quoted[..22], original[..22], "quoted header and source port, or ICMP type");
    let second = if original[9] == ICMP { 24..26 } else { 22..24 };
    assert_eq!(quoted[second.clone()], original[second], "quoted destination port or identifier");
}
