use std::{collections::HashMap, net::Ipv4Addr};

use fairlead_abi::{ServiceKey, Table};
use ipnet::IpNet;

use super::*;
use crate::model::{Endpoint, SlicePort};

/// The maps as the kernel has them; refuses a state in which a frontend counts a backend that is not there.
#[derive(Default)]
struct Maps {
    frontends: HashMap<ServiceKey, Frontend>,
    backends: HashMap<BackendKey, Backend>,
    tables: HashMap<u32, Box<Table>>,
    ranges: Vec<(u32, IpNet)>,
}

impl Maps {
    #[track_caller]
    fn apply(&mut self, changes: &[ServiceChange]) {
        for change in changes {
            for (key, backend) in &change.set_backends {
                self.backends.insert(*key, *backend);
                self.check();
            }
            self.tables.extend(change.set_tables.iter().cloned());
            self.ranges.extend(&change.set_ranges);
            for (key, frontend) in &change.set_frontends {
                self.frontends.insert(*key, *frontend);
                self.check();
            }
            for key in &change.remove_frontends {
                self.frontends.remove(key);
            }
            self.ranges.retain(|range| !change.remove_ranges.contains(range));
            for table in &change.remove_tables {
                assert!(self.tables.remove(table).is_some(), "table {table} is removed twice");
                self.check();
            }
            for key in &change.remove_backends {
                assert!(self.backends.remove(key).is_some(), "{key:?} is removed twice");
                self.check();
            }
        }
    }

    #[track_caller]
    fn check_empty(&self) {
        let left = (self.frontends.len(), self.backends.len(), self.tables.len(), self.ranges.len());
        assert_eq!(left, (0, 0, 0, 0), "nothing stays behind");
    }

    fn frontend(&self, address: &str, port: u16) -> Frontend {
        let address = address.parse().expect("an address");
        self.frontends[&FrontendKey { address, port, protocol: Protocol::Tcp, inside: false }.wire()]
    }

    #[track_caller]
    fn check(&self) {
        for (key, frontend) in &self.frontends {
            let table = frontend.table;
            assert!(
                table == 0 || self.tables.contains_key(&table),
                "{key:?} names a table that is not there"
            );
            for slot in 0..frontend.backends {
                let backend = BackendKey { service: frontend.id, slot };
                assert!(
                    self.backends.contains_key(&backend),
                    "{key:?} counts slot {slot}, which is not there"
                );
            }
        }
    }

    fn backends_of(&self, address: &str, port: u16) -> Option<Vec<String>> {
        let address: IpAddr = address.parse().expect("an address");
        let key = FrontendKey { address, port, protocol: Protocol::Tcp, inside: false }.wire();
        let frontend = self.frontends.get(&key)?;
        let mut backends: Vec<String> = (0..frontend.backends)
            .map(|slot| self.backends[&BackendKey { service: frontend.id, slot }])
            .map(|backend| format!("{}:{}", backend.addr, backend.port.get()))
            .collect();
        backends.sort();
        Some(backends)
    }
}

fn service() -> Service {
    Service {
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 10).into()],
        ports: vec![ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 30080,
        }],
        ..Service::new(Key::new("shop", "web"))
    }
}

fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address.parse().expect("an address")],
        node: node.to_owned(),
        ready: true,
        serving: true,
        ..Endpoint::default()
    }
}

fn slice(name: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        key: Key::new("shop", name),
        service: Key::new("shop", "web"),
        ports: vec![SlicePort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints,
    }
}

fn table() -> (ServiceTable, Maps) {
    (ServiceTable::new("a", Algorithm::RoundRobin, HashMap::new()), Maps::default())
}

#[test]
fn cluster_ip_and_node_port_lead_to_every_ready_backend() {
    let (mut table, mut maps) = table();
    table.set_service(service());
    maps.apply(&table.settle());
    assert_eq!(
        maps.backends_of("10.96.0.10", 80),
        Some(vec![]),
        "without backends the frontend stands and refuses"
    );
    table.set_slice(slice("one", vec![endpoint("10.244.0.2", "a"), endpoint("10.244.1.2", "b")]));
    let mut not_ready = endpoint("10.244.1.3", "b");
    (not_ready.ready, not_ready.serving) = (false, false);
    table.set_slice(slice("two", vec![endpoint("10.244.1.4", "b"), not_ready]));
    maps.apply(&table.settle());
    let expected =
        Some(vec!["10.244.0.2:8080".to_owned(), "10.244.1.2:8080".to_owned(), "10.244.1.4:8080".to_owned()]);
    assert_eq!(maps.backends_of("10.96.0.10", 80), expected);
    assert_eq!(maps.backends_of("0.0.0.0", 30080), expected);
    table.remove_service(&Key::new("shop", "web"));
    maps.apply(&table.settle());
    maps.check_empty();
}

