//! Real traffic between namespaces through the real dataplane: what a test run of a program cannot show (sockets,
//! redirects, devices, restarts). Needs root; without it, every test fails.

mod balance;
mod dual;
mod echo;
mod sctp;
mod space;
mod splice;
mod talk;
mod world;
mod xdp;

use std::{
    collections::HashMap,
    fs,
    hash::Hash,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fairlead_cni::netlink;
use fairlead_dataplane::{
    bpf,
    inspect::{self, Inspect, ServiceCommand},
    maps::{
        Observed, carry,
        table::{RulePrefix, Table, Wire},
    },
    model::{Change, Key, NamedPort, Protocol, Rates, Service, ServicePort},
    overlay::NodePorts,
};
use serde_json::json;

use echo::Server;
use space::{OUTSIDE, Space};
use talk::{connect, connect_within, datagram, exchange, reaches};
use world::{DEADLINE, TestPod, World};

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn pods_reach_each_other_on_one_node_and_across_nodes() {
    let mut world = World::new();
    let near = world.pod(0, "one", "near", &[]);
    let same = world.pod(0, "one", "same", &[]);
    let far = world.pod(1, "one", "far", &[]);
    let _servers = [&near, &same, &far].map(|pod| Server::new(&pod.space, &pod.key.name, 8080));
    for (from, to) in [(&near, &same), (&same, &near), (&near, &far), (&far, &near)] {
        let (stream, seen) = connect(&from.space, at(to.address, 8080));
        assert_eq!(
            (seen.server.as_str(), seen.client),
            (&*to.key.name, from.address),
            "no address is translated"
        );
        // More than any buffer or window, in segments that the pods' stacks leave to be cut.
        exchange(&stream, 8 << 20);
        let seen = datagram(&from.space, at(to.address, 8080), true).expect("an answer");
        assert_eq!((seen.server.as_str(), seen.client), (&*to.key.name, from.address));
    }
    for (node, pod) in [(0, &near), (0, &far), (1, &near), (1, &far)] {
        let seen = connect(&world.nodes[node].space, at(pod.address, 8080)).1;
        assert_eq!(seen.server, &*pod.key.name, "node {node} reaches {}", pod.key);
    }
}

#[test]
fn a_service_spreads_evenly_over_both_nodes_for_pods_and_nodes() {
    let mut world = World::new();
    let client = world.pod(0, "one", "client", &[]);
    let backends: Vec<TestPod> =
        (0..4).map(|number| world.pod(number % 2, "one", &format!("web-{number}"), &[])).collect();
    let _servers: Vec<Server> =
        backends.iter().map(|pod| Server::new(&pod.space, &pod.key.name, 8080)).collect();
    let all: Vec<&TestPod> = backends.iter().collect();
    world.service("web", "10.96.0.10", Protocol::Tcp, 0, 8080, &all);
    world.service("dns", "10.96.0.11", Protocol::Udp, 0, 8080, &all);
    let mut counts: HashMap<String, i32> = HashMap::new();
    for _ in 0..1000 {
        *counts.entry(connect(&client.space, at(address("10.96.0.10"), 80)).1.server).or_default() += 1;
    }
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert!(counts.values().all(|count| (212..=288).contains(count)), "within 15 % of 250: {counts:?}");
    for connected in [true, false] {
        let mut names: Vec<String> = (0..64)
            .map(|_| {
                datagram(&client.space, at(address("10.96.0.11"), 80), connected).expect("an answer").server
            })
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 4, "every backend answers datagrams");
    }
    for node in &world.nodes {
        let seen = connect(&node.space, at(address("10.96.0.10"), 80)).1;
        assert!(seen.server.starts_with("web-"));
        datagram(&node.space, at(address("10.96.0.11"), 80), false).expect("an answer to the node");
    }
    // A backend that is taken out gets no new connection.
    world.service("web", "10.96.0.10", Protocol::Tcp, 0, 8080, &all[..1]);
    for _ in 0..50 {
        assert_eq!(connect(&client.space, at(address("10.96.0.10"), 80)).1.server, "web-0");
    }
}

