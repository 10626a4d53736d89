//! Pod to pod, node and outside, without Services: where packets go, and what conntrack makes of them.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;

fn only_flow(node: &Bench) -> (CtKey, CtEntry) {
    let flows = node.all::<CtKey, CtEntry>("CONNTRACK");
    assert_eq!(flows.len(), 1, "{flows:?}");
    flows[0]
}

#[test]
fn local_pods_reach_each_other_by_redirect_peer() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.b.ip, 80);
        let mut node = Bench::new();
        for (there, back) in [
            (tcp(client, server, SYN), tcp(server, client, SYN | ACK)),
            (udp(client, server, b"question"), udp(server, client, b"answer")),
            (echo(net.a.ip, net.b.ip, true, 7), echo(net.b.ip, net.a.ip, false, 7)),
            (other(net.a.ip, net.b.ip, 47, b"GRE"), other(net.b.ip, net.a.ip, 47, b"GRE")),
        ] {
            node.expect("from_pod", &there.frame(), REDIRECT, &there.to_pod(&net.b));
            node.expect("from_pod", &back.frame(), REDIRECT, &back.to_pod(&net.a));
        }
        assert_eq!(node.metric(Metric::ToLocalPod), 8);
        assert_eq!(node.metric(Metric::FlowOpened), 4, "answers belong to the flow they answer");
        assert_eq!(node.all_drops(), []);
    }
}

#[test]
fn pods_of_other_nodes_are_reached_by_the_overlay() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        let there = tcp(client, (net.remote, 80), SYN).frame();
        node.expect("from_pod", &there, REDIRECT, &there);
        assert_eq!(node.metric(Metric::ToOverlay), 1);
        node.expect("to_overlay", &there, NEXT, &there);
    }
}

#[test]
fn native_routing_sends_to_other_nodes_pods_as_they_are() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        node.configure(Config { flags: Config::MASQUERADE, ..config() });
        let there = tcp(client, (net.remote, 80), SYN).frame();
        node.expect("from_pod", &there, REDIRECT, &there);
        assert_eq!(node.metric(Metric::ToNode), 1);
        node.expect("to_uplink", &there, NEXT, &there);
        // Who is on no node that is known is on none that the stack knows.
        let there = tcp(client, (net.nowhere, 80), SYN).frame();
        node.expect("from_pod", &there, NEXT, &there);
    }
}

#[test]
fn the_node_and_the_outside_are_reached_by_the_stack() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let mut node = Bench::new();
        for dst in [net.node, net.gateway, net.outside, net.other_node] {
            let there = tcp(client, (dst, 443), SYN).frame();
            node.expect("from_pod", &there, NEXT, &there);
        }
        assert_eq!(node.metric(Metric::ToStack), 4);
    }
}

#[test]
fn arp_passes_for_the_pods_own_address_only() {
    let mut node = Bench::new();
    let arp = |sender: Vec<u8>| {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend(A.mac);
        arp.extend(sender);
        arp.extend([0; 6]);
        arp.extend(octets(V4.pod_gateway));
        ethernet(0x0806, &arp)
    };
    let own = arp(octets(A.ip));
    let out = node.run("from_pod", &own);
    assert_eq!((out.verdict, out.bytes), (NEXT, own));
    node.expect_drop("from_pod", &arp(vec![10, 244, 1, 99]), Reason::SpoofedSource);
    node.expect_drop("from_pod", &arp(octets(A.ip))[..30], Reason::Malformed);
    let out = node.run("to_pod", &arp(octets(GATEWAY)));
    assert_eq!(out.verdict, NEXT);
}

#[test]
fn tcp_state_follows_the_packets_of_both_ends() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.b.ip, 80);
        let mut node = Bench::new();
        let steps = [
            (tcp(client, server, SYN), CtEntry::NEW, CtEntry::TCP_NEW_SECONDS),
            (tcp(server, client, SYN | ACK), CtEntry::ESTABLISHED, CtEntry::TCP_ESTABLISHED_SECONDS),
            (tcp(client, server, ACK), CtEntry::ESTABLISHED, CtEntry::TCP_ESTABLISHED_SECONDS),
            (tcp(client, server, FIN | ACK), CtEntry::ESTABLISHED, CtEntry::TCP_ESTABLISHED_SECONDS),
            (tcp(server, client, FIN | ACK), CtEntry::CLOSED, CtEntry::TCP_CLOSED_SECONDS),
            (tcp(client, server, SYN), CtEntry::NEW, CtEntry::TCP_NEW_SECONDS),
            (tcp(server, client, RST | ACK), CtEntry::CLOSED, CtEntry::TCP_CLOSED_SECONDS),
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
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.b.ip, 80);
        let mut node = Bench::new();
        let before = uptime();
        node.run("from_pod", &udp(client, server, b"?").frame());
        let (_, flow) = only_flow(&node);
        assert_eq!(flow.state, CtEntry::NEW);
        assert!(flow.expires - before <= CtEntry::OTHER_NEW_SECONDS + 2);
        node.run("from_pod", &udp(server, client, b"!").frame());
        let (_, flow) = only_flow(&node);
        assert_eq!(flow.state, CtEntry::ESTABLISHED);
        assert!(flow.expires - before >= CtEntry::OTHER_ESTABLISHED_SECONDS);
    }
}