#[test]
fn local_policies_use_only_backends_of_this_node() {
    let (mut table, mut maps) = table();
    table.set_service(Service { external_local: true, ..service() });
    table.set_slice(slice("one", vec![endpoint("10.244.0.2", "a"), endpoint("10.244.1.2", "b")]));
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("0.0.0.0", 30080), Some(vec!["10.244.0.2:8080".to_owned()]));
    assert_eq!(maps.backends_of("10.96.0.10", 80).map(|backends| backends.len()), Some(2));
    let key = FrontendKey {
        address: Family::V4.unspecified(),
        port: 30080,
        protocol: Protocol::Tcp,
        inside: false,
    }
    .wire();
    assert_eq!(maps.frontends[&key].flags, Frontend::LOCAL | Frontend::INSIDE);
    // Pods and the node are no outside.
    let inside = maps.frontends[&ServiceKey { scope: ServiceKey::INSIDE, ..key }];
    assert_eq!((inside.flags, inside.backends), (0, 2));
    table.set_service(service());
    maps.apply(&table.settle());
    assert!(maps.frontends.keys().all(|key| key.scope == 0));
    table.remove_service(&Key::new("shop", "web"));
    maps.apply(&table.settle());
    maps.check_empty();
}

#[test]
fn terminating_backends_serve_only_when_nothing_is_ready() {
    let (mut table, mut maps) = table();
    let leaving = Endpoint { ready: false, terminating: true, ..endpoint("10.244.0.9", "a") };
    table.set_service(service());
    table.set_slice(slice("one", vec![leaving.clone(), endpoint("10.244.0.2", "a")]));
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("10.96.0.10", 80), Some(vec!["10.244.0.2:8080".to_owned()]));
    table.set_slice(slice("one", vec![leaving]));
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("10.96.0.10", 80), Some(vec!["10.244.0.9:8080".to_owned()]));
}

#[test]
fn a_change_of_one_service_touches_only_its_own_entries() {
    let (mut table, mut maps) = table();
    for number in 0..200_u8 {
        let key = Key::new("shop", &format!("s{number}"));
        let address = Ipv4Addr::new(10, 96, 1, number).into();
        let mut other = Service { key: key.clone(), cluster_ips: vec![address], ..service() };
        other.ports[0].node_port = 0;
        table.set_service(other);
        table.set_slice(EndpointSlice {
            key: Key::new("shop", &format!("s{number}-x")),
            service: key,
            ..slice("", vec![endpoint("10.244.0.2", "a")])
        });
    }
    maps.apply(&table.settle());
    table.set_slice(EndpointSlice {
        key: Key::new("shop", "s7-x"),
        service: Key::new("shop", "s7"),
        ..slice("", vec![endpoint("10.244.0.2", "a"), endpoint("10.244.0.3", "a")])
    });
    let changes = table.settle();
    maps.apply(&changes);
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].set_backends.len(), changes[0].set_frontends.len()), (1, 1));
    assert!(table.settle().is_empty(), "what has not changed is not written again");
}

#[test]
fn backends_keep_their_slots_when_others_leave() {
    let backend =
        |last| Backend { addr: Addr::from(Ipv4Addr::new(10, 244, 0, last)), port: Be16::new(80), flags: 0 };
    let order = [backend(1), backend(2), backend(3), backend(4)];
    assert_eq!(
        keep_slots(&order, vec![backend(1), backend(3), backend(4)]),
        [backend(1), backend(4), backend(3)]
    );
    assert_eq!(
        keep_slots(&order, vec![backend(9), backend(4), backend(1)]),
        [backend(1), backend(4), backend(9)]
    );
    assert_eq!(keep_slots(&[], vec![backend(2), backend(1)]), [backend(2), backend(1)]);
}