#[test]
fn a_service_without_backends_refuses_at_once() {
    let mut world = World::new();
    let client = world.pod(0, "one", "client", &[]);
    world.service("empty", "10.96.0.20", Protocol::Tcp, 30020, 8080, &[]);
    world.service("empty-udp", "10.96.0.21", Protocol::Udp, 0, 8080, &[]);
    let check = |space: &Space, to: SocketAddr, what: &str| {
        let began = Instant::now();
        let error = connect_within(space, to, DEADLINE).expect_err("nobody is there");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{what}: {error}");
        assert!(began.elapsed() < Duration::from_millis(100), "{what}: refused after {:?}", began.elapsed());
    };
    check(&client.space, at(address("10.96.0.20"), 80), "pod to ClusterIP");
    check(&world.nodes[0].space, at(address("10.96.0.20"), 80), "node to ClusterIP");
    check(&world.outside, at(world.nodes[0].address, 30020), "outside to NodePort");
    let error = datagram(&client.space, at(address("10.96.0.21"), 80), true).expect_err("nobody is there");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "UDP: {error}");
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() {
    let mut world = World::new();
    let pod = world.pod(0, "one", "self", &[]);
    let _server = Server::new(&pod.space, "self", 8080);
    world.service("self", "10.96.0.30", Protocol::Tcp, 30030, 8080, &[&pod]);
    let (stream, seen) = connect(&pod.space, at(address("10.96.0.30"), 80));
    assert_eq!(seen.server, "self");
    exchange(&stream, 1 << 20);
}

#[test]
fn node_ports_answer_the_outside_on_every_node() {
    let mut world = World::new();
    let pods = [world.pod(0, "one", "on-a", &[]), world.pod(1, "one", "on-b", &[])];
    let _servers = [0, 1].map(|index| Server::new(&pods[index].space, &pods[index].key.name, 8080));
    for (number, pod) in pods.iter().enumerate() {
        let port = 30040 + number as u16;
        let (tcp, udp) = (format!("tcp-{number}"), format!("udp-{number}"));
        world.service(&tcp, &format!("10.96.0.{}", 40 + number), Protocol::Tcp, port, 8080, &[pod]);
        world.service(&udp, &format!("10.96.0.{}", 50 + number), Protocol::Udp, port, 8080, &[pod]);
        for node in 0..2 {
            let to = at(world.nodes[node].address, port);
            let (stream, seen) = connect(&world.outside, to);
            assert_eq!(seen.server, &*pod.key.name, "node {node} leads to {}", pod.key);
            exchange(&stream, 4 << 20);
            for connected in [true, false] {
                let seen = datagram(&world.outside, to, connected).expect("an answer");
                assert_eq!(seen.server, &*pod.key.name);
            }
            // From inside, the same port on the node's address works as well.
            assert_eq!(connect(&pods[0].space, to).1.server, &*pod.key.name);
            assert_eq!(connect(&world.nodes[0].space, to).1.server, &*pod.key.name);
        }
    }
}

#[test]
fn what_pods_send_to_the_outside_comes_from_their_node() {
    let mut world = World::new();
    let pod = world.pod(1, "one", "pod", &[]);
    let _server = Server::new(&world.outside, "outside", 8080);
    let (stream, seen) = connect(&pod.space, at(OUTSIDE, 8080));
    assert_eq!((seen.server.as_str(), seen.client), ("outside", world.nodes[1].address));
    exchange(&stream, 4 << 20);
    let seen = datagram(&pod.space, at(OUTSIDE, 8080), true).expect("an answer");
    assert_eq!(seen.client, world.nodes[1].address);
}

