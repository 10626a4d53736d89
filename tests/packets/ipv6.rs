//! What only IPv6 has: neighbour discovery, extension headers, and addresses that are IPv4 in disguise.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use std::net::IpAddr;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// The pods' gateway as a solicited-node multicast address (RFC 4291 section 2.7.1).
const GATEWAY_GROUP: IpAddr = v6(0xff02, 0, 0, 0, 1);
const LINK_LOCAL: IpAddr = v6(0xfe80, 0, 0, 0, 0x77);
const CLIENT: End = (V6.a.ip, 40000);
const SERVER: End = (V6.b.ip, 80);

#[test]
fn a_pod_and_its_gateway_discover_each_other_by_the_nodes_stack() {
    let mut node = Bench::new();
    for frame in [
        neighbour(V6.a.ip, GATEWAY_GROUP, SOLICITATION, V6.pod_gateway),
        neighbour(V6.a.ip, V6.pod_gateway, SOLICITATION, V6.pod_gateway),
        neighbour(LINK_LOCAL, GATEWAY_GROUP, SOLICITATION, V6.pod_gateway),
        neighbour(V6.a.ip, V6.pod_gateway, ADVERTISEMENT, V6.a.ip),
        neighbour(LINK_LOCAL, V6.pod_gateway, ADVERTISEMENT, V6.a.ip),
        neighbour(LINK_LOCAL, V6.pod_gateway, ADVERTISEMENT, LINK_LOCAL),
    ] {
        node.expect_untouched("from_pod", &frame.frame());
    }
    for frame in [
        neighbour(V6.pod_gateway, v6(0xff02, 0, 0, 0, 0x10), SOLICITATION, V6.a.ip),
        neighbour(V6.pod_gateway, V6.a.ip, ADVERTISEMENT, V6.pod_gateway),
    ] {
        node.expect_untouched("to_pod", &frame.frame());
    }
    assert_eq!(node.all_drops(), []);
}

#[test]
fn a_pod_speaks_for_its_own_addresses_only() {
    let mut node = Bench::new();
    node.endpoint(&V6.b, |b| b.ifindex = 77);
    for frame in [
        neighbour(V6.nobody, GATEWAY_GROUP, SOLICITATION, V6.pod_gateway),
        neighbour(V6.b.ip, GATEWAY_GROUP, SOLICITATION, V6.pod_gateway),
        neighbour(V6.node, GATEWAY_GROUP, SOLICITATION, V6.pod_gateway),
        neighbour(V6.pod_gateway, GATEWAY_GROUP, SOLICITATION, V6.pod_gateway),
        neighbour(V6.a.ip, V6.pod_gateway, ADVERTISEMENT, V6.b.ip),
        neighbour(V6.a.ip, V6.pod_gateway, ADVERTISEMENT, V6.pod_gateway),
        neighbour(V6.a.ip, V6.pod_gateway, ADVERTISEMENT, V6.outside),
        neighbour(LINK_LOCAL, V6.pod_gateway, ADVERTISEMENT, V6.gateway),
    ] {
        node.expect_drop("from_pod", &frame.frame(), Reason::SpoofedSource);
    }
}

#[test]
fn discovery_is_no_way_past_policy() {
    let mut node = Bench::new();
    for dst in [V6.outside, V6.b.ip, V6.node, V6.remote, v6(0xff0e, 0, 0, 0, 1)] {
        let frame = neighbour(V6.a.ip, dst, SOLICITATION, V6.pod_gateway).frame();
        node.expect_drop("from_pod", &frame, Reason::BadDestination);
    }
    let mut piece = neighbour(V6.a.ip, GATEWAY_GROUP, SOLICITATION, V6.pod_gateway);
    piece.fragment = 0x2000;
    node.expect_drop("from_pod", &piece.frame(), Reason::Malformed);
    let routed = neighbour(V6.outside, V6.a.ip, SOLICITATION, V6.a.ip).frame();
    assert_eq!(node.run_as("to_pod", &routed, LO, 1).verdict, DROP);
    node.expect_untouched("from_uplink", &routed);
}

#[test]
fn what_interfaces_say_by_themselves_is_dropped_quietly() {
    let mut node = Bench::new();
    let frames = [
        neighbour(V6.any(), v6(0xff02, 0, 0, 0, 0x10), SOLICITATION, V6.a.ip),
        neighbour(LINK_LOCAL, v6(0xff02, 0, 0, 0, 2), 133, V6.a.ip),
        neighbour(V6.pod_gateway, v6(0xff02, 0, 0, 0, 1), 134, V6.a.ip),
        neighbour(LINK_LOCAL, V6.a.ip, 137, V6.a.ip),
        neighbour(LINK_LOCAL, v6(0xff02, 0, 0, 0, 0x16), 143, V6.a.ip),
    ];
    for frame in &frames {
        node.expect_drop("from_pod", &frame.frame(), Reason::LinkLocalNoise);
    }
    for frame in &frames[1..] {
        node.expect_drop("to_pod", &frame.frame(), Reason::LinkLocalNoise);
    }
    for frame in &frames {
        for program in ["from_overlay", "to_overlay"] {
            node.expect_drop(program, &frame.frame(), Reason::LinkLocalNoise);
        }
        node.expect_untouched("to_uplink", &frame.frame());
    }
    assert_eq!(node.records(), []);
}

