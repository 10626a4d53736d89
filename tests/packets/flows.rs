//! Pod to pod, node and outside, without Services: where packets go, and what conntrack makes of them.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;

const CLIENT: End = (A.ip, 40000);
const SERVER: End = (B.ip, 80);

fn only_flow(node: &Bench) -> (CtKey, CtEntry) {
    let flows = node.all::<CtKey, CtEntry>("CONNTRACK");
    assert_eq!(flows.len(), 1, "{flows:?}");
    flows[0]
}

#[test]
fn local_pods_reach_each_other_by_redirect_peer() {
    let mut node = Bench::new();
    for (there, back) in [
        (tcp(CLIENT, SERVER, SYN), tcp(SERVER, CLIENT, SYN | ACK)),
        (udp(CLIENT, SERVER, b"question"), udp(SERVER, CLIENT, b"answer")),
        (echo(A.ip, B.ip, true, 7), echo(B.ip, A.ip, false, 7)),
        (other(A.ip, B.ip, 47, b"GRE"), other(B.ip, A.ip, 47, b"GRE")),
    ] {
        node.expect("from_pod", &there.frame(), REDIRECT, &there.to_pod(&B));
        node.expect("from_pod", &back.frame(), REDIRECT, &back.to_pod(&A));
    }
    assert_eq!(node.metric(Metric::ToLocalPod), 8);
    assert_eq!(node.metric(Metric::FlowOpened), 4, "answers belong to the flow they answer");
    assert_eq!(node.all_drops(), []);
}

#[test]
fn pods_of_other_nodes_are_reached_by_the_overlay() {
    let mut node = Bench::new();
    let there = tcp(CLIENT, (REMOTE, 80), SYN).frame();
    node.expect("from_pod", &there, REDIRECT, &there);
    assert_eq!(node.metric(Metric::ToOverlay), 1);
    node.expect("to_overlay", &there, NEXT, &there);
}

#[test]
fn native_routing_leaves_other_nodes_pods_to_the_stack() {
    let mut node = Bench::new();
    node.configure(Config { flags: Config::MASQUERADE, ..config() });
    let there = tcp(CLIENT, (REMOTE, 80), SYN).frame();
    node.expect("from_pod", &there, NEXT, &there);
    node.expect("to_uplink", &there, NEXT, &there);
}

#[test]
fn the_node_and_the_outside_are_reached_by_the_stack() {
    let mut node = Bench::new();
    for dst in [NODE, GATEWAY, OUTSIDE, OTHER_NODE] {
        let there = tcp(CLIENT, (dst, 443), SYN).frame();
        node.expect("from_pod", &there, NEXT, &there);
    }
    assert_eq!(node.metric(Metric::ToStack), 4);
}

#[test]
fn arp_passes_for_the_pods_own_address_only() {
    let mut node = Bench::new();
    let arp = |sender: [u8; 4]| {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(A.mac);
        arp.extend(sender);
        arp.extend([0; 6]);
        arp.extend(POD_GATEWAY.octets());
        ethernet(0x0806, &arp)
    };
    let own = arp(A.ip.octets());
    let out = node.run("from_pod", &own);
    assert_eq!((out.verdict, out.bytes), (NEXT, own));
    node.expect_drop("from_pod", &arp([10, 244, 1, 99]), Reason::SpoofedSource);
    node.expect_drop("from_pod", &arp(A.ip.octets())[..30], Reason::Malformed);
    let out = node.run("to_pod", &arp(GATEWAY.octets()));
    assert_eq!(out.verdict, NEXT);
}

#[test]
fn tcp_state_follows_the_packets_of_both_ends() {
    let mut node = Bench::new();
    let steps = [
        (tcp(CLIENT, SERVER, SYN), CtEntry::NEW, CtEntry::TCP_NEW_SECONDS),
        (tcp(SERVER, CLIENT, SYN | ACK), CtEntry::ESTABLISHED, CtEntry::TCP_ESTABLISHED_SECONDS),
        (tcp(CLIENT, SERVER, ACK), CtEntry::ESTABLISHED, CtEntry::TCP_ESTABLISHED_SECONDS),
        (tcp(CLIENT, SERVER, FIN | ACK), CtEntry::ESTABLISHED, CtEntry::TCP_ESTABLISHED_SECONDS),
        (tcp(SERVER, CLIENT, FIN | ACK), CtEntry::CLOSED, CtEntry::TCP_CLOSED_SECONDS),
        (tcp(CLIENT, SERVER, SYN), CtEntry::NEW, CtEntry::TCP_NEW_SECONDS),
        (tcp(SERVER, CLIENT, RST | ACK), CtEntry::CLOSED, CtEntry::TCP_CLOSED_SECONDS),
    ];
    for (step, (packet, state, seconds)) in steps.iter().enumerate() {
        let before = uptime();
        assert_eq!(node.run("from_pod", &packet.frame()).verdict, REDIRECT);
        let (_, flow) = only_flow(&node);
        assert_eq!(flow.state, *state, "state after step {step}");
        let left = flow.expires - before;
        assert!((*seconds..=seconds + 2).contains(&left), "expires after {left} s in step {step}");
    }
    assert_eq!(node.metric(Metric::FlowOpened), 2, "a SYN after the end opens the flow anew");
}

/// Seconds of the clock that the programs read.
pub fn uptime() -> u32 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that lives until the call returns.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    assert_eq!(done, 0, "the monotonic clock is readable");
    now.tv_sec as u32
}

