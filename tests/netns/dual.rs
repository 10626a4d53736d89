//! IPv6 beside IPv4: the same paths, over the other family.

use std::{io, net::IpAddr, time::Instant};

use fairlead_dataplane::model::Protocol;
use serde_json::json;

use crate::{
    address, at,
    echo::Server,
    space::OUTSIDE_V6,
    talk::{connect, connect_within, datagram, exchange, reaches},
    world::{DEADLINE, TestPod, World},
};

fn v6(pod: &TestPod) -> IpAddr {
    pod.v6.expect("an IPv6 address")
}

#[test]
fn pods_reach_each_other_over_ipv6_on_one_node_and_across_nodes() {
    let mut world = World::dual();
    let near = world.pod(0, "one", "near", &[]);
    let same = world.pod(0, "one", "same", &[]);
    let far = world.pod(1, "one", "far", &[]);
    let _servers = [&near, &same, &far].map(|pod| Server::new(&pod.space, &pod.key.name, 8080));
    for (from, to) in [(&near, &same), (&same, &near), (&near, &far), (&far, &near)] {
        let (stream, seen) = connect(&from.space, at(v6(to), 8080));
        assert_eq!(
            (seen.server.as_str(), seen.client),
            (&*to.key.name, v6(from)),
            "no address is translated"
        );
        exchange(&stream, 8 << 20);
        let seen = datagram(&from.space, at(v6(to), 8080), true).expect("an answer");
        assert_eq!((seen.server.as_str(), seen.client), (&*to.key.name, v6(from)));
        // IPv4 goes its own way meanwhile.
        assert_eq!(connect(&from.space, at(to.address, 8080)).1.client, from.address);
    }
    for (node, pod) in [(0, &near), (0, &far), (1, &near), (1, &far)] {
        let seen = connect(&world.nodes[node].space, at(v6(pod), 8080)).1;
        assert_eq!(seen.server, &*pod.key.name, "node {node} reaches {}", pod.key);
    }
}

#[test]
fn services_lead_to_backends_of_the_family_they_are_asked_in() {
    let mut world = World::dual();
    let client = world.pod(0, "one", "client", &[]);
    let pods = [world.pod(0, "one", "on-a", &[]), world.pod(1, "one", "on-b", &[])];
    let _servers = [0, 1].map(|index| Server::new(&pods[index].space, &pods[index].key.name, 8080));
    for (number, protocol) in [(0, Protocol::Tcp), (1, Protocol::Udp)] {
        let name = format!("{protocol:?}").to_lowercase();
        let addresses = format!("10.96.0.{},fd00:96::{}", 80 + number, 80 + number);
        world.service(&name, &addresses, protocol, 30080, 8080, &[&pods[0], &pods[1]]);
    }
    let mut seen: Vec<String> = Vec::new();
    for _ in 0..32 {
        let answer = connect(&client.space, at(address("fd00:96::80"), 80)).1;
        assert_eq!(answer.client, v6(&client));
        seen.push(answer.server);
        seen.push(connect(&world.nodes[0].space, at(address("fd00:96::80"), 80)).1.server);
        assert_eq!(connect(&client.space, at(address("10.96.0.80"), 80)).1.client, client.address);
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["on-a", "on-b"]);
    for connected in [true, false] {
        datagram(&client.space, at(address("fd00:96::81"), 80), connected).expect("an answer to the pod");
        datagram(&world.nodes[1].space, at(address("fd00:96::81"), 80), connected).expect("one to the node");
    }
    for node in 0..2 {
        let to = at(world.nodes[node].v6, 30080);
        let mut seen: Vec<String> = Vec::new();
        for _ in 0..32 {
            let (stream, answer) = connect(&world.outside, to);
            exchange(&stream, 1 << 16);
            seen.push(answer.server);
            datagram(&world.outside, to, true).expect("an answer to the outside");
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["on-a", "on-b"], "node {node} leads to both");
        connect(&client.space, to);
        connect(&world.nodes[0].space, to);
    }
}

#[test]
fn a_service_without_backends_refuses_over_ipv6() {
    let mut world = World::dual();
    let client = world.pod(0, "one", "client", &[]);
    world.service("empty", "10.96.0.85,fd00:96::85", Protocol::Tcp, 30085, 8080, &[]);
    for (space, to) in [
        (&client.space, at(address("fd00:96::85"), 80)),
        (&world.nodes[0].space, at(address("fd00:96::85"), 80)),
        (&world.outside, at(world.nodes[0].v6, 30085)),
    ] {
        let began = Instant::now();
        let error = connect_within(space, to, DEADLINE).expect_err("nobody is there");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{to}: {error}");
        assert!(began.elapsed().as_millis() < 500, "{to}: refused after {:?}", began.elapsed());
    }
}

#[test]
fn a_pod_reaches_itself_through_its_own_service_over_ipv6() {
    let mut world = World::dual();
    let pod = world.pod(0, "one", "self", &[]);
    let _server = Server::new(&pod.space, "self", 8080);
    world.service("self", "10.96.0.86,fd00:96::86", Protocol::Tcp, 30086, 8080, &[&pod]);
    let (stream, seen) = connect(&pod.space, at(address("fd00:96::86"), 80));
    assert_eq!(seen.server, "self");
    exchange(&stream, 1 << 20);
}

#[test]
fn what_pods_send_to_the_outside_over_ipv6_comes_from_their_node() {
    let mut world = World::dual();
    let pod = world.pod(1, "one", "pod", &[]);
    let _server = Server::new(&world.outside, "outside", 8080);
    let (stream, seen) = connect(&pod.space, at(OUTSIDE_V6, 8080));
    assert_eq!((seen.server.as_str(), seen.client), ("outside", world.nodes[1].v6));
    exchange(&stream, 4 << 20);
    let seen = datagram(&pod.space, at(OUTSIDE_V6, 8080), true).expect("an answer");
    assert_eq!(seen.client, world.nodes[1].v6);
}

#[test]
fn policies_hold_for_both_addresses_of_a_pod() {
    let mut world = World::dual();
    let web = world.pod(0, "one", "web", &[("app", "web")]);
    let friend = world.pod(0, "one", "friend", &[("role", "friend")]);
    let far = world.pod(1, "one", "far", &[]);
    let _server = Server::new(&web.space, "web", 8080);
    let picture = || {
        [&friend, &far]
            .map(|from| [web.address, v6(&web)].map(|address| reaches(&from.space, at(address, 8080))))
    };
    assert_eq!(picture(), [[true; 2]; 2], "without a policy everything passes");
    let to_web =
        |rules: serde_json::Value| json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules});
    world.policy("one", "p", to_web(json!([])));
    assert_eq!(picture(), [[false; 2]; 2], "default deny");
    assert_eq!(connect(&world.nodes[0].space, at(v6(&web), 8080)).1.server, "web", "its own node reaches it");
    let friends = json!({"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]});
    world.policy("one", "p", to_web(json!([friends])));
    assert_eq!(picture(), [[true; 2], [false; 2]], "by label");
    let block = json!({"cidr": "fd00:10:244::/56", "except": [format!("{}/128", v6(&friend))]});
    world.policy("one", "p", to_web(json!([{"from": [{"ipBlock": block}]}])));
    assert_eq!(picture(), [[false, false], [false, true]], "by a block of IPv6 alone, with an exception");
    world.no_policy("one", "p");
    world.policy("one", "e", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    assert_eq!(picture(), [[false; 2]; 2], "egress is denied at the source");
}
