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

/// A connection to a Service goes on as fast among 50,000 as among 10. A run that follows another sees what that one made
/// of the packet, so one of many Services is asked by each run, and besides one whose backend has the Service's own
/// address and port, again and again. A packet that no table knows tells what a run costs by itself. `cargo xtask bench
/// service` reads what is printed.
#[test]
fn a_service_costs_the_same_among_many() {
    const ASKED: usize = 64;
    let mut costs = Vec::new();
    for count in [10, 1000, 10_000, 50_000] {
        let mut node = Bench::new();
        let address = |n: usize| std::net::Ipv4Addr::from(0xc612_0000 + n as u32).into();
        for n in 0..count {
            let backends: Vec<_> = (1..=4).map(|last| (V4.remote_pod(last), 8080)).collect();
            node.service(address(n), 80, TCP, 100 + n as u32, &backends);
        }
        let same = (v4(198, 51, 100, 1), 80);
        node.put::<fairlead_abi::Addr, _>("NODES", same.0.into(), own_address());
        node.service(same.0, same.1, TCP, 99, &[same]);
        let same = tcp((OUTSIDE, 4999), same, ACK).frame();
        let frames: Vec<Vec<u8>> = (0..ASKED)
            .map(|n| tcp((OUTSIDE, 5000 + n as u16), (address(n * count / ASKED), 80), ACK).frame())
            .collect();
        let mut nothing = same.clone();
        nothing[12..14].copy_from_slice(&[0x88, 0xb5]);
        for (frame, verdict) in frames.iter().map(|frame| (frame, REDIRECT)).chain([(&same, NEXT)]) {
            assert_eq!(node.run("from_uplink", frame).verdict, verdict);
        }
        let mut repeated = |frame: &[u8]| node.run_as("from_uplink", frame, 0, REPEAT).nanoseconds;
        let (again, idle) = (repeated(&same), repeated(&nothing));
        let (mut times, mut empty) = (Vec::new(), Vec::new());
        for turn in 0..64 * ASKED {
            times.push(node.run("from_uplink", &frames[turn % ASKED]).nanoseconds);
            empty.push(node.run("from_uplink", &nothing).nanoseconds);
        }
        let median = |times: &mut Vec<u128>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        let (time, empty) = (median(&mut times), median(&mut empty));
        println!(
            "Service among {count}: again and again {again} ns, nothing {idle} ns; one of many {time} ns, nothing {empty} ns"
        );
        costs.push(time.saturating_sub(empty));
    }
    assert!(costs[3] < 3 * costs[0].max(200), "{costs:?}");
}