#[test]
fn datagram_flows_live_longer_once_answered() {
    let mut node = Bench::new();
    let before = uptime();
    node.run("from_pod", &udp(CLIENT, SERVER, b"?").frame());
    let (_, flow) = only_flow(&node);
    assert_eq!(flow.state, CtEntry::NEW);
    assert!(flow.expires - before <= CtEntry::OTHER_NEW_SECONDS + 2);
    node.run("from_pod", &udp(SERVER, CLIENT, b"!").frame());
    let (_, flow) = only_flow(&node);
    assert_eq!(flow.state, CtEntry::ESTABLISHED);
    assert!(flow.expires - before >= CtEntry::OTHER_ESTABLISHED_SECONDS);
}

#[test]
fn both_directions_share_one_entry_whichever_end_is_greater() {
    for (client, server) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
        let mut node = Bench::new();
        node.run("from_pod", &tcp(client, server, SYN).frame());
        node.run("from_pod", &tcp(server, client, SYN | ACK).frame());
        let (key, flow) = only_flow(&node);
        let mut expected = CtKey::default();
        let high =
            expected.set(&client.0.into(), Be16::new(client.1), &server.0.into(), Be16::new(server.1), TCP);
        assert_eq!(key, expected);
        assert_eq!(flow.flags & CtEntry::HIGH_OPENED != 0, high);
        assert_eq!(flow.state, CtEntry::ESTABLISHED);
    }
}

#[test]
fn an_expired_flow_counts_as_absent() {
    let mut node = Bench::new();
    node.run("from_pod", &tcp(CLIENT, SERVER, SYN).frame());
    let (key, flow) = only_flow(&node);
    node.put("CONNTRACK", key, CtEntry { expires: uptime() - 1, ..flow });
    node.endpoint(&A, |a| a.ingress_ruleset = 5);
    node.expect_drop("from_pod", &tcp(SERVER, CLIENT, SYN | ACK).frame(), Reason::PolicyIngress);
}

#[test]
fn gre_and_other_protocols_without_ports_are_tracked_by_address() {
    let mut node = Bench::new();
    node.endpoint(&A, |a| a.ingress_ruleset = 5);
    node.expect_drop("from_pod", &other(B.ip, A.ip, 47, b"").frame(), Reason::PolicyIngress);
    assert_eq!(node.run("from_pod", &other(A.ip, B.ip, 47, b"").frame()).verdict, REDIRECT);
    assert_eq!(node.run("from_pod", &other(B.ip, A.ip, 47, b"").frame()).verdict, REDIRECT);
}

#[test]
fn a_wrong_checksum_is_neither_checked_nor_mended() {
    let mut node = Bench::new();
    let mut frame = tcp(CLIENT, SERVER, SYN).frame();
    frame[14 + 20 + 16] ^= 0x55;
    frame[14 + 10] ^= 0x55;
    let out = node.run("from_pod", &frame);
    assert_eq!(out.verdict, REDIRECT);
    assert_eq!(out.bytes[14..], frame[14..]);
}

#[test]
fn ip_options_are_skipped_over() {
    let mut node = Bench::new();
    let mut packet = tcp(CLIENT, SERVER, SYN);
    packet.options = vec![1; 8];
    node.expect("from_pod", &packet.frame(), REDIRECT, &packet.to_pod(&B));
    let flow = only_flow(&node).0;
    assert!(flow.low_port == Be16::new(80) || flow.high_port == Be16::new(80));
}

#[test]
fn link_padding_after_the_packet_is_no_part_of_it() {
    let mut node = Bench::new();
    let mut frame = tcp(CLIENT, SERVER, SYN).frame();
    frame.extend([0xee; 6]);
    assert_eq!(node.run("from_pod", &frame).verdict, REDIRECT);
}

#[test]
fn what_comes_from_outside_for_a_pod_is_delivered() {
    let mut node = Bench::new();
    let packet = tcp((OUTSIDE, 5000), SERVER, SYN);
    node.expect("from_uplink", &packet.frame(), REDIRECT, &packet.to_pod(&B));
    let back = tcp(SERVER, (OUTSIDE, 5000), SYN | ACK).frame();
    node.expect("from_pod", &back, NEXT, &back);
    // The answer keeps the pod's address, as it was asked by it.
    node.expect("to_uplink", &back, NEXT, &back);
}

#[test]
fn the_stack_reaches_pods_through_their_hook() {
    let mut node = Bench::new();
    let probe = tcp((NODE, 50000), SERVER, SYN).frame();
    node.expect("to_pod", &probe, NEXT, &probe);
    let out = node.run_as("to_pod", &tcp((OUTSIDE, 5000), SERVER, SYN).frame(), LO, 1);
    assert_eq!(out.verdict, NEXT);
}

#[test]
fn traffic_of_the_node_itself_passes_the_uplink_untouched() {
    let mut node = Bench::new();
    let out = tcp((NODE, 50000), (OUTSIDE, 443), SYN).frame();
    node.expect("to_uplink", &out, NEXT, &out);
    let back = tcp((OUTSIDE, 443), (NODE, 50000), SYN | ACK).frame();
    node.expect("from_uplink", &back, NEXT, &back);
    let vxlan = udp((OTHER_NODE, 5555), (NODE, VXLAN_PORT), b"inner").frame();
    node.expect("from_uplink", &vxlan, NEXT, &vxlan);
    let mut broken = out.clone();
    broken[14] = 0x41;
    assert_eq!(node.run("from_uplink", &broken).verdict, NEXT);
    assert_eq!(node.run("to_uplink", &broken).verdict, NEXT);
    assert_eq!(node.run("from_uplink", &ethernet(0x86dd, &[0; 60])).verdict, NEXT);
    assert_eq!(node.all_drops(), []);
}
