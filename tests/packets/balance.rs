//! How new connections are spread over backends.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use std::collections::BTreeMap;

const BACKENDS: u8 = 4;

fn node(net: &Net, algorithm: u32, slots: Option<&dyn Fn(usize) -> u16>) -> Bench {
    let mut node = Bench::new();
    let backends: Vec<End> = (0..BACKENDS).map(|n| (net.remote_pod(10 + n), 8080)).collect();
    let table = if slots.is_some() { 77 } else { 0 };
    let service = Service { id: 3, backends: BACKENDS.into(), algorithm, table, ..Service::default() };
    node.service_with(net.cluster_ip, 80, TCP, service, &backends);
    if let Some(slot) = slots {
        node.put("TABLES", 77u32, Table { slots: std::array::from_fn(slot), _pad: 0 });
    }
    node
}

/// How many of a thousand connections each backend gets.
fn spread(node: &mut Bench, net: &Net) -> BTreeMap<End, u32> {
    let mut seen = BTreeMap::new();
    for port in 20000..21000 {
        let frame = tcp((net.a.ip, port), (net.cluster_ip, 80), SYN).frame();
        *seen.entry(ends(&node.run("from_pod", &frame).bytes).1).or_default() += 1;
    }
    seen
}

#[test]
fn every_algorithm_reaches_every_backend_about_as_often() {
    for net in NETS {
        for algorithm in [Service::ROUND_ROBIN, Service::RANDOM, Service::MAGLEV, Service::LEAST] {
            for table in [None, Some(&(|n: usize| (n % 4) as u16) as &dyn Fn(usize) -> u16)] {
                let mut node = node(&net, algorithm, table);
                let seen = spread(&mut node, &net);
                assert_eq!(seen.len(), 4, "algorithm {algorithm}: {seen:?}");
                assert!(seen.values().all(|count| (180..=320).contains(count)), "{algorithm}: {seen:?}");
            }
        }
    }
}

#[test]
fn weights_are_shares_of_the_table() {
    for net in NETS {
        for algorithm in [Service::ROUND_ROBIN, Service::RANDOM, Service::MAGLEV] {
            // One of ten for the first backend, nine for the second.
            let mut node = node(&net, algorithm, Some(&|n| u16::from(n % 10 != 0)));
            let seen = spread(&mut node, &net);
            let first = seen.get(&(net.remote_pod(10), 8080)).copied().unwrap_or(0);
            assert!((60..=140).contains(&first) && seen.len() == 2, "algorithm {algorithm}: {seen:?}");
        }
    }
}

#[test]
fn maglev_leads_a_flow_to_the_same_backend_on_every_node() {
    for net in NETS {
        let slots = |n: usize| (n * 7 % 4) as u16;
        let (mut one, mut other) =
            (node(&net, Service::MAGLEV, Some(&slots)), node(&net, Service::MAGLEV, Some(&slots)));
        for port in 20000..20200 {
            let frame = tcp((net.outside, port), (net.cluster_ip, 80), SYN).frame();
            let chosen = ends(&one.run("from_uplink", &frame).bytes).1;
            assert_eq!(chosen, ends(&other.run("from_uplink", &frame).bytes).1);
        }
    }
}

#[test]
fn maglev_with_affinity_goes_by_the_client_alone() {
    for net in NETS {
        let mut node = node(&net, Service::MAGLEV, None);
        let service = Service {
            id: 3,
            backends: BACKENDS.into(),
            algorithm: Service::MAGLEV,
            affinity_seconds: 60,
            ..Service::default()
        };
        node.service_with(net.cluster_ip, 80, TCP, service, &[]);
        assert_eq!(spread(&mut node, &net).len(), 1);
        assert_eq!(node.all::<AffinityKey, AffinityValue>("AFFINITY"), [], "no memory is needed for it");
    }
}

#[test]
fn a_table_that_names_slots_that_are_gone_harms_nobody() {
    for net in NETS {
        let mut node = node(&net, Service::RANDOM, Some(&|n| n as u16));
        assert_eq!(spread(&mut node, &net).len(), 4);
    }
}

#[test]
fn least_connections_count_flows_from_their_first_to_their_last_packet() {
    for net in NETS {
        let mut node = node(&net, Service::LEAST, None);
        let open = |node: &Bench| node.all::<LoadKey, u32>("LOADS").iter().map(|(_, open)| open).sum::<u32>();
        let client = (net.a.ip, 40000);
        let asked = (net.cluster_ip, 80);
        let backend = ends(&node.run("from_pod", &tcp(client, asked, SYN).frame()).bytes).1;
        node.run("from_pod", &tcp(client, asked, ACK).frame());
        let loads = node.all::<LoadKey, u32>("LOADS");
        let key = LoadKey { addr: backend.0.into(), port: Be16::new(8080), proto: TCP, _pad: 0, service: 3 };
        assert_eq!(loads, [(key, 1)]);
        node.run("from_pod", &tcp(client, asked, RST).frame());
        assert_eq!(open(&node), 0);
        node.run("from_pod", &tcp(client, asked, RST).frame());
        assert_eq!(open(&node), 0);
        // The same ends again.
        node.run("from_pod", &tcp(client, asked, SYN).frame());
        assert_eq!(open(&node), 1);
        // From outside, with a source of this node's; the answer ends it.
        let client = (net.outside, 50000);
        node.run("from_uplink", &tcp(client, asked, SYN).frame());
        assert_eq!(open(&node), 2);
    }
}

#[test]
fn the_backend_with_fewer_connections_is_preferred() {
    for net in NETS {
        let mut node = node(&net, Service::LEAST, None);
        for number in 0..BACKENDS {
            let addr = net.remote_pod(10 + number).into();
            let key = LoadKey { addr, port: Be16::new(8080), proto: TCP, _pad: 0, service: 3 };
            node.put("LOADS", key, if number == 2 { 0u32 } else { 100_000 });
        }
        let seen = spread(&mut node, &net);
        let idle = seen[&(net.remote_pod(12), 8080)];
        // Drawn as one of two: 7 in 16.
        assert!((380..=500).contains(&idle), "{seen:?}");
    }
}
