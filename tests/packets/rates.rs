//! What a pod may send and receive in a second.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;

fn limit(node: &mut Bench, pod: &Pod, direction: u32, tokens: u64) {
    let (ingress, egress) = (Endpoint::INGRESS_RATE, Endpoint::EGRESS_RATE);
    node.endpoint(pod, |e| e.flags = if direction == RateKey::EGRESS { egress } else { ingress });
    let rate = Rate { bytes_per_second: 1, burst: 1 << 20, tokens, time: u64::MAX };
    node.put("RATES", RateKey { endpoint: pod.id, direction }, rate);
}

fn tokens(node: &Bench) -> u64 {
    node.all::<RateKey, Rate>("RATES")[0].1.tokens
}

#[test]
fn a_pod_sends_while_its_bucket_lasts() {
    for net in NETS {
        let mut node = Bench::new();
        let frame = udp((net.a.ip, 40000), (net.outside, 53), &[0; 100]).frame();
        let len = frame.len() as u64;
        limit(&mut node, &net.a, RateKey::EGRESS, 3 * len + 10);
        for _ in 0..3 {
            assert_eq!(node.run("from_pod", &frame).verdict, NEXT);
        }
        assert_eq!(tokens(&node), 10);
        node.expect_drop("from_pod", &frame, Reason::RateLimited);
        assert_eq!(node.records()[0].endpoint, net.a.id);
        // What others send to it is another bucket's.
        assert_eq!(node.run("from_pod", &tcp((net.b.ip, 1), (net.a.ip, 2), SYN).frame()).verdict, REDIRECT);
    }
}

#[test]
fn a_pod_receives_while_its_bucket_lasts_from_everywhere() {
    for net in NETS {
        for (program, from) in [("from_pod", net.a.ip), ("from_uplink", net.outside), ("to_pod", net.node)] {
            let mut node = Bench::new();
            let frame = udp((from, 40000), (net.b.ip, 53), &[0; 100]).frame();
            limit(&mut node, &net.b, RateKey::INGRESS, frame.len() as u64);
            assert_ne!(node.run(program, &frame).verdict, DROP);
            node.expect_drop(program, &frame, Reason::RateLimited);
        }
    }
}

#[test]
fn a_flag_without_a_bucket_bounds_nothing() {
    let mut node = Bench::new();
    node.endpoint(&A, |a| a.flags = Endpoint::EGRESS_RATE | Endpoint::INGRESS_RATE);
    assert_eq!(node.run("from_pod", &tcp((A.ip, 1), (B.ip, 2), SYN).frame()).verdict, REDIRECT);
}

#[test]
fn the_bucket_fills_with_time() {
    let mut node = Bench::new();
    limit(&mut node, &A, RateKey::EGRESS, 0);
    let rate = Rate { bytes_per_second: 1 << 40, burst: 1 << 20, tokens: 0, time: 0 };
    node.put("RATES", RateKey { endpoint: A.id, direction: RateKey::EGRESS }, rate);
    let frame = tcp((A.ip, 1), (B.ip, 2), SYN).frame();
    assert_eq!(node.run("from_pod", &frame).verdict, REDIRECT);
    assert_eq!(tokens(&node), (1 << 20) - frame.len() as u64);
}