#[test]
fn ipv4_in_disguise_is_malformed() {
    let mut node = Bench::new();
    let mapped = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    };
    for (src, dst) in
        [(V6.a.ip, mapped(V4.b.ip)), (mapped(V4.a.ip), V6.b.ip), (mapped(V4.a.ip), mapped(V4.b.ip))]
    {
        let frame = tcp((src, 40000), (dst, 80), SYN).frame();
        node.expect_drop("from_pod", &frame, Reason::Malformed);
        node.expect_drop("from_overlay", &frame, Reason::Malformed);
        node.expect_untouched("from_uplink", &frame);
    }
}

/// A packet with extension headers of these numbers and contents.
fn extended(extensions: &[(u8, &[u8])]) -> Vec<u8> {
    let extensions = extensions.iter().map(|(number, bytes)| (*number, bytes.to_vec())).collect();
    Packet { extensions, ..tcp(CLIENT, SERVER, SYN) }.frame()
}

#[test]
fn extension_headers_are_walked_to_the_transport_header() {
    let padding: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    let atomic: &[u8] = &[0, 0, 0, 0, 1, 2, 3, 4];
    let authentication: &[u8] = &[0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let spent: &[u8] = &[0, 2, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    let cases: [&[(u8, &[u8])]; 6] = [
        &[(0, padding)],
        &[(0, padding), (60, padding), (43, spent), (44, atomic), (51, authentication), (60, padding)],
        &[(51, authentication)],
        &[(43, spent)],
        &[(44, atomic)],
        &[(60, padding); 8],
    ];
    for extensions in cases {
        let mut node = Bench::new();
        node.endpoint(&V6.b, |b| b.ingress_ruleset = 7);
        node.rule(7, RuleKey::FULL, (0, TCP, 80), 70, true);
        let out = node.run("from_pod", &extended(extensions));
        assert_eq!(out.verdict, REDIRECT, "{extensions:?}: {:?}", node.all_drops());
    }
}

#[test]
fn headers_that_lead_nowhere_are_malformed() {
    let mut node = Bench::new();
    let padding: &[u8] = &[0, 0, 1, 4, 0, 0, 0, 0];
    let long: &[u8] = &[0, 9, 1, 4, 0, 0, 0, 0];
    let first: &[u8] = &[0, 0, 0, 1, 1, 2, 3, 4];
    for extensions in
        [&[(60, padding); 9][..], &[(0, long)], &[(44, first), (44, first)], &[(60, &long[..7])]]
    {
        node.expect_drop("from_pod", &extended(extensions), Reason::Malformed);
    }
    // Source routing would lead to another host than the one that was judged.
    let routing: &[u8] = &[0, 2, 4, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    node.expect_drop("from_pod", &extended(&[(43, routing)]), Reason::BadDestination);
    let mut long = tcp(CLIENT, SERVER, SYN).frame();
    long[19] += 1;
    node.expect_drop("from_pod", &long, Reason::Malformed);
    long[14] = 0x50;
    node.expect_drop("from_pod", &long, Reason::Malformed);
}

#[test]
fn a_protocol_of_the_other_family_is_one_without_ports() {
    for (src, dst, proto) in [(V4.a.ip, V4.b.ip, ICMPV6), (V6.a.ip, V6.b.ip, ICMP)] {
        let mut node = Bench::new();
        node.run("from_pod", &other(src, dst, proto, &[128, 0, 0, 0, 7, 7, 0, 0]).frame());
        let flows = node.all::<CtKey, CtEntry>("CONNTRACK");
        assert_eq!(flows.len(), 1);
        assert_eq!((flows[0].0.low_port, flows[0].0.high_port), (Be16(0), Be16(0)));
    }
}

#[test]
fn pieces_are_known_by_all_bits_of_their_number_and_keep_the_protocol_of_the_first() {
    let mut node = Bench::new();
    let whole = udp(CLIENT, (V6.b.ip, 53), &[7; 40]);
    // Destination options in front of UDP: the later piece's header names the options.
    let mut first = Packet { fragment: 0x2000, ..whole.clone() };
    first.body = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &whole.body[..24]].concat();
    first.proto = 60;
    let second = Packet { fragment: 4, proto: 60, body: whole.body[24..].to_vec(), ..whole };
    node.endpoint(&V6.b, |b| b.ingress_ruleset = 7);
    node.rule(7, RuleKey::FULL, (0, UDP, 53), 70, true);
    assert_eq!(node.run("from_pod", &first.frame()).verdict, REDIRECT);
    assert_eq!(node.run("from_pod", &second.frame()).verdict, REDIRECT);
    let mut foreign = second.frame();
    foreign[14 + 40 + 4] ^= 1;
    node.expect_drop("from_pod", &foreign, Reason::FragmentUnknown);
}

#[test]
fn a_quoted_packet_may_have_extension_headers() {
    let mut node = Bench::new();
    let mut asked = udp(CLIENT, (V6.outside, 53), &[7; 16]);
    asked.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
    let sent = asked.frame();
    node.run("from_pod", &sent);
    let on_wire = node.run("to_uplink", &sent).bytes;
    let mut body = vec![2, 0, 0, 0, 0, 0, 5, 0];
    body.extend(&on_wire[14..14 + 40 + 8 + 8]);
    let mut error = error(V6.router, V6.node, 3, 4, &on_wire);
    error.body = body;
    let out = node.run("from_uplink", &error.frame());
    assert_eq!(out.verdict, REDIRECT, "{:?}", node.all_drops());
    let quoted = &headers(&out.bytes).body[8..];
    assert_eq!(quoted[..50], sent[14..64], "addresses and source port as the pod sent them");
}