#[test]
fn both_directions_share_one_entry_whichever_end_is_greater() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.b.ip, 80);
        for (client, server) in [(client, server), (server, client)] {
            let mut node = Bench::new();
            node.run("from_pod", &tcp(client, server, SYN).frame());
            node.run("from_pod", &tcp(server, client, SYN | ACK).frame());
            let (key, flow) = only_flow(&node);
            let mut expected = CtKey::default();
            let high = expected.set(
                &client.0.into(),
                Be16::new(client.1),
                &server.0.into(),
                Be16::new(server.1),
                TCP,
            );
            assert_eq!(key, expected);
            assert_eq!(flow.flags & CtEntry::HIGH_OPENED != 0, high);
            assert_eq!(flow.state, CtEntry::ESTABLISHED);
        }
    }
}

#[test]
fn an_expired_flow_counts_as_absent() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.b.ip, 80);
        let mut node = Bench::new();
        node.run("from_pod", &tcp(client, server, SYN).frame());
        let (key, flow) = only_flow(&node);
        node.put("CONNTRACK", key, CtEntry { expires: uptime() - 1, ..flow });
        node.endpoint(&net.a, |a| a.ingress_ruleset = 5);
        node.expect_drop("from_pod", &tcp(server, client, SYN | ACK).frame(), Reason::PolicyIngress);
    }
}

#[test]
fn gre_and_other_protocols_without_ports_are_tracked_by_address() {
    for net in NETS {
        let mut node = Bench::new();
        node.endpoint(&net.a, |a| a.ingress_ruleset = 5);
        node.expect_drop("from_pod", &other(net.b.ip, net.a.ip, 47, b"").frame(), Reason::PolicyIngress);
        assert_eq!(node.run("from_pod", &other(net.a.ip, net.b.ip, 47, b"").frame()).verdict, REDIRECT);
        assert_eq!(node.run("from_pod", &other(net.b.ip, net.a.ip, 47, b"").frame()).verdict, REDIRECT);
    }
}

#[test]
fn a_wrong_checksum_is_neither_checked_nor_mended() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.b.ip, 80);
        let mut node = Bench::new();
        let mut frame = tcp(client, server, SYN).frame();
        let at = l4_at(&frame) + 16;
        frame[at] ^= 0x55;
        if net.bits == 32 {
            frame[14 + 10] ^= 0x55;
        }
        let out = node.run("from_pod", &frame);
        assert_eq!(out.verdict, REDIRECT);
        assert_eq!(out.bytes[14..], frame[14..]);
    }
}

#[test]
fn ip_options_and_extension_headers_are_skipped_over() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.b.ip, 80);
        let mut node = Bench::new();
        let mut packet = tcp(client, server, SYN);
        packet.options = vec![1; 8];
        packet.extensions = vec![
            (0, vec![0, 0, 1, 4, 0, 0, 0, 0]),
            (60, vec![0, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ];
        node.expect("from_pod", &packet.frame(), REDIRECT, &packet.to_pod(&net.b));
        let flow = only_flow(&node).0;
        assert!(flow.low_port == Be16::new(80) || flow.high_port == Be16::new(80));
    }
}

#[test]
fn link_padding_after_the_packet_is_no_part_of_it() {
    for net in NETS {
        let client: End = (net.a.ip, 40000);
        let server: End = (net.b.ip, 80);
        let mut node = Bench::new();
        let mut frame = tcp(client, server, SYN).frame();
        frame.extend([0xee; 6]);
        assert_eq!(node.run("from_pod", &frame).verdict, REDIRECT);
    }
}

#[test]
fn what_comes_from_outside_for_a_pod_is_delivered() {
    for net in NETS {
        let server: End = (net.b.ip, 80);
        let mut node = Bench::new();
        let packet = tcp((net.outside, 5000), server, SYN);
        node.expect("from_uplink", &packet.frame(), REDIRECT, &packet.to_pod(&net.b));
        let back = tcp(server, (net.outside, 5000), SYN | ACK).frame();
        node.expect("from_pod", &back, NEXT, &back);
        // The answer keeps the pod's address, as it was asked by it.
        node.expect("to_uplink", &back, NEXT, &back);
    }
}

#[test]
fn the_stack_reaches_pods_through_their_hook() {
    for net in NETS {
        let server: End = (net.b.ip, 80);
        let mut node = Bench::new();
        let probe = tcp((net.node, 50000), server, SYN).frame();
        node.expect("to_pod", &probe, NEXT, &probe);
        let out = node.run_as("to_pod", &tcp((net.outside, 5000), server, SYN).frame(), LO, 1);
        assert_eq!(out.verdict, NEXT);
    }
}

#[test]
fn traffic_of_the_node_itself_passes_the_uplink_untouched() {
    for net in NETS {
        let mut node = Bench::new();
        let out = tcp((net.node, 50000), (net.outside, 443), SYN).frame();
        node.expect("to_uplink", &out, NEXT, &out);
        let back = tcp((net.outside, 443), (net.node, 50000), SYN | ACK).frame();
        node.expect("from_uplink", &back, NEXT, &back);
        let vxlan = udp((net.other_node, 5555), (net.node, VXLAN_PORT), b"inner").frame();
        node.expect("from_uplink", &vxlan, NEXT, &vxlan);
        let mut broken = out.clone();
        broken[14] ^= 0x10;
        assert_eq!(node.run("from_uplink", &broken).verdict, NEXT);
        assert_eq!(node.run("to_uplink", &broken).verdict, NEXT);
        assert_eq!(node.run("from_uplink", &ethernet(0x86dd, &[0; 60])).verdict, NEXT);
        assert_eq!(node.run("from_uplink", &ethernet(0x88cc, &[0; 60])).verdict, NEXT);
        assert_eq!(node.all_drops(), []);
    }
}
