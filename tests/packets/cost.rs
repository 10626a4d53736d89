//! What a packet costs. Printed with `--nocapture`; the bounds only catch what is wrong by an order of magnitude.

use crate::harness::*;
use crate::packet::*;

const REPEAT: u32 = 200_000;

#[test]
fn a_packet_costs_well_below_ten_microseconds() {
    for net in NETS {
        let family = if net.bits == 32 { "IPv4" } else { "IPv6" };
        measure(&net, family);
    }
}

fn measure(net: &Net, family: &str) {
    let mut node = Bench::new();
    node.service(net.cluster_ip, 80, TCP, 3, &[(net.remote, 8080)]);
    node.service(net.any(), 30080, TCP, 8, &[(net.remote, 8080)]);
    let client = (net.a.ip, 40000);
    let cases = [
        ("from_pod", "local pod, established", tcp(client, (net.b.ip, 80), ACK)),
        ("from_pod", "remote pod, established", tcp(client, (net.remote, 80), ACK)),
        ("from_pod", "outside, established", tcp(client, (net.outside, 80), ACK)),
        ("to_overlay", "remote pod", tcp(client, (net.remote, 80), ACK)),
        ("to_pod", "from the node, established", tcp((net.node, 50000), (net.a.ip, 80), ACK)),
        ("from_uplink", "for the node itself", tcp((net.outside, 80), (net.node, 50000), ACK)),
        ("to_uplink", "from the node itself", tcp((net.node, 50000), (net.outside, 80), ACK)),
    ];
    for (program, name, packet) in cases {
        let frame = packet.frame();
        node.run(program, &frame);
        let out = node.run_as(program, &frame, 0, REPEAT);
        println!("{family} {program:12} {name:28} {:5} ns", out.nanoseconds);
        assert!(out.nanoseconds < 10_000, "{program}: {name}");
    }
    // A repeated run sees the packet as the run before left it, so a translated one is measured once per run.
    for (program, name, packet) in [
        ("from_pod", "local pod, established", tcp(client, (net.b.ip, 80), ACK)),
        ("from_pod", "service, established", tcp(client, (net.cluster_ip, 80), ACK)),
        ("from_uplink", "node port, remote backend", tcp((net.outside, 5), (net.node, 30080), ACK)),
        ("to_uplink", "masqueraded", tcp(client, (net.outside, 80), ACK)),
    ] {
        let frame = packet.frame();
        let mut times: Vec<u128> = (0..2000).map(|_| node.run(program, &frame).nanoseconds).collect();
        times.sort_unstable();
        println!("{family} {program:12} {name:28} {:5} ns (median of single runs)", times[times.len() / 2]);
        assert!(times[times.len() / 2] < 10_000, "{program}: {name}");
    }
}
