//! Which connections between pods may go from socket to socket, and which messages of them.

use crate::harness::{Net, V4, V6, config, endpoint};
use crate::host::{NOW, World};
use fairlead_abi::*;
use fairlead_programs::splice::{allows, enters, room};

const CLIENT: u16 = 40_000;
const SERVER: u16 = 80;
const NETNS: u64 = 77;

/// A node that splices, with pods `a` and `b`, and a connection of `a` to `b`.
fn world(net: &Net) -> (World, StreamKey) {
    let mut world = World::new(Config { flags: config().flags | Config::SPLICE, ..config() });
    for pod in [net.a, net.b] {
        world.endpoints.insert(pod.ip.into(), endpoint(&pod));
    }
    world.netns.insert(NETNS, NetnsEntry { role: NetnsEntry::POD, endpoint: net.a.id });
    let key = StreamKey {
        local: net.a.ip.into(),
        remote: net.b.ip.into(),
        local_port: Be16::new(CLIENT),
        remote_port: Be16::new(SERVER),
    };
    let (flow, high) = flow_key(&key);
    let entry = CtEntry {
        expires: NOW + 5,
        state: CtEntry::ESTABLISHED,
        flags: if high { CtEntry::HIGH_OPENED } else { 0 },
        opener_revision: 1,
        asked_revision: 1,
        ..CtEntry::default()
    };
    world.flows.borrow_mut().insert(flow, entry);
    (world, key)
}

fn flow_key(key: &StreamKey) -> (CtKey, bool) {
    let mut flow = CtKey::default();
    let high = flow.set(&key.local, key.local_port, &key.remote, key.remote_port, 6);
    (flow, high)
}

fn flow(world: &World, key: &StreamKey) -> CtEntry {
    world.flows.borrow()[&flow_key(key).0]
}

type Change = fn(&mut World, &StreamKey);

fn change_pod(world: &mut World, addr: Addr, change: impl FnOnce(&mut Endpoint)) {
    change(world.endpoints.get_mut(&addr).expect("a pod"));
}

fn change_flow(world: &World, key: &StreamKey, change: impl FnOnce(&mut CtEntry)) {
    change(world.flows.borrow_mut().get_mut(&flow_key(key).0).expect("a flow"));
}

/// What keeps both a socket out and a message back.
const NEITHER: [(&str, Change); 8] = [
    ("no configuration", |world, _| world.config.abi_version = 0),
    ("splicing is off", |world, _| world.config.flags &= !Config::SPLICE),
    ("the peer is no pod of this node", |world, key| {
        world.endpoints.remove(&key.remote);
    }),
    ("it is none itself", |world, key| {
        world.endpoints.remove(&key.local);
    }),
    ("the peer is closed", |world, key| {
        change_pod(world, key.remote, |pod| pod.flags |= Endpoint::CLOSED);
    }),
    ("it is closed", |world, key| change_pod(world, key.local, |pod| pod.flags |= Endpoint::CLOSED)),
    ("what it sends is bounded", |world, key| {
        change_pod(world, key.local, |pod| pod.flags |= Endpoint::EGRESS_RATE);
    }),
    ("what the peer receives is bounded", |world, key| {
        change_pod(world, key.remote, |pod| pod.flags |= Endpoint::INGRESS_RATE);
    }),
];

#[test]
fn a_socket_enters_when_it_is_a_pods_own_and_its_peer_is_another_pod_of_the_node() {
    let others: [(&str, Change); 4] = [
        ("another's network namespace", |world, _| {
            world.netns.remove(&NETNS);
        }),
        ("the node's", |world, _| {
            world.netns.insert(NETNS, NetnsEntry { role: NetnsEntry::NODE, endpoint: 0 });
        }),
        ("another pod's", |world, _| {
            world.netns.insert(NETNS, NetnsEntry { role: NetnsEntry::POD, endpoint: 99 });
        }),
        ("the pod itself is its peer", |world, key| {
            let own = world.endpoints[&key.local];
            world.endpoints.insert(key.remote, own);
        }),
    ];
    for net in [V4, V6] {
        let (world_of, key) = world(&net);
        assert!(enters(&world_of, &key, NETNS));
        for (what, change) in NEITHER.into_iter().chain(others) {
            let (mut world, key) = world(&net);
            change(&mut world, &key);
            assert!(!enters(&world, &key, NETNS), "{what}");
        }
    }
}

