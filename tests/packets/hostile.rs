//! Packets that nobody honest sends.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

const CLIENT: End = (A.ip, 40000);

/// The kernel's test run takes no packet without its whole IP header (Linux 6.18). Shorter ones are tried on the
/// host, in `overlay`.
fn shortest(frame: &[u8]) -> usize {
    match frame[12..14] {
        [0x08, 0x00] => 34,
        [0x86, 0xdd] => 54,
        _ => 15,
    }
}

/// One of each kind, all of which pass when whole.
fn samples(net: &Net) -> Vec<(&'static str, Vec<u8>)> {
    let (client, to) = ((net.a.ip, 40000), (net.b.ip, 80));
    let mut options = tcp(client, to, SYN);
    options.options = vec![1; 40];
    options.extensions = vec![(0, vec![0; 8]), (43, vec![0; 8]), (51, [0, 4].repeat(12)), (60, vec![0; 8])];
    let mut first = udp(client, to, &[1; 32]);
    first.fragment = 0x2000;
    first.body.truncate(24);
    let quoted = udp((net.b.ip, 80), client, b"?").frame();
    vec![
        ("tcp", tcp_with(client, to, ACK, b"data").frame()),
        ("tcp with IP options", options.frame()),
        ("udp", udp(client, to, b"data").frame()),
        ("echo", echo(net.a.ip, net.b.ip, true, 1).frame()),
        ("icmp error", error(net.a.ip, net.b.ip, 3, 3, &quoted).frame()),
        ("gre", other(net.a.ip, net.b.ip, 47, b"inner").frame()),
        ("first fragment", first.frame()),
        ("to a service", tcp(client, (net.cluster_ip, 80), SYN).frame()),
        ("to itself through a service", udp(client, (net.cluster_ip, 81), b"x").frame()),
        ("to outside", tcp(client, (net.outside, 80), SYN).frame()),
    ]
}

fn node() -> Bench {
    let mut node = Bench::new();
    for net in NETS {
        node.service(net.cluster_ip, 80, TCP, 3 + net.bits, &[(net.b.ip, 8080)]);
        node.service(net.cluster_ip, 81, UDP, 4 + net.bits, &[(net.a.ip, 8080)]);
    }
    node
}

pub fn ipv6(next: u8, extensions: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(((extensions.len() + payload.len()) as u16).to_be_bytes());
    ip.extend([next, 64]);
    ip.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    ip.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    ip.extend(extensions);
    ip.extend(payload);
    ethernet(0x86dd, &ip)
}

#[test]
fn a_packet_cut_at_any_length_is_dropped_by_the_hooks_of_pods() {
    let mut node = node();
    for (name, frame) in NETS.iter().flat_map(samples) {
        for len in shortest(&frame)..frame.len() {
            for program in ["from_pod", "to_pod", "from_overlay"] {
                let out = node.run(program, &frame[..len]);
                assert_eq!(out.verdict, DROP, "{program}: {name} cut to {len}");
                assert_eq!(out.bytes, frame[..len], "{program}: {name} cut to {len}");
            }
        }
    }
    let reasons = node.all_drops();
    assert!(
        reasons.iter().any(|(reason, count)| *reason == Reason::Malformed && *count > 1000),
        "{reasons:?}"
    );
}

#[test]
fn a_packet_cut_at_any_length_goes_nowhere_from_the_uplink() {
    let mut node = node();
    node.service(V4.any(), 30080, TCP, 8, &[(B.ip, 8080)]);
    let frames = |net: &Net| {
        [
            tcp((net.outside, 5), (net.node, 30080), SYN).frame(),
            udp((net.outside, 5), (net.b.ip, 8080), b"data").frame(),
            error(net.outside, net.node, 3, 3, &udp((net.node, 20000), (net.outside, 53), b"").frame())
                .frame(),
        ]
    };
    for frame in NETS.iter().flat_map(frames) {
        for len in shortest(&frame)..frame.len() {
            for program in ["from_uplink", "to_uplink"] {
                let out = node.run(program, &frame[..len]);
                assert_ne!(out.verdict, REDIRECT, "{program} cut to {len}");
                assert_eq!(out.bytes, frame[..len], "{program} cut to {len}");
            }
        }
    }
    assert_eq!(node.metric(Metric::ToLocalPod), 0);
}