#[test]
fn default_deny_closes_and_rules_open_exactly_what_they_name() {
    let mut world = World::new();
    let http = NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 };
    let web = world.pod_with_ports(0, "one", "web", &[("app", "web")], vec![http]);
    let friend = world.pod(0, "one", "friend", &[("role", "friend")]);
    let far = world.pod(1, "two", "far", &[("role", "friend")]);
    let _servers = [8080, 8090, 8095].map(|port| Server::new(&web.space, "web", port));
    let seen = |from: &TestPod, port: u16| reaches(&from.space, at(web.address, port));
    let picture = || {
        [(&friend, 8080), (&friend, 8090), (&far, 8080), (&far, 8090)].map(|(from, port)| seen(from, port))
    };
    assert_eq!(picture(), [true; 4], "without a policy everything passes");

    let to_web =
        |from: serde_json::Value| json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [from]});
    world.policy("one", "p", json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    assert_eq!(picture(), [false; 4], "default deny");
    assert_eq!(
        connect(&world.nodes[0].space, at(web.address, 8080)).1.server,
        "web",
        "its own node still reaches it"
    );

    world.policy("one", "p", to_web(json!({"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]})));
    assert_eq!(picture(), [true, true, false, false], "a pod selector means the policy's own namespace");
    world.policy(
        "one",
        "p",
        to_web(
            json!({"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "two"}}}]}),
        ),
    );
    assert_eq!(picture(), [false, false, true, true], "by namespace, across nodes");
    let block = json!({"cidr": format!("{}/32", far.address)});
    world.policy("one", "p", to_web(json!({"from": [{"ipBlock": block}]})));
    assert_eq!(picture(), [false, false, true, true], "by block");
    let block = json!({"cidr": "10.244.0.0/16", "except": [format!("{}/32", friend.address)]});
    world.policy("one", "p", to_web(json!({"from": [{"ipBlock": block}]})));
    assert_eq!(picture(), [false, false, true, true], "by block with an exception");
    world.policy("one", "p", to_web(json!({"ports": [{"port": 8090}]})));
    assert_eq!(picture(), [false, true, false, true], "by port");
    world.policy("one", "p", to_web(json!({"ports": [{"port": "http"}]})));
    assert_eq!(picture(), [true, false, true, false], "by named port");
    world.policy("one", "p", to_web(json!({"ports": [{"port": 8081, "endPort": 8094}]})));
    assert_eq!(picture(), [false, true, false, true], "by range");
    assert!(!seen(&friend, 8095), "the range ends where it says");
    world.no_policy("one", "p");
    assert_eq!(picture(), [true; 4], "without the policy everything passes again");

    world.policy(
        "one",
        "e",
        json!({"podSelector": {"matchLabels": {"role": "friend"}}, "policyTypes": ["Egress"]}),
    );
    assert_eq!(picture(), [false, false, true, true], "egress is denied at the source");
    world.policy(
        "one",
        "e",
        json!({"podSelector": {"matchLabels": {"role": "friend"}}, "policyTypes": ["Egress"],
               "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "http"}]}]}),
    );
    assert_eq!(picture(), [true, false, true, true], "egress to a port by the name it has at the peer");
}

#[test]
fn a_policy_ends_an_established_connection_that_it_denies() {
    let mut world = World::new();
    let web = world.pod(0, "one", "web", &[("app", "web")]);
    let client = world.pod(1, "one", "client", &[]);
    let _server = Server::new(&web.space, "web", 8080);
    let (stream, _) = connect(&client.space, at(web.address, 8080));
    exchange(&stream, 1 << 16);
    world.policy("one", "p", json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("a timeout");
    let mut half = &stream;
    io::Write::write_all(&mut half, b"still there?").expect("the buffer takes it");
    let error = io::Read::read(&mut half, &mut [0; 16]).expect_err("no answer");
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
}

#[test]
fn a_restarted_dataplane_loses_no_byte_and_opens_nothing() {
    let mut world = World::new();
    let web = world.pod(0, "one", "web", &[("app", "web")]);
    let client = world.pod(1, "one", "client", &[("role", "friend")]);
    let stranger = world.pod(0, "one", "stranger", &[]);
    let _server = Server::new(&web.space, "web", 8080);
    world.service("web", "10.96.0.60", Protocol::Tcp, 0, 8080, &[&web]);
    let friends = json!({"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]});
    world.policy("one", "p", json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [friends]}));
    let (stream, _) = connect(&client.space, at(address("10.96.0.60"), 80));
    let (stop, exchanged, opened) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (flag, count) = (stop.clone(), exchanged.clone());
    let talker = std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            exchange(&stream, 1 << 18);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (flag, count, space, to) =
        (stop.clone(), opened.clone(), stranger.space.clone(), at(web.address, 8080));
    let knocker = std::thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            if connect_within(&space, to, Duration::from_millis(100)).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for round in 0..3 {
        for node in 0..2 {
            let before = exchanged.load(Ordering::Relaxed);
            world.kill(node);
            let began = Instant::now();
            while exchanged.load(Ordering::Relaxed) < before + 3 {
                assert!(
                    began.elapsed() < DEADLINE,
                    "round {round}: nothing passes while the dataplane is away"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(
                connect(&client.space, at(address("10.96.0.60"), 80)).1.server,
                "web",
                "new ones pass as well"
            );
            world.start(node);
        }
    }
    // After a restart the agents still carry out changes.
    let late = world.pod(0, "one", "late", &[("role", "friend")]);
    assert_ne!(late.address, web.address);
    assert!(reaches(&late.space, at(web.address, 8080)));
    stop.store(true, Ordering::Relaxed);
    talker.join().expect("no byte was lost");
    knocker.join().expect("the stranger");
    assert_eq!(opened.load(Ordering::Relaxed), 0, "nothing was open, not even for a moment");
}

#[test]
fn policies_that_changed_while_the_dataplane_was_away_drop_nothing_that_both_allow() {
    let mut world = World::new();
    let web = world.pod(0, "one", "web", &[("app", "web")]);
    let clients = [0, 1].map(|node| world.pod(node, "one", &format!("client-{node}"), &[("role", "friend")]));
    let _server = Server::new(&web.space, "web", 8080);
    let to_web = |from: serde_json::Value| json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [from]}]});
    // By their labels, by their block, and by labels with others told apart: each time peers have other numbers.
    let policies = [
        to_web(json!({"podSelector": {"matchLabels": {"role": "friend"}}})),
        to_web(json!({"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.7.0/24"]}})),
        to_web(json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"role": "friend"}}})),
    ];
    world.policy("one", "p", policies[0].clone());
    let stop = Arc::new(AtomicBool::new(false));
    let mut talkers = Vec::new();
    for client in &clients {
        let (stream, _) = connect(&client.space, at(web.address, 8080));
        let flag = stop.clone();
        talkers.push(std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                exchange(&stream, 1 << 16);
            }
        }));
        let (flag, space, to) = (stop.clone(), client.space.clone(), at(web.address, 8080));
        talkers.push(std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                connect(&space, to);
            }
        }));
    }
    for round in 1..=6 {
        world.kill(0);
        world.policy("one", "p", policies[round % policies.len()].clone());
        world.start(0);
    }
    stop.store(true, Ordering::Relaxed);
    for talker in talkers {
        talker.join().expect("nothing was refused");
    }
    let maps = Observed::open(&carry::directory(&world.nodes[0].settings.pins, fairlead_abi::ABI_VERSION))
        .expect("the maps");
    let reason = fairlead_abi::Reason::PolicyIngress as u32;
    let dropped: u64 = maps.drops.get(&reason).expect("counters").iter().map(|counter| counter.packets).sum();
    assert_eq!(dropped, 0, "packets that the policy of before and the one of now allow");
}