#[test]
fn a_message_is_held_against_its_flow_in_both_directions() {
    let others: [(&str, Change); 7] = [
        ("no flow", |world, _| world.flows.borrow_mut().clear()),
        ("an expired one", |world, key| change_flow(world, key, |flow| flow.expires = NOW - 1)),
        ("one without an answer", |world, key| change_flow(world, key, |flow| flow.state = CtEntry::NEW)),
        ("one that is over", |world, key| change_flow(world, key, |flow| flow.state = CtEntry::CLOSED)),
        ("a translated one", |world, key| change_flow(world, key, |flow| flow.flags |= CtEntry::DNAT)),
        ("one with a translated source", |world, key| {
            change_flow(world, key, |flow| flow.flags |= CtEntry::SNAT);
        }),
        ("the node's", |world, key| change_flow(world, key, |flow| flow.flags |= CtEntry::NODE)),
    ];
    for net in [V4, V6] {
        for mirror in [false, true] {
            let direct = |key: &StreamKey| if mirror { key.mirrored() } else { *key };
            let (world_of, key) = world(&net);
            assert!(allows(&world_of, &direct(&key), 1000));
            let expires = NOW + CtEntry::TCP_ESTABLISHED_SECONDS;
            assert_eq!(flow(&world_of, &key).expires, expires, "the flow lives on");
            assert!(world_of.metrics.borrow().is_empty(), "nothing is evaluated");
            for (what, change) in NEITHER.into_iter().chain(others) {
                let (mut world, key) = world(&net);
                change(&mut world, &key);
                let before = world.flows.borrow().clone();
                // What bounds one direction of a pod keeps both of its directions out.
                assert!(!allows(&world, &direct(&key), 1000), "{what}");
                assert_eq!(*world.flows.borrow(), before, "{what}: the flow is left alone");
            }
        }
    }
}

#[test]
fn a_message_is_judged_again_when_a_policy_has_changed() {
    const RULESET: u32 = 5;
    let rule = |port: u16| RuleKey {
        ruleset: Be32::new(RULESET),
        identity: Be32::new(0),
        proto: Be16::new(6),
        port: Be16::new(port),
    };
    // Which pod has rules, the port that they allow, and whether the connection is theirs.
    for (of_server, port, allowed) in
        [(true, SERVER, true), (true, CLIENT, false), (false, SERVER, true), (false, CLIENT, false)]
    {
        for mirror in [false, true] {
            let (mut world, key) = world(&V4);
            let pod = if of_server { key.remote } else { key.local };
            change_pod(&mut world, pod, |pod| {
                pod.revision = 2;
                *(if of_server { &mut pod.ingress_ruleset } else { &mut pod.egress_ruleset }) = RULESET;
            });
            world.rules.insert(rule(port), Rule { id: 9, flags: Rule::ALLOW });
            let sent = if mirror { key.mirrored() } else { key };
            let what = format!("rules of the server: {of_server}, port {port}, mirrored: {mirror}");
            assert_eq!(allows(&world, &sent, 1000), allowed, "{what}");
            let entry = flow(&world, &key);
            let stamps = (entry.opener_revision, entry.asked_revision);
            let renewed = if of_server { (1, 2) } else { (2, 1) };
            assert_eq!(stamps, if allowed { renewed } else { (1, 1) }, "{what}");
            let evaluated = world.metrics.borrow().get(&(Metric::PolicyEvaluated as u32)).copied();
            assert_eq!(evaluated, allowed.then_some(1), "{what}: a refusal is the packet path's to count");
        }
    }
}

#[test]
fn what_waits_for_a_reader_is_bounded_by_a_part_of_its_buffer() {
    for (buffer, waiting, expected) in [
        (400_000, 0, Some(100_000)),
        (400_000, 50_000, Some(50_000)),
        (400_000, 50_001, None),
        (400_000, u32::MAX, None),
        (2 << 20, 0, Some(512 << 10)),
    ] {
        assert_eq!(room(buffer, waiting), expected, "{waiting} of {buffer}");
    }
}