#[test]
fn the_second_claim_to_a_frontend_waits_for_the_first_to_end() {
    let (mut table, mut maps) = table();
    let second = Service {
        key: Key::new("shop", "zweb"),
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 11).into()],
        ..service()
    };
    table.set_service(service());
    maps.apply(&table.settle());
    table.set_service(second.clone());
    table.set_slice(EndpointSlice {
        key: Key::new("shop", "z"),
        service: second.key,
        ..slice("", vec![endpoint("10.244.0.7", "a")])
    });
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("0.0.0.0", 30080), Some(vec![]), "the first still has the port");
    table.remove_service(&Key::new("shop", "web"));
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("0.0.0.0", 30080), Some(vec!["10.244.0.7:8080".to_owned()]));
}

#[test]
fn host_ports_lead_to_their_pod() {
    let (mut table, mut maps) = table();
    let owner = Key::new("", "sandbox");
    let port = HostPort {
        address: Family::V4.unspecified(),
        port: 8080,
        protocol: Protocol::Tcp,
        pod: Ipv4Addr::new(10, 244, 0, 5).into(),
        pod_port: 80,
    };
    table.set_host_ports(owner.clone(), vec![port]);
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("0.0.0.0", 8080), Some(vec!["10.244.0.5:80".to_owned()]));
    table.set_host_ports(owner, Vec::new());
    maps.apply(&table.settle());
    maps.check_empty();
}

#[test]
fn what_other_nodes_send_on_as_it_came_is_found_by_their_addresses() {
    let (mut table, mut maps) = table();
    let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let mut dual = service();
    dual.cluster_ips.push(ip("fd00:96::10"));
    table.set_service(Service { direct_return: true, ..dual.clone() });
    table.set_slice(slice("six", vec![endpoint("fd00:10::2", "a"), endpoint("fd00:10::3", "b")]));
    table.set_node_addresses([ip("2001:db8::1")]);
    table.set_peer_addresses([ip("2001:db8::2"), ip("192.0.2.2")]);
    maps.apply(&table.settle());
    for address in ["2001:db8::1", "2001:db8::2"] {
        assert_eq!(maps.backends_of(address, 30080).map(|backends| backends.len()), Some(2), "{address}");
    }
    assert_eq!(maps.backends_of("192.0.2.2", 30080), None, "one entry stands for every IPv4 address");
    table.set_peer_addresses([ip("2001:db8::3")]);
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("2001:db8::2", 30080), None, "that node left");
    assert_eq!(maps.backends_of("2001:db8::3", 30080).map(|backends| backends.len()), Some(2));
    table.set_service(dual);
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("2001:db8::3", 30080), None, "without direct return they translate");
}

#[test]
fn each_family_leads_to_backends_of_its_own() {
    let (mut table, mut maps) = table();
    let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let mut dual = service();
    dual.cluster_ips.push(ip("fd00:96::10"));
    dual.external_ips = vec![ip("198.51.100.7"), ip("2001:db8::7")];
    table.set_service(dual);
    table.set_slice(slice("four", vec![endpoint("10.244.0.2", "a")]));
    table.set_slice(slice("six", vec![endpoint("fd00:10::2", "a"), endpoint("fd00:10::3", "b")]));
    table.set_node_addresses([ip("192.0.2.1"), ip("2001:db8::1")]);
    maps.apply(&table.settle());
    let (four, six) = (vec!["10.244.0.2:8080"], vec!["fd00:10::2:8080", "fd00:10::3:8080"]);
    for (address, port, expected) in [
        ("10.96.0.10", 80, &four),
        ("198.51.100.7", 80, &four),
        ("0.0.0.0", 30080, &four),
        ("fd00:96::10", 80, &six),
        ("2001:db8::7", 80, &six),
        ("2001:db8::1", 30080, &six),
    ] {
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(maps.backends_of(address, port), Some(expected), "{address}");
    }
    table.set_node_addresses([ip("2001:db8::2")]);
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("2001:db8::1", 30080), None, "an address that left answers no more");
    assert_eq!(maps.backends_of("2001:db8::2", 30080).map(|backends| backends.len()), Some(2));
    let single = service();
    table.set_service(single);
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("fd00:96::10", 80), None);
    assert_eq!(maps.backends_of("2001:db8::2", 30080), None);
}