#[test]
fn a_changed_map_layout_cuts_no_connection_and_opens_nothing() {
    let mut world = World::new();
    let web = world.pod(0, "one", "web", &[("app", "web")]);
    let client = world.pod(1, "one", "client", &[("role", "friend")]);
    let stranger = world.pod(0, "one", "stranger", &[]);
    let _servers = [Server::new(&web.space, "web", 8080), Server::new(&world.outside, "outside", 8080)];
    world.service("web", "10.96.0.61", Protocol::Tcp, 30061, 8080, &[&web]);
    let from = json!({"from": [{"podSelector": {"matchLabels": {"role": "friend"}}},
                               {"ipBlock": {"cidr": "192.0.2.0/24"}}, {"ipBlock": {"cidr": "10.244.1.1/32"}}]});
    world.policy("one", "p", json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [from]}));
    // Translated at the socket, at the other node's uplink with a source of that node's, and by masquerade.
    let streams = [
        connect(&client.space, at(address("10.96.0.61"), 80)).0,
        connect(&world.outside, at(world.nodes[1].address, 30061)).0,
        connect(&stranger.space, at(OUTSIDE, 8080)).0,
    ];
    let stop = Arc::new(AtomicBool::new(false));
    let rounds: [Arc<AtomicU64>; 3] = Default::default();
    let talkers: Vec<_> = streams
        .into_iter()
        .zip(&rounds)
        .map(|(stream, count)| {
            let (flag, count) = (stop.clone(), count.clone());
            std::thread::spawn(move || {
                while !flag.load(Ordering::Relaxed) {
                    exchange(&stream, 1 << 16);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let (flag, space, to) = (stop.clone(), stranger.space.clone(), at(web.address, 8080));
    let knocker = std::thread::spawn(move || {
        let mut opened = 0;
        while !flag.load(Ordering::Relaxed) {
            opened += u32::from(connect_within(&space, to, Duration::from_millis(100)).is_ok());
        }
        opened
    });
    for node in 0..2 {
        world.kill(node);
        // The maps that the attached programs use become those of an older layout; what that one has otherwise is not
        // there to be read.
        let pins = world.nodes[node].settings.pins.clone();
        let (old, new) = (pins.join("maps_v1"), pins.join("maps_v2"));
        fs::rename(&new, &old).expect("a directory of pins");
        for name in ["SERVICES", "FRAGMENTS", "TABLES", "RANGES", "LOADS", "DIRECT", "ANNOUNCED", "RATES"] {
            let _ = fs::remove_file(old.join(name));
        }
        world.start(node);
        assert!(new.exists() && !old.exists(), "the older maps are unpinned once nothing uses them");
    }
    let before = rounds.each_ref().map(|count| count.load(Ordering::Relaxed));
    let began = Instant::now();
    while rounds.iter().zip(before).any(|(count, before)| count.load(Ordering::Relaxed) < before + 2) {
        assert!(began.elapsed() < DEADLINE, "a connection did not survive: {rounds:?} after {before:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Ordering::Relaxed);
    for talker in talkers {
        talker.join().expect("no byte was lost");
    }
    assert_eq!(knocker.join().expect("the stranger"), 0, "nothing was open, not even for a moment");
}

#[test]
fn datagram_flows_to_a_backend_that_leaves_are_forgotten_at_once() {
    let mut world = World::new();
    let client = world.pod(0, "one", "client", &[]);
    let backends = [world.pod(0, "one", "left", &[]), world.pod(0, "one", "stays", &[])];
    let _servers = [0, 1].map(|index| Server::new(&backends[index].space, &backends[index].key.name, 8080));
    let all = [&backends[0], &backends[1]];
    world.service("dns", "10.96.0.70", Protocol::Udp, 30070, 8080, &all);
    world.service("web", "10.96.0.71", Protocol::Tcp, 30071, 8080, &all[..1]);
    let to = at(world.nodes[0].address, 30070);
    for _ in 0..32 {
        datagram(&world.outside, to, true).expect("an answer to the outside");
        // Two, so that neither client always gets the same backend of the two that take turns.
        for _ in 0..2 {
            datagram(&client.space, at(address("10.96.0.70"), 80), false).expect("an answer to the pod");
        }
    }
    let (stream, seen) = connect(&world.outside, at(world.nodes[0].address, 30071));
    assert_eq!(seen.server, "left");
    let maps = Observed::open(&carry::directory(&world.nodes[0].settings.pins, fairlead_abi::ABI_VERSION))
        .expect("the maps");
    // Entries that lead to the backend: translations and sockets of datagrams, translations of TCP.
    let entries = || {
        let left = fairlead_abi::Addr::from(backends[0].address);
        let (mut datagrams, mut sockets, mut tcp) = (0, 0, 0);
        let each = |key: fairlead_abi::NatKey, value: fairlead_abi::NatValue| {
            if value.dst == left && key.kind == fairlead_abi::NatKey::SERVICE {
                *(if key.proto == 17 { &mut datagrams } else { &mut tcp }) += 1;
            }
        };
        maps.nat.for_each(each).expect("the translations");
        let each = |key: fairlead_abi::SocketKey, value: fairlead_abi::SocketValue| {
            sockets += i32::from(key.proto == 17 && (key.addr == left || value.addr == left));
        };
        maps.sockets.for_each(each).expect("the sockets");
        (datagrams, sockets, tcp)
    };
    let (datagrams, sockets, tcp) = entries();
    assert!(datagrams > 0 && sockets > 0 && tcp == 1, "{datagrams} {sockets} {tcp}");
    world.service("dns", "10.96.0.70", Protocol::Udp, 30070, 8080, &all[1..]);
    world.service("web", "10.96.0.71", Protocol::Tcp, 30071, 8080, &all[1..]);
    let began = Instant::now();
    while entries() != (0, 0, 1) {
        assert!(began.elapsed() < Duration::from_secs(2), "{:?} stay", entries());
        std::thread::sleep(Duration::from_millis(10));
    }
    exchange(&stream, 1 << 16);
    for _ in 0..8 {
        assert_eq!(datagram(&world.outside, to, true).expect("an answer").server, "stays");
    }
}

#[test]
fn a_health_check_port_says_whether_this_node_has_backends() {
    let mut world = World::new();
    let pod = world.pod(0, "one", "web", &[]);
    world.service("web", "10.96.0.72", Protocol::Tcp, 0, 8080, &[&pod]);
    world.send(Change::Service(Service {
        cluster_ips: vec![address("10.96.0.72")],
        ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: 30072 }],
        external_local: true,
        health_check_node_port: 32072,
        ..Service::new(Key::new("one", "web"))
    }));
    world.settle();
    for (node, expected) in [(0, "HTTP/1.1 200 OK"), (1, "HTTP/1.1 503 Service Unavailable")] {
        let to = at(world.nodes[node].address, 32072);
        let ask = || {
            world.outside.run(|| -> io::Result<String> {
                let mut stream = std::net::TcpStream::connect_timeout(&to, DEADLINE)?;
                io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
                io::read_to_string(stream)
            })
        };
        let began = Instant::now();
        let answer = loop {
            match ask() {
                Ok(answer) => break answer,
                Err(error) => assert!(began.elapsed() < DEADLINE, "node {node}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(answer.starts_with(expected), "node {node}: {answer}");
        assert!(answer.contains(&format!("x-load-balancing-endpoint-weight: {}\r\n", 1 - node)), "{answer}");
    }
}

/// Takes an entry out of a map, which must be noticed, and puts it back.
#[track_caller]
fn taken_out<K: Wire + Eq + Hash, V: Wire>(directory: &Path, map: &'static str, agrees: &dyn Fn() -> bool) {
    let table: Table<K, V> = Table::open(directory, map).expect("the map");
    let (key, value) = table.entries().expect("entries").into_iter().next().expect("an entry");
    table.remove(&key).expect("it was there");
    assert!(!agrees(), "{map} lacks an entry");
    table.set(&key, &value).expect("it fits");
    assert!(agrees(), "{map} is as it was");
}

#[test]
fn status_names_every_difference_between_maps_and_api() {
    let mut world = World::dual();
    let web = world.pod(0, "one", "web", &[("app", "web")]);
    world.service("web", "10.96.0.74,fd00:96::74", Protocol::Tcp, 30074, 8080, &[&web]);
    let from = json!({"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "192.0.2.0/24"}}]});
    world.policy("one", "p", json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [from]}));
    world.bound(&web, Rates { ingress: Some(8_000_000), egress: None });
    let settings = world.nodes[0].settings.clone();
    let look = |what: &Inspect| inspect::run(what, &settings.pins, &settings.run_dir).expect("the maps");
    let service = |name: &str| Inspect::Service(ServiceCommand::Get { name: name.to_owned() });
    assert!(look(&Inspect::Status), "what was written is what is wanted");
    assert!(look(&Inspect::Service(ServiceCommand::List)) && look(&service("one/web")));
    let directory = carry::directory(&settings.pins, fairlead_abi::ABI_VERSION);
    let entries = inspect::read(&directory).expect("the maps").entries;
    assert!(entries.iter().any(|entry| entry.key == "10.96.0.74:80/tcp"), "{entries:?}");
    // Somebody else takes an entry out of any map, or adds one to a map that should have none.
    taken_out::<RulePrefix, fairlead_abi::Rule>(&directory, fairlead_abi::map::RULES, &|| {
        look(&Inspect::Status)
    });
    taken_out::<fairlead_abi::RateKey, fairlead_abi::Rate>(&directory, fairlead_abi::map::RATES, &|| {
        look(&Inspect::Status)
    });
    taken_out::<u64, fairlead_abi::NetnsEntry>(&directory, fairlead_abi::map::NETNS, &|| {
        look(&Inspect::Status)
    });
    let announced: Table<fairlead_abi::Addr, u32> =
        Table::open(&directory, fairlead_abi::map::ANNOUNCED).expect("the map");
    announced.set(&address("192.0.2.222").into(), &1).expect("an entry");
    assert!(!look(&Inspect::Status), "no Service has the address");
    announced.remove(&address("192.0.2.222").into()).expect("it was there");
    assert!(look(&Inspect::Status), "all is as it was");
    let services: Table<fairlead_abi::ServiceKey, fairlead_abi::Service> =
        Table::open(&directory, fairlead_abi::map::SERVICES).expect("the map");
    let key = fairlead_abi::ServiceKey {
        addr: address("10.96.0.74").into(),
        port: fairlead_abi::Be16::new(80),
        proto: 6,
        scope: 0,
    };
    services.remove(&key).expect("it was there");
    assert!(!look(&Inspect::Status) && !look(&service("one/web")), "a frontend is missing");
    assert!(look(&service("one/other")), "which is not this one's");
    world.kill(0);
    assert!(!look(&Inspect::Status), "without the agent nothing can be compared");
}

#[test]
fn a_load_balancers_address_is_answered_for_by_one_node_and_moves_when_that_dies() {
    let mut world = World::new();
    let pods = [world.pod(0, "one", "on-a", &[]), world.pod(1, "one", "on-b", &[])];
    let _servers = [0, 1].map(|index| Server::new(&pods[index].space, &pods[index].key.name, 8080));
    world.service("web", "10.96.0.73", Protocol::Tcp, 30073, 8080, &[&pods[0], &pods[1]]);
    let virtual_address = address("192.0.2.200");
    world.send(Change::Service(Service {
        cluster_ips: vec![address("10.96.0.73")],
        balancer_ips: vec![virtual_address],
        ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: 30073 }],
        ..Service::new(Key::new("one", "web"))
    }));
    world.settle();
    let holders = |world: &World| -> Vec<usize> {
        (0..2)
            .filter(|node| {
                let pins = &world.nodes[*node].settings.pins;
                let maps =
                    Observed::open(&carry::directory(pins, fairlead_abi::ABI_VERSION)).expect("the maps");
                maps.announced.get(&virtual_address.into()).expect("an answer").is_some()
            })
            .collect()
    };
    let wait = |what: &str, patience: Duration, done: &dyn Fn() -> bool| {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < patience, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait("some node answers", DEADLINE, &|| !holders(&world).is_empty());
    connect(&world.outside, at(virtual_address, 80));
    // Longer than the other would wait before it takes the address.
    std::thread::sleep(Duration::from_millis(2500));
    let [first] = holders(&world)[..] else { panic!("one node answers: {:?}", holders(&world)) };
    let other = 1 - first;
    world.unplug(first);
    let began = Instant::now();
    wait("the other takes over", Duration::from_secs(2), &|| holders(&world).contains(&other));
    println!("moved after {:?}", began.elapsed());
    // Half of the tries go to the backend that has died as well.
    let knock = || reaches(&world.outside, at(virtual_address, 80));
    wait("the other leads to its backend", DEADLINE, &knock);
    world.plug(first);
    wait("the first has it again", Duration::from_secs(10), &|| holders(&world) == [first]);
    wait("the first leads on", DEADLINE, &knock);
}

#[test]
fn source_ranges_and_node_port_addresses_keep_others_out() {
    let mut world = World::new();
    world.reconfigure(1, |settings| {
        settings.node_ports = NodePorts::Within(vec!["198.51.100.0/24".parse().expect("a CIDR")]);
    });
    let pod = world.pod(0, "one", "web", &[]);
    let _server = Server::new(&pod.space, "web", 8080);
    world.service("web", "10.96.0.75", Protocol::Tcp, 30075, 8080, &[&pod]);
    let guarded = |range: &str| {
        Change::Service(Service {
            cluster_ips: vec![address("10.96.0.75")],
            balancer_ips: vec![address("192.0.2.201")],
            source_ranges: Some(vec![range.parse().expect("a CIDR")]),
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: 30075,
            }],
            ..Service::new(Key::new("one", "web"))
        })
    };
    world.send(guarded("192.0.2.100/32"));
    world.settle();
    let began = Instant::now();
    while !reaches(&world.outside, at(address("192.0.2.201"), 80)) {
        assert!(began.elapsed() < DEADLINE, "a client within the range is let in");
    }
    world.send(guarded("192.0.2.101/32"));
    world.settle();
    assert!(!reaches(&world.outside, at(address("192.0.2.201"), 80)), "others are not");
    assert!(reaches(&world.outside, at(world.nodes[0].address, 30075)), "node ports have no ranges");
    assert!(!reaches(&world.outside, at(world.nodes[1].address, 30075)), "and answer where they are told to");
}

#[test]
fn what_is_not_to_be_masqueraded_comes_from_the_pod() {
    let mut world = World::new();
    world.reconfigure(0, |settings| settings.direct = vec!["192.0.2.100/32".parse().expect("a CIDR")]);
    let pod = world.pod(0, "one", "pod", &[]);
    let _server = Server::new(&world.outside, "outside", 8080);
    world.outside_knows_pods(0);
    assert_eq!(connect(&pod.space, at(OUTSIDE, 8080)).1.client, pod.address);
    let other = world.pod(1, "one", "other", &[]);
    assert_eq!(connect(&other.space, at(OUTSIDE, 8080)).1.client, world.nodes[1].address);
}

#[test]
fn bandwidth_annotations_bound_what_a_pod_sends() {
    let mut world = World::new();
    let (client, web) = (world.pod(0, "one", "client", &[]), world.pod(1, "one", "web", &[]));
    let _server = Server::new(&web.space, "web", 8080);
    let (stream, _) = connect(&client.space, at(web.address, 8080));
    exchange(&stream, 1 << 20);
    // 16 Mbit/s are 2 MB/s; the burst of 0.2 s passes at once.
    world.bound(&client, Rates { ingress: None, egress: Some(16_000_000) });
    let began = Instant::now();
    exchange(&stream, 4 << 20);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1500), "4 MiB at 2 MB/s took {took:?}");
    world.bound(&client, Rates::default());
    let began = Instant::now();
    exchange(&stream, 4 << 20);
    assert!(began.elapsed() < took, "unbounded again: {:?}", began.elapsed());
}

#[test]
fn cni_is_idempotent_and_leaves_nothing() {
    let mut world = World::new();
    let pod = world.pod(0, "one", "pod", &[]);
    world.cni(&pod, "CHECK").expect("CHECK");
    world.cni(&pod, "STATUS").expect("STATUS");
    let conflist =
        fs::read_to_string(world.nodes[0].settings.cni_conf_dir.join("10-fairlead.conflist")).expect("it");
    assert!(conflist.contains("fairlead-cni"), "{conflist}");
    let subnet = fs::read_to_string(world.nodes[0].settings.run_dir.join("subnet.env")).expect("subnet.env");
    assert_eq!(
        subnet,
        "FAIRLEAD_NETWORK=10.244.0.0/16\nFAIRLEAD_SUBNET=10.244.0.1/24\nFAIRLEAD_MTU=1450\nFAIRLEAD_IPMASQ=true\n"
    );
    for _ in 0..2 {
        world.cni(&pod, "DEL").expect("DEL, also of what is gone");
    }
    assert!(world.cni(&pod, "CHECK").is_err(), "CHECK says that it is gone");
    let left = world.nodes[0].space.run(|| {
        let links = netlink::Socket::open().and_then(|mut socket| socket.links()).expect("links");
        links.into_iter().filter(|link| link.name.starts_with("flp")).count()
    });
    assert_eq!(left, 0, "no veth stays");
    let again = world.pod(0, "one", "pod", &[]);
    assert_ne!(again.address, pod.address, "an address rests before it is given again");
    world.cni(&again, "DEL").expect("DEL");
    world.kill(0);
    world.start(0);
    let third = world.pod(0, "one", "pod", &[]);
    assert!(![pod.address, again.address].contains(&third.address), "also across a restart");
}

#[test]
fn a_dual_stack_pod_gets_both_addresses_and_gives_them_back() {
    let mut world = World::dual();
    let pod = world.pod(1, "one", "pod", &[]);
    assert_eq!((pod.address, pod.v6), (address("10.244.1.2"), Some(address("fd00:10:244:1::2"))));
    world.cni(&pod, "CHECK").expect("CHECK");
    let subnet = fs::read_to_string(world.nodes[1].settings.run_dir.join("subnet.env")).expect("subnet.env");
    assert!(subnet.contains("FAIRLEAD_IPV6_SUBNET=fd00:10:244:1::1/64\n"), "{subnet}");
    let routes = |world: &World| -> Vec<String> {
        let routes =
            world.nodes[1].space.run(|| netlink::Socket::open().and_then(|mut socket| socket.routes()));
        routes
            .expect("routes")
            .iter()
            .map(|route| format!("{}/{}", route.destination, route.prefix))
            .collect()
    };
    for expected in ["10.244.1.2/32", "fd00:10:244:1::2/128", "10.244.0.0/24", "fd00:10:244::/64"] {
        assert!(routes(&world).iter().any(|route| route == expected), "{expected}: {:?}", routes(&world));
    }
    // A restart takes up what is there, whichever family.
    world.kill(1);
    world.start(1);
    world.cni(&pod, "CHECK").expect("CHECK after a restart");
    world.cni(&pod, "DEL").expect("DEL");
    assert!(world.cni(&pod, "CHECK").is_err(), "CHECK says that it is gone");
}

#[test]
fn cleaning_up_leaves_no_link_and_no_pin() {
    let mut world = World::new();
    let _pod = world.pod(0, "one", "pod", &[]);
    let mut links = Vec::new();
    for index in 0..2 {
        let directory = world.nodes[index].settings.pins.join("links");
        for entry in fs::read_dir(&directory).expect("the pins") {
            let link = bpf::pinned(&entry.expect("a pin").path()).expect("a link");
            links.push(bpf::link_id(link.as_fd()).expect("its number"));
        }
        world.kill(index);
    }
    assert!(links.len() >= 2 * 12, "links of both nodes: {}", links.len());
    assert!(links.iter().all(|id| bpf::link_exists(*id).expect("an answer")), "they outlive the agents");
    for index in 0..2 {
        world.remove_pins(index);
        assert!(!world.nodes[index].settings.pins.exists());
    }
    // The kernel frees links a moment after their last reference is gone.
    let began = Instant::now();
    while links.iter().any(|id| bpf::link_exists(*id).expect("an answer")) {
        assert!(began.elapsed() < DEADLINE, "links stay");
        std::thread::sleep(Duration::from_millis(10));
    }
}
