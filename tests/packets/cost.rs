//! What a packet costs. Printed with `--nocapture`; the bounds only catch what is wrong by an order of magnitude.

use crate::harness::*;
use crate::packet::*;

const REPEAT: u32 = 200_000;

#[test]
fn a_packet_costs_well_below_ten_microseconds() {
    let mut node = Bench::new();
    node.service(CLUSTER_IP, 80, TCP, 3, &[(REMOTE, 8080)]);
    node.service(std::net::Ipv4Addr::UNSPECIFIED, 30080, TCP, 8, &[(REMOTE, 8080)]);
    let client = (A.ip, 40000);
    let cases = [
        ("from_pod", "local pod, established", tcp(client, (B.ip, 80), ACK)),
        ("from_pod", "remote pod, established", tcp(client, (REMOTE, 80), ACK)),
        ("from_pod", "outside, established", tcp(client, (OUTSIDE, 80), ACK)),
        ("to_overlay", "remote pod", tcp(client, (REMOTE, 80), ACK)),
        ("to_pod", "from the node, established", tcp((NODE, 50000), (A.ip, 80), ACK)),
        ("from_uplink", "for the node itself", tcp((OUTSIDE, 80), (NODE, 50000), ACK)),
        ("to_uplink", "from the node itself", tcp((NODE, 50000), (OUTSIDE, 80), ACK)),
    ];
    for (program, name, packet) in cases {
        let frame = packet.frame();
        node.run(program, &frame);
        let out = node.run_as(program, &frame, 0, REPEAT);
        println!("{program:12} {name:28} {:5} ns", out.nanoseconds);
        assert!(out.nanoseconds < 10_000, "{program}: {name}");
    }
    // A repeated run sees the packet as the run before left it, so a translated one is measured once per run.
    for (program, name, packet) in [
        ("from_pod", "local pod, established", tcp(client, (B.ip, 80), ACK)),
        ("from_pod", "service, established", tcp(client, (CLUSTER_IP, 80), ACK)),
        ("from_uplink", "node port, remote backend", tcp((OUTSIDE, 5), (NODE, 30080), ACK)),
        ("to_uplink", "masqueraded", tcp(client, (OUTSIDE, 80), ACK)),
    ] {
        let frame = packet.frame();
        let mut times: Vec<u128> = (0..2000).map(|_| node.run(program, &frame).nanoseconds).collect();
        times.sort_unstable();
        println!("{program:12} {name:28} {:5} ns (median of single runs)", times[times.len() / 2]);
        assert!(times[times.len() / 2] < 10_000, "{program}: {name}");
    }
}
