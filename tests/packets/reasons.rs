//! Every reason to drop a packet, provoked once. A reason that is added does not compile until it is here.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;

/// A program and a packet that it drops for the reason, on a node prepared for it.
fn provoke(reason: Reason, node: &mut Bench) -> (&'static str, Vec<u8>) {
    let (client, server) = ((A.ip, 40000), (B.ip, 80));
    let syn = tcp(client, server, SYN).frame();
    match reason {
        Reason::Malformed => ("from_pod", syn[..40].to_vec()),
        Reason::NotConfigured => {
            node.configure(Config { abi_version: ABI_VERSION + 1, ..config() });
            ("from_pod", syn)
        }
        Reason::UnknownEtherType => ("from_pod", ethernet(0x8847, &[0; 46])),
        Reason::Ipv6Unsupported => {
            node.configure(Config { pods_v6: Prefix::default(), ..config() });
            ("from_pod", tcp((V6.a.ip, 40000), (V6.b.ip, 80), SYN).frame())
        }
        Reason::LinkLocalNoise => {
            ("from_pod", neighbour(V6.a.ip, v6(0xff02, 0, 0, 0, 1), 133, V6.a.ip).frame())
        }
        Reason::SpoofedSource => ("from_pod", tcp((REMOTE, 1), server, SYN).frame()),
        Reason::UnknownEndpoint => ("from_pod", tcp(client, (V4.nobody, 80), SYN).frame()),
        Reason::EndpointClosed => {
            node.endpoint(&B, |b| b.flags = Endpoint::CLOSED);
            ("from_pod", syn)
        }
        Reason::PolicyIngress => {
            node.endpoint(&B, |b| b.ingress_ruleset = 5);
            ("from_pod", syn)
        }
        Reason::PolicyEgress => {
            node.endpoint(&A, |a| a.egress_ruleset = 5);
            ("from_pod", syn)
        }
        Reason::NoBackend => {
            node.service(CLUSTER_IP, 80, TCP, 3, &[]);
            ("from_pod", tcp(client, (CLUSTER_IP, 80), RST).frame())
        }
        Reason::NoLocalBackend => {
            let service = Service { id: 3, flags: Service::LOCAL, ..Service::default() };
            node.service_with(CLUSTER_IP, 80, TCP, service, &[]);
            ("from_pod", tcp(client, (CLUSTER_IP, 80), SYN).frame())
        }
        Reason::NoService => ("from_pod", tcp(client, (CLUSTER_IP, 80), SYN).frame()),
        Reason::NoRoute => ("to_overlay", tcp(client, (V4.nowhere, 80), SYN).frame()),
        Reason::ForgedOverlay => ("from_overlay", tcp((REMOTE, 1), server, SYN).frame()),
        Reason::FragmentUnknown => {
            let piece = Packet { fragment: 7, ..udp(client, server, &[0; 32]) };
            ("from_pod", piece.frame())
        }
        Reason::BadDestination => ("from_pod", udp(client, (v4(224, 0, 0, 1), 1), b"").frame()),
        Reason::NatExhausted => {
            node.service(CLUSTER_IP, 80, TCP, 3, &[server]);
            node.run("from_pod", &syn);
            ("from_pod", tcp(client, (CLUSTER_IP, 80), SYN).frame())
        }
        Reason::SourceRange => {
            let service = Service { id: 3, backends: 1, flags: Service::RANGES, ..Service::default() };
            node.service_with(CLUSTER_IP, 80, TCP, service, &[server]);
            ("from_pod", tcp(client, (CLUSTER_IP, 80), SYN).frame())
        }
        Reason::RateLimited => {
            node.endpoint(&A, |a| a.flags = Endpoint::EGRESS_RATE);
            let rate = Rate { bytes_per_second: 1, burst: 1, tokens: 0, time: u64::MAX };
            node.put("RATES", RateKey { endpoint: A.id, direction: RateKey::EGRESS }, rate);
            ("from_pod", syn)
        }
        Reason::HopLimit => {
            node.service(V4.any(), 30080, TCP, 8, &[(REMOTE, 8080)]);
            ("from_uplink", Packet { hops: 1, ..tcp((OUTSIDE, 5), (NODE, 30080), SYN) }.frame())
        }
    }
}

#[test]
fn every_reason_has_a_packet_that_is_dropped_for_it_and_recorded() {
    for reason in Reason::ALL {
        let mut node = Bench::new();
        let (program, frame) = provoke(*reason, &mut node);
        node.expect_drop(program, &frame, *reason);
        let recorded: Vec<u16> = node.records().iter().map(|record| record.reason).collect();
        let expected: &[u16] = if *reason == Reason::LinkLocalNoise { &[] } else { &[*reason as u16] };
        assert_eq!(recorded, expected, "{}", reason.name());
    }
}

#[test]
fn a_record_shows_nothing_of_the_packet_before() {
    let mut node = Bench::new();
    let frame = tcp((A.ip, 40000), (V4.nobody, 80), SYN).frame();
    node.expect_drop("from_pod", &frame, Reason::UnknownEndpoint);
    node.expect_drop("from_pod", &ethernet(0x8847, &[0; 46]), Reason::UnknownEtherType);
    node.expect_drop("from_pod", &frame[..40], Reason::Malformed);
    let seen: Vec<_> = node
        .records()
        .iter()
        .map(|record| (record.src, record.dst, record.src_port.get(), record.dst_port.get(), record.proto))
        .collect();
    let (src, dst) = (Addr::from(A.ip), Addr::from(V4.nobody));
    let nothing = (Addr::UNSPECIFIED, Addr::UNSPECIFIED, 0, 0, 0);
    assert_eq!(seen, [(src, dst, 40000, 80, TCP), nothing, (src, dst, 0, 0, TCP)]);
}

#[test]
fn names_are_distinct_and_numbers_lead_back() {
    let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
    for (number, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, number);
        assert_eq!(Reason::from_u32(number as u32), Some(*reason));
    }
    assert_eq!(Reason::from_u32(Reason::ALL.len() as u32), None);
}

#[test]
fn a_node_without_configuration_lets_no_pod_speak_and_keeps_its_own_traffic() {
    let mut node = Bench::new();
    node.configure(Config::default());
    let frame = tcp((A.ip, 1), (B.ip, 2), SYN).frame();
    for program in ["from_pod", "to_pod", "from_overlay", "to_overlay"] {
        node.expect_drop(program, &frame, Reason::NotConfigured);
    }
    for program in ["from_uplink", "to_uplink"] {
        assert_eq!(node.run(program, &frame).verdict, NEXT);
    }
}
