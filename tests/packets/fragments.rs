//! IPv4 datagrams in pieces.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;

const MORE: u16 = 0x2000;

/// A UDP datagram in two pieces.
fn pieces(from: End, to: End) -> (Packet, Packet) {
    let whole = udp(from, to, &[7; 40]);
    let first = Packet { fragment: MORE, id: 99, body: whole.body[..24].to_vec(), ..whole.clone() };
    let second = Packet { fragment: 3, id: 99, body: whole.body[24..].to_vec(), ..whole };
    (first, second)
}

#[test]
fn later_pieces_follow_the_first() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        let (first, second) = pieces(client, (net.b.ip, 80));
        node.expect_drop("from_pod", &second.frame(), Reason::FragmentUnknown);
        for piece in [&first, &second] {
            let out = node.run("from_pod", &piece.frame());
            assert_eq!((out.verdict, out.bytes), (REDIRECT, piece.to_pod(&net.b)));
        }
        assert_eq!(node.metric(Metric::FlowOpened), 1);
    }
}

#[test]
fn pieces_are_translated_together_and_the_whole_has_a_right_checksum() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        node.service(net.cluster_ip, 80, UDP, 3, &[(net.b.ip, 8080)]);
        let (first, second) = pieces(client, (net.cluster_ip, 80));
        let (want_first, want_second) = pieces(client, (net.b.ip, 8080));
        for (piece, want) in [(first, want_first), (second, want_second)] {
            let out = node.run("from_pod", &piece.frame());
            assert_eq!((out.verdict, out.bytes), (REDIRECT, want.to_pod(&net.b)));
        }
    }
}

#[test]
fn pieces_are_masqueraded_together() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        let (first, second) = pieces(client, (net.outside, 53));
        let src = ends(&node.run("to_uplink", &first.frame()).bytes).0;
        let (want_first, want_second) = pieces(src, (net.outside, 53));
        assert_eq!(node.run("to_uplink", &first.frame()).bytes, want_first.frame());
        assert_eq!(node.run("to_uplink", &second.frame()).bytes, want_second.frame());
        node.expect_drop("to_uplink", &Packet { id: 100, ..second }.frame(), Reason::FragmentUnknown);
    }
}

#[test]
fn policy_judges_later_pieces_by_the_ports_of_the_first() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        node.endpoint(&net.b, |b| b.ingress_ruleset = 7);
        node.rule(7, RuleKey::FULL, (0, UDP, 80), 70, true);
        let (first, second) = pieces(client, (net.b.ip, 81));
        node.expect_drop("from_pod", &first.frame(), Reason::PolicyIngress);
        node.expect_drop("from_pod", &second.frame(), Reason::PolicyIngress);
        let (first, second) = pieces(client, (net.b.ip, 80));
        let (first, second) = (Packet { id: 5, ..first }, Packet { id: 5, ..second });
        assert_eq!(node.run("from_pod", &first.frame()).verdict, REDIRECT);
        assert_eq!(node.run("from_pod", &second.frame()).verdict, REDIRECT);
    }
}

#[test]
fn pieces_that_could_rewrite_a_judged_header_are_malformed() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        let whole = tcp_with(client, (net.b.ip, 80), SYN, &[0; 40]);
        for offset in [1, 2] {
            let piece = Packet {
                fragment: offset,
                body: whole.body[usize::from(offset) * 8..].to_vec(),
                ..whole.clone()
            };
            node.expect_drop("from_pod", &piece.frame(), Reason::Malformed);
        }
        let tiny = Packet { fragment: MORE, body: whole.body[..16].to_vec(), ..whole.clone() };
        node.expect_drop("from_pod", &tiny.frame(), Reason::Malformed);
        let empty = Packet { fragment: 5, body: vec![], ..whole };
        node.expect_drop("from_pod", &empty.frame(), Reason::Malformed);
    }
}

#[test]
fn a_first_piece_is_forgotten_after_a_while() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        let (first, second) = pieces(client, (net.b.ip, 80));
        node.run("from_pod", &first.frame());
        let known = node.all::<FragmentKey, FragmentValue>("FRAGMENTS");
        let (key, value) = known[0];
        node.put("FRAGMENTS", key, FragmentValue { expires: crate::flows::uptime() - 1, ..value });
        node.expect_drop("from_pod", &second.frame(), Reason::FragmentUnknown);
    }
}

#[test]
fn the_nodes_own_pieces_are_left_to_the_stack() {
    for net in NETS {
        let mut node = Bench::new();
        let (_, second) = pieces((net.outside, 53), (net.node, 50000));
        assert_eq!(node.run("from_uplink", &second.frame()).verdict, NEXT);
        let (_, second) = pieces((net.node, 50000), (net.outside, 53));
        assert_eq!(node.run("to_uplink", &second.frame()).verdict, NEXT);
        assert_eq!(node.all_drops(), []);
    }
}
