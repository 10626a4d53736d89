//! Addresses of LoadBalancers, which this node answers for on the uplink's segment.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use std::net::IpAddr;

fn arp(operation: u8, sender: IpAddr, target: IpAddr) -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, operation];
    arp.extend(FROM_MAC);
    arp.extend(octets(sender));
    arp.extend([0; 6]);
    arp.extend(octets(target));
    ethernet(0x0806, &arp)
}

fn node() -> Bench {
    let mut node = Bench::new();
    for net in NETS {
        node.put::<Addr, _>("ANNOUNCED", net.external_ip.into(), 1u32);
    }
    node
}

#[test]
fn arp_requests_are_answered_with_the_uplinks_address() {
    let mut node = node();
    let out = node.run("from_uplink", &arp(1, V4.router, V4.external_ip));
    assert_eq!(out.verdict, REDIRECT);
    let mut expected = [&FROM_MAC[..], &UPLINK_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &UPLINK_MAC].concat();
    expected.extend(octets(V4.external_ip));
    expected.extend(FROM_MAC);
    expected.extend(octets(V4.router));
    assert_eq!(out.bytes, expected);
}

#[test]
fn neighbour_solicitations_are_answered_with_the_uplinks_address() {
    let group = v6(0xff02, 0, 0, 0, 0x80);
    for dst in [group, V6.external_ip] {
        for multicast in [false, true] {
            let mut node = node();
            let mut frame = neighbour(V6.router, dst, 135, V6.external_ip).frame();
            if multicast {
                frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 0x80]);
            }
            let out = node.run("from_uplink", &frame);
            assert_eq!(out.verdict, REDIRECT);
            assert_sums(&out.bytes);
            assert_eq!(out.bytes[..14], [&FROM_MAC[..], &UPLINK_MAC, &[0x86, 0xdd]].concat());
            let answer = headers(&out.bytes);
            assert_eq!((answer.src, answer.dst, answer.hops), (V6.external_ip, V6.router, 255));
            assert_eq!((answer.body[0], &answer.body[4..8]), (136, &[0x60, 0, 0, 0][..]));
            assert_eq!(answer.body[8..24], octets(V6.external_ip));
            assert_eq!(answer.body[24..], [&[2, 1][..], &UPLINK_MAC].concat());
        }
    }
}

#[test]
fn everything_else_is_the_stacks() {
    let mut node = node();
    let mut frames = vec![
        arp(1, V4.router, V4.node),
        arp(2, V4.router, V4.external_ip),
        arp(1, V4.external_ip, V4.external_ip),
        neighbour(V6.router, V6.node, 135, V6.node).frame(),
        neighbour(V6.router, V6.external_ip, 136, V6.external_ip).frame(),
        neighbour(V6.any(), v6(0xff02, 0, 0, 0, 0x80), 135, V6.external_ip).frame(),
        Packet { hops: 254, ..neighbour(V6.router, V6.external_ip, 135, V6.external_ip) }.frame(),
    ];
    for whole in
        [arp(1, V4.router, V4.external_ip), neighbour(V6.router, V6.external_ip, 135, V6.external_ip).frame()]
    {
        let end = if whole[13] == 6 { whole.len() } else { whole.len() - 8 };
        frames.extend((if whole[13] == 6 { 15 } else { 54 }..end).map(|len| whole[..len].to_vec()));
    }
    for frame in &frames {
        node.expect_untouched("from_uplink", frame);
    }
    node.configure(Config { uplink_mac: [0; 6], ..config() });
    node.expect_untouched("from_uplink", &arp(1, V4.router, V4.external_ip));
}
