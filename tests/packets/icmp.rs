//! ICMP errors find their flow, in both directions and through every translation.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use std::net::IpAddr;

const PORT_UNREACHABLE: (u8, u8) = (3, 3);
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);

#[test]
fn an_error_passes_with_its_flow_and_not_without() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        node.endpoint(&net.a, |a| a.ingress_ruleset = 5);
        let question = udp(client, (net.b.ip, 53), b"?").frame();
        let refusal = error(net.b.ip, net.a.ip, 3, 3, &question);
        node.expect_drop("from_pod", &refusal.frame(), Reason::PolicyIngress);
        node.run("from_pod", &question);
        node.expect("from_pod", &refusal.frame(), REDIRECT, &refusal.to_pod(&net.a));
    }
}

#[test]
fn a_pod_cannot_make_errors_about_the_flows_of_others() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        node.endpoint(&net.a, |a| a.ingress_ruleset = 5);
        let question = udp(client, (net.remote, 53), b"?").frame();
        node.run("from_pod", &question);
        node.expect_drop(
            "from_pod",
            &error(net.b.ip, net.a.ip, 3, 3, &question).frame(),
            Reason::PolicyIngress,
        );
    }
}

#[test]
fn a_backends_error_comes_from_the_service() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let mut node = Bench::new();
        node.service(net.cluster_ip, 80, UDP, 3, &[(net.b.ip, 8080)]);
        let asked = udp(client, virtual_end, b"?").frame();
        let seen = udp(client, (net.b.ip, 8080), b"?").frame();
        node.run("from_pod", &asked);
        let (kind, code) = PORT_UNREACHABLE;
        let out = node.run("from_pod", &error(net.b.ip, net.a.ip, kind, code, &seen).frame());
        assert_eq!(out.verdict, REDIRECT);
        assert_quotes(&out.bytes, net.cluster_ip, net.a.ip, &asked);
        assert_eq!(out.bytes[..6], net.a.mac);
    }
}

#[test]
fn a_clients_error_about_an_answer_reaches_the_backend() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let virtual_end: End = (net.cluster_ip, 80);
        let mut node = Bench::new();
        node.service(net.cluster_ip, 80, UDP, 3, &[(net.b.ip, 8080)]);
        node.run("from_pod", &udp(client, virtual_end, b"?").frame());
        let answered = udp((net.b.ip, 8080), client, b"!").frame();
        let seen = node.run("from_pod", &answered).bytes;
        let out = node.run("from_pod", &error(net.a.ip, net.cluster_ip, 3, 3, &seen).frame());
        assert_eq!(out.verdict, REDIRECT);
        assert_quotes(&out.bytes, net.a.ip, net.b.ip, &answered);
        assert_eq!(out.bytes[..6], net.b.mac);
    }
}

#[test]
fn errors_about_masqueraded_packets_reach_the_pod() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        for packet in [
            udp(client, (net.outside, 53), b"?"),
            tcp(client, (net.outside, 80), SYN),
            echo(net.a.ip, net.outside, true, 7),
        ] {
            let mut node = Bench::new();
            node.endpoint(&net.a, |a| a.ingress_ruleset = 5);
            let sent = packet.frame();
            node.run("from_pod", &sent);
            let on_wire = node.run("to_uplink", &sent).bytes;
            let router = net.router;
            let (kind, code) = FRAGMENTATION_NEEDED;
            let out = node.run("from_uplink", &error(router, net.node, kind, code, &on_wire).frame());
            assert_eq!(out.verdict, REDIRECT, "{:?}", node.all_drops());
            assert_quotes(&out.bytes, router, net.a.ip, &sent);
        }
    }
}

#[test]
fn a_pods_error_about_a_masqueraded_answer_hides_the_pod() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        let sent = udp(client, (net.outside, 53), b"?").frame();
        node.run("from_pod", &sent);
        let src = ends(&node.run("to_uplink", &sent).bytes).0;
        let answer = udp((net.outside, 53), src, b"!").frame();
        let seen = node.run("from_uplink", &answer).bytes;
        let refusal = error(net.a.ip, net.outside, 3, 3, &seen).frame();
        node.expect("from_pod", &refusal, NEXT, &refusal);
        let out = node.run("to_uplink", &refusal);
        assert_eq!(out.verdict, NEXT);
        assert_quotes(&out.bytes, net.node, net.outside, &answer);
    }
}

#[test]
fn errors_between_a_node_ports_client_and_its_backend_are_translated_both_ways() {
    for net in NETS {
        let (client, asked, backend) = ((net.outside, 50000), (net.node, 30080), (net.b.ip, 8080));
        let mut node = Bench::new();
        node.service(net.any(), 30080, UDP, 8, &[backend]);
        let question = udp(client, asked, b"?").frame();
        let seen = node.run("from_uplink", &question).bytes;
        // The backend's port is closed after all.
        let refusal = error(net.b.ip, net.outside, 3, 3, &seen).frame();
        let out = node.run("from_pod", &refusal);
        assert_eq!((out.verdict, &out.bytes), (NEXT, &refusal), "the stack routes it with the pod's address");
        let out = node.run("to_uplink", &refusal);
        assert_eq!(out.verdict, NEXT);
        assert_quotes(&out.bytes, net.node, net.outside, &question);
        // A router on the way to the client cannot forward the answer whole.
        let answer = udp(backend, client, &[1; 100]).frame();
        let on_wire = node.run("to_uplink", &answer).bytes;
        let router = net.router;
        let out = node.run("from_uplink", &error(router, net.node, 3, 4, &on_wire).frame());
        assert_eq!(out.verdict, REDIRECT);
        assert_quotes(&out.bytes, router, net.b.ip, &answer);
    }
}

#[test]
fn errors_for_the_node_itself_stay_with_the_node() {
    for net in NETS {
        let mut node = Bench::new();
        let own = udp((net.node, 50000), (net.outside, 53), b"?").frame();
        let refusal = error(net.outside, net.node, 3, 3, &own).frame();
        node.expect("from_uplink", &refusal, NEXT, &refusal);
        // What it quotes was never sent by the node.
        let foreign = udp((net.remote, 50000), (net.outside, 53), b"?").frame();
        let refusal = error(net.outside, net.node, 3, 3, &foreign).frame();
        node.expect("from_uplink", &refusal, NEXT, &refusal);
    }
}

/// Right checksums, these outer addresses, and a quotation of `frame` (but for a quoted transport checksum,
/// which translation leaves alone).
#[track_caller]
fn assert_quotes(error: &[u8], src: IpAddr, dst: IpAddr, frame: &[u8]) {
    assert_sums(error);
    let outer = headers(error);
    assert_eq!((outer.src, outer.dst), (src, dst), "outer addresses");
    let header = l4_at(frame) - 14;
    let (quoted, original) = (&outer.body[8..], &frame[14..]);
    assert_eq!(quoted[..header + 2], original[..header + 2], "quoted header and source port, or ICMP type");
    let echo = headers(frame).proto == icmp_of(src);
    let second = if echo { header + 4..header + 6 } else { header + 2..header + 4 };
    assert_eq!(quoted[second.clone()], original[second], "quoted destination port or identifier");
}