#[test]
fn the_algorithm_is_the_services_or_by_where_it_is_asked() {
    let (mut table, mut maps) = table();
    table.set_service(Service { external_ips: vec![Ipv4Addr::new(198, 51, 100, 7).into()], ..service() });
    table.set_slice(slice("one", vec![endpoint("10.244.0.2", "a"), endpoint("10.244.1.2", "b")]));
    maps.apply(&table.settle());
    let inside = maps.frontend("10.96.0.10", 80);
    assert_eq!((inside.algorithm, inside.table), (Frontend::ROUND_ROBIN, 0));
    for (address, port) in [("0.0.0.0", 30080), ("198.51.100.7", 80)] {
        let outside = maps.frontend(address, port);
        assert_eq!((outside.algorithm, outside.table, outside.flags), (Frontend::MAGLEV, inside.id, 0));
    }
    let least = Service { algorithm: Some(Algorithm::LeastConnections), direct_return: true, ..service() };
    table.set_service(least);
    maps.apply(&table.settle());
    for (address, port) in [("10.96.0.10", 80), ("0.0.0.0", 30080)] {
        let frontend = maps.frontend(address, port);
        assert_eq!((frontend.algorithm, frontend.table, frontend.flags), (Frontend::LEAST, 0, 0));
    }
    assert!(maps.tables.is_empty(), "a table that no frontend names is removed");
    table.set_service(Service { direct_return: true, ..service() });
    maps.apply(&table.settle());
    assert_eq!(maps.frontend("0.0.0.0", 30080).flags, Frontend::DSR);
    assert_eq!(maps.frontend("10.96.0.10", 80).flags, 0);
}

#[test]
fn weights_of_pods_make_tables_for_every_algorithm() {
    let (mut table, mut maps) = table();
    table.set_service(service());
    table.set_slice(slice("one", vec![endpoint("10.244.0.2", "a"), endpoint("10.244.1.2", "b")]));
    maps.apply(&table.settle());
    let heavy = "10.244.1.2".parse().expect("an address");
    table.set_weight("bank", heavy, Some(3));
    assert!(table.settle().is_empty(), "pods of another namespace back nothing here");
    table.set_weight("shop", heavy, Some(3));
    table.set_weight("shop", heavy, Some(4));
    maps.apply(&table.settle());
    let inside = maps.frontend("10.96.0.10", 80);
    assert_eq!((inside.algorithm, inside.table), (Frontend::ROUND_ROBIN, inside.id));
    let slot = |wanted: IpAddr| {
        (0..2).find(|slot| {
            maps.backends[&BackendKey { service: inside.id, slot: *slot }].addr == Addr::from(wanted)
        })
    };
    let slot = slot(heavy).expect("a slot") as u16;
    let share = maps.tables[&inside.id].slots.iter().filter(|s| **s == slot).count();
    assert!(share.abs_diff(Table::SIZE * 4 / 5) <= 2, "{share} of {}", Table::SIZE);
    table.set_weight("shop", heavy, None);
    maps.apply(&table.settle());
    assert_eq!(maps.frontend("10.96.0.10", 80).table, 0);
    table.remove_service(&Key::new("shop", "web"));
    maps.apply(&table.settle());
    maps.check_empty();
}

#[test]
fn services_that_share_an_address_leave_it_to_nodes_that_suit_all() {
    let address: IpAddr = "192.0.2.200".parse().expect("an address");
    // For each Service whether it is local, and its nodes with a ready backend.
    type Local<'a> = Option<&'a [&'a str]>;
    let check = |one: Local<'_>, other: Local<'_>, expected: Local<'_>| {
        let (mut table, _) = table();
        for (name, local) in [("one", one), ("other", other)] {
            let key = Key::new("shop", name);
            let endpoints = local.into_iter().flatten().map(|node| endpoint("10.244.0.2", node)).collect();
            table.set_slice(EndpointSlice { key: key.clone(), service: key.clone(), ..slice("", endpoints) });
            let external_local = local.is_some();
            table.set_service(Service { key, balancer_ips: vec![address], external_local, ..service() });
        }
        table.settle();
        let expected = expected.map(|nodes| nodes.iter().copied().collect());
        assert_eq!(table.balancers()[&address], expected, "{one:?} and {other:?}");
    };
    check(None, None, None);
    check(Some(&["a"]), None, Some(&["a"]));
    check(None, Some(&["a", "b"]), Some(&["a", "b"]));
    check(Some(&["a", "b"]), Some(&["b", "c"]), Some(&["b"]));
    check(Some(&["a"]), Some(&["c"]), Some(&["a", "c"]));
    check(Some(&[]), None, None);
    check(Some(&[]), Some(&["c"]), Some(&["c"]));
}