#[test]
fn headers_that_contradict_themselves_are_malformed() {
    let mut node = node();
    let good = tcp(CLIENT, (B.ip, 80), SYN).frame();
    let cases: [(&str, usize, u8); 8] = [
        ("version 6 in an IPv4 frame", 14, 0x65),
        ("version 0", 14, 0x05),
        ("a header of 16 bytes", 14, 0x44),
        ("a header longer than the packet", 14, 0x4f),
        ("a total length below the header's", 17, 19),
        ("a total length that cuts the TCP header", 17, 39),
        ("a TCP header of 16 bytes", 46, 0x40),
        ("a TCP header longer than the packet", 46, 0x60),
    ];
    for (name, at, value) in cases {
        let mut frame = good.clone();
        frame[at] = value;
        let out = node.run("from_pod", &frame);
        assert_eq!(out.verdict, DROP, "{name}");
    }
    let mut short = udp(CLIENT, (B.ip, 80), b"data");
    for claimed in [0u16, 7, 13, 0xffff] {
        short.body[4..6].copy_from_slice(&claimed.to_be_bytes());
        node.expect_drop("from_pod", &short.frame(), Reason::Malformed);
    }
    assert_eq!(node.all_drops(), [(Reason::Malformed, 12)]);
}

#[test]
fn a_pod_sends_from_its_own_address_only() {
    let mut node = node();
    for net in NETS {
        let mut sources = vec![net.nobody, net.node, net.remote, net.outside, net.gateway, net.pod_gateway];
        sources.extend(if net.bits == 32 {
            vec![net.any(), v4(127, 0, 0, 1), v4(255, 255, 255, 255)]
        } else {
            vec![v6(0, 0, 0, 0, 1), v6(0xfe80, 0, 0, 0, 7), v6(0xff02, 0, 0, 0, 1)]
        });
        for src in sources {
            node.expect_drop("from_pod", &tcp((src, 1), (net.b.ip, 80), SYN).frame(), Reason::SpoofedSource);
        }
        // B's address on A's interface.
        node.endpoint(&net.b, |b| b.ifindex = 77);
        let frame = tcp((net.b.ip, 1), (net.a.ip, 80), SYN).frame();
        node.expect_drop("from_pod", &frame, Reason::SpoofedSource);
    }
}

#[test]
fn nothing_is_sent_to_addresses_that_are_no_host() {
    let mut node = node();
    for dst in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 251], [239, 1, 2, 3], [240, 0, 0, 1], [255; 4]] {
        node.expect_drop("from_pod", &udp(CLIENT, (dst.into(), 80), b"").frame(), Reason::BadDestination);
    }
    let client = (V6.a.ip, 40000);
    for dst in [
        V6.any(),
        v6(0, 0, 0, 0, 1),
        v6(0xff02, 0, 0, 0, 0xfb),
        v6(0xff0e, 0, 0, 0, 1),
        v6(0xfe80, 0, 0, 0, 2),
        v6(0xfebf, 0, 0, 0, 2),
        V6.pod_gateway,
    ] {
        node.expect_drop("from_pod", &udp(client, (dst, 80), b"").frame(), Reason::BadDestination);
    }
}

#[test]
fn a_pod_cannot_write_overlay_packets() {
    let mut node = node();
    for net in NETS {
        let client = (net.a.ip, 40000);
        for dst in [net.node, net.other_node] {
            let frame = udp(client, (dst, VXLAN_PORT), b"").frame();
            node.expect_drop("from_pod", &frame, Reason::ForgedOverlay);
        }
        assert_eq!(node.run("from_pod", &udp(client, (net.outside, VXLAN_PORT), b"").frame()).verdict, NEXT);
        assert_eq!(node.run("from_pod", &udp(client, (net.other_node, 53), b"").frame()).verdict, NEXT);
    }
}

