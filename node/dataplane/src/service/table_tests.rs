use std::{collections::HashMap, net::Ipv4Addr};

use super::*;
use crate::model::{Endpoint, SlicePort};

/// The maps as the kernel has them; refuses a state in which a frontend counts a backend that is not there.
#[derive(Default)]
struct Maps {
    frontends: HashMap<ServiceKey, Frontend>,
    backends: HashMap<BackendKey, Backend>,
}

impl Maps {
    #[track_caller]
    fn apply(&mut self, changes: &[ServiceChange]) {
        for change in changes {
            for (key, backend) in &change.set_backends {
                self.backends.insert(*key, *backend);
                self.check();
            }
            for (key, frontend) in &change.set_frontends {
                self.frontends.insert(*key, *frontend);
                self.check();
            }
            for key in &change.remove_frontends {
                self.frontends.remove(key);
            }
            for key in &change.remove_backends {
                assert!(self.backends.remove(key).is_some(), "{key:?} is removed twice");
                self.check();
            }
        }
    }

    #[track_caller]
    fn check(&self) {
        for (key, frontend) in &self.frontends {
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
        let key = FrontendKey { address, port, protocol: Protocol::Tcp }.wire();
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
        key: Key::new("shop", "web"),
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 10).into()],
        external_ips: Vec::new(),
        ports: vec![ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 30080,
        }],
        external_local: false,
        internal_local: false,
        affinity_seconds: 0,
    }
}

fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint {
        addresses: vec![address.parse().expect("an address")],
        node: node.to_owned(),
        ready: true,
        serving: true,
        terminating: false,
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
    (ServiceTable::new("a", HashMap::new()), Maps::default())
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
    assert!(maps.frontends.is_empty() && maps.backends.is_empty(), "nothing stays behind");
}

#[test]
fn local_policies_use_only_backends_of_this_node() {
    let (mut table, mut maps) = table();
    table.set_service(Service { external_local: true, ..service() });
    table.set_slice(slice("one", vec![endpoint("10.244.0.2", "a"), endpoint("10.244.1.2", "b")]));
    maps.apply(&table.settle());
    assert_eq!(maps.backends_of("0.0.0.0", 30080), Some(vec!["10.244.0.2:8080".to_owned()]));
    assert_eq!(maps.backends_of("10.96.0.10", 80).map(|backends| backends.len()), Some(2));
    let key = FrontendKey { address: Family::V4.unspecified(), port: 30080, protocol: Protocol::Tcp }.wire();
    assert_eq!(maps.frontends[&key].flags, Frontend::LOCAL);
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
    assert!(maps.frontends.is_empty() && maps.backends.is_empty());
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