#[test]
fn source_ranges_guard_the_load_balancers_addresses_alone() {
    let (mut table, mut maps) = table();
    let range = |text: &str| -> IpNet { text.parse().expect("a CIDR") };
    let guarded = |ranges: &[&str]| Service {
        balancer_ips: vec![Ipv4Addr::new(198, 51, 100, 9).into()],
        source_ranges: Some(ranges.iter().map(|text| range(text)).collect()),
        ..service()
    };
    table.set_service(guarded(&["192.0.2.7/24", "2001:db8::/32"]));
    maps.apply(&table.settle());
    let balancer = maps.frontend("198.51.100.9", 80);
    assert_eq!(balancer.flags, Frontend::RANGES);
    assert_eq!(maps.ranges, [(balancer.id, range("192.0.2.0/24"))]);
    assert_eq!(maps.frontend("0.0.0.0", 30080).flags, 0);
    table.set_service(guarded(&["2001:db8::/32"]));
    maps.apply(&table.settle());
    assert_eq!(
        maps.frontend("198.51.100.9", 80).flags,
        Frontend::RANGES,
        "ranges of IPv6 alone open nothing"
    );
    assert!(maps.ranges.is_empty());
}

#[test]
fn backends_that_leave_a_datagram_service_are_named_with_what_led_to_them() {
    let (mut table, mut maps) = table();
    let mut dns = service();
    dns.ports[0].protocol = Protocol::Udp;
    let udp_slice = |endpoints| {
        let mut slice = slice("one", endpoints);
        slice.ports[0].protocol = Protocol::Udp;
        slice
    };
    table.set_service(dns);
    table.set_slice(udp_slice(vec![endpoint("10.244.0.2", "a"), endpoint("10.244.1.2", "b")]));
    let changes = table.settle();
    maps.apply(&changes);
    assert!(changes.iter().all(|change| change.gone.is_empty()));
    table.set_slice(udp_slice(vec![endpoint("10.244.1.2", "b")]));
    let changes = table.settle();
    let [Gone { backend, frontends, .. }] = changes[0].gone.as_slice() else { panic!("{changes:?}") };
    assert_eq!(backend.addr.to_string(), "10.244.0.2");
    assert_eq!(frontends.len(), 2, "the cluster address and the node port: {frontends:?}");
    table.set_service(service());
    table.set_slice(slice("one", vec![endpoint("10.244.1.2", "b")]));
    table.settle();
    table.remove_service(&Key::new("shop", "web"));
    assert!(table.settle()[0].gone.is_empty(), "TCP connections end by themselves");
}

#[test]
fn health_checks_count_what_is_ready_here() {
    let (mut table, mut maps) = table();
    let local = Service { external_local: true, health_check_node_port: 32000, ..service() };
    table.set_service(local.clone());
    let away = Endpoint { ready: false, ..endpoint("10.244.0.3", "a") };
    table.set_slice(slice("one", vec![endpoint("10.244.0.2", "a"), away, endpoint("10.244.1.2", "b")]));
    maps.apply(&table.settle());
    let checks = table.changed_checks().expect("a change");
    assert_eq!(checks.get(&32000).map(|health| health.local), Some(1));
    assert_eq!(table.changed_checks(), None);
    table.set_slice(slice("one", vec![endpoint("10.244.1.2", "b")]));
    maps.apply(&table.settle());
    assert_eq!(table.changed_checks().expect("a change")[&32000].local, 0);
    table.set_service(Service { external_local: false, ..local });
    maps.apply(&table.settle());
    assert_eq!(table.changed_checks(), Some(Checks::new()));
}

#[test]
fn who_has_an_address_decides_what_pods_get_there() {
    let (mut table, mut maps) = table();
    let external: IpAddr = "203.0.113.7".parse().expect("an address");
    let asks = |name: &str, external_local: bool| {
        let mut other = Service {
            key: Key::new("shop", name),
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, if external_local { 11 } else { 12 }).into()],
            external_ips: vec![external],
            external_local,
            ..service()
        };
        other.ports[0].node_port = 0;
        other
    };
    let scopes = |maps: &Maps| {
        let mut scopes: Vec<u8> =
            maps.frontends.keys().filter(|key| key.addr == external.into()).map(|key| key.scope).collect();
        scopes.sort_unstable();
        scopes
    };
    table.set_service(asks("first", false));
    maps.apply(&table.settle());
    table.set_service(asks("later", true));
    maps.apply(&table.settle());
    assert_eq!(scopes(&maps), [0], "the second waits for both");
    table.remove_service(&Key::new("shop", "first"));
    maps.apply(&table.settle());
    assert_eq!(scopes(&maps), [0, ServiceKey::INSIDE]);
}