#[test]
fn pod_addresses_do_not_come_from_outside() {
    let mut node = node();
    for net in NETS {
        node.configure(config());
        for dst in [net.b.ip, net.node] {
            let frame = tcp((net.remote, 1), (dst, 80), SYN).frame();
            node.expect_drop("from_uplink", &frame, Reason::SpoofedSource);
        }
        node.configure(Config { flags: Config::MASQUERADE, ..config() });
        let out = node.run("from_uplink", &tcp((net.remote, 1), (net.b.ip, 80), SYN).frame());
        assert_eq!(out.verdict, REDIRECT);
    }
}

#[test]
fn a_node_without_ipv6_pods_drops_it_and_its_own_noise_apart_from_the_rest() {
    let mut node = node();
    node.configure(Config { pods_v6: Prefix::default(), ..config() });
    // Router solicitation; multicast listener report behind a hop-by-hop header with router alert.
    let quiet = [
        ipv6(58, &[], &[133, 0, 0, 0, 0, 0, 0, 0]),
        ipv6(0, &[58, 0, 5, 2, 0, 0, 1, 0], &[143, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let loud = [
        ipv6(6, &[], &[0; 20]),
        ipv6(58, &[], &[128, 0, 0, 0, 0, 0, 0, 0]),
        ipv6(43, &[60, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0], &[0; 8]),
        ipv6(44, &[17, 0, 0, 1, 0, 0, 0, 9], &[0; 8]),
        ipv6(51, &[6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[0; 20]),
    ];
    let broken = [
        ipv6(0, &[58, 200, 0, 0, 0, 0, 0, 0], &[]),
        ipv6(58, &[], &[133]),
        ipv6(43, &[], &[6, 0, 0]),
        ipv6(0, &[0, 0, 0, 0, 0, 0, 0, 0].repeat(12), &[59, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for program in ["from_pod", "to_pod", "from_overlay", "to_overlay"] {
        for frame in &quiet {
            node.expect_drop(program, frame, Reason::LinkLocalNoise);
        }
        for frame in &loud {
            node.expect_drop(program, frame, Reason::Ipv6Unsupported);
        }
        for frame in &broken[..if program == "from_pod" { 0 } else { 4 }] {
            node.expect_drop(program, frame, Reason::Malformed);
        }
    }
    assert!(node.records().iter().all(|record| record.reason != Reason::LinkLocalNoise as u16));
    for program in ["from_uplink", "to_uplink"] {
        for frame in quiet.iter().chain(&loud).chain(&broken) {
            node.expect_untouched(program, frame);
        }
    }
}

#[test]
fn unknown_ether_types_are_dropped() {
    let mut node = node();
    for ether_type in [0x8100, 0x88a8, 0x8847, 0x88cc, 0x0600] {
        for program in ["from_pod", "to_pod", "from_overlay", "to_overlay"] {
            node.expect_drop(program, &ethernet(ether_type, &[0; 60]), Reason::UnknownEtherType);
        }
    }
}

#[test]
fn noise_never_opens_a_closed_pod() {
    const ROUNDS: usize = 40_000;
    let mut random = StdRng::seed_from_u64(7);
    let mut node = node();
    for net in NETS {
        node.endpoint(&net.b, |b| (b.ingress_ruleset, b.ifindex) = (5, 77));
    }
    let samples: Vec<_> = NETS.iter().flat_map(samples).collect();
    for round in 0..ROUNDS {
        let (name, mut frame) = samples[round % samples.len()].clone();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(12..frame.len());
            frame[at] = random.next_u32() as u8;
        }
        if random.random_bool(0.3) {
            frame.truncate(random.random_range(20..frame.len()));
        }
        if frame.len() < shortest(&frame) {
            continue;
        }
        let out = node.run("from_pod", &frame);
        let to_b = out.verdict == REDIRECT && out.bytes[..6] == B.mac;
        assert!(!to_b, "round {round}: {name} reached a closed pod: {frame:02x?}");
    }
}
