//! NetworkPolicy: tables of rules, what a change does to established flows, and generated policies compared
//! with what they mean.

use crate::harness::*;
use crate::packet::*;
use fairlead_abi::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::net::IpAddr;

const CLIENT: End = (A.ip, 40000);
const SERVER: End = (B.ip, 80);
const IN: u32 = 7;
const OUT: u32 = 8;

/// A node on which B is selected for ingress.
fn guarded() -> Bench {
    let mut node = Bench::new();
    node.endpoint(&B, |b| b.ingress_ruleset = IN);
    node.identity(A.ip, 32, 21);
    node
}

#[track_caller]
fn allowed(node: &mut Bench, packet: &Packet) -> bool {
    let out = node.run("from_pod", &packet.frame());
    match out.verdict {
        DROP => false,
        REDIRECT | NEXT => true,
        other => panic!("verdict {other}"),
    }
}

#[test]
fn a_selected_pod_is_closed_and_an_unselected_one_open() {
    let mut node = guarded();
    node.expect_drop("from_pod", &tcp(CLIENT, SERVER, SYN).frame(), Reason::PolicyIngress);
    node.expect_drop("from_pod", &udp(CLIENT, SERVER, b"").frame(), Reason::PolicyIngress);
    node.expect_drop("from_pod", &echo(A.ip, B.ip, true, 1).frame(), Reason::PolicyIngress);
    assert!(allowed(&mut node, &tcp(SERVER, (A.ip, 80), SYN)), "ingress rules do not hold B's own traffic");
    let mut node = Bench::new();
    node.endpoint(&A, |a| a.egress_ruleset = OUT);
    node.expect_drop("from_pod", &tcp(CLIENT, SERVER, SYN).frame(), Reason::PolicyEgress);
    node.expect_drop("from_pod", &tcp(CLIENT, (REMOTE, 80), SYN).frame(), Reason::PolicyEgress);
    node.expect_drop("from_pod", &tcp(CLIENT, (OUTSIDE, 80), SYN).frame(), Reason::PolicyEgress);
}

#[test]
fn rules_match_by_identity_protocol_port_and_their_wildcards() {
    type Rule = (u32, u32, u8, u16);
    let cases: [(&str, Rule, bool); 12] = [
        ("one port of the peer", (RuleKey::FULL, 21, TCP, 80), true),
        ("one port of everybody", (RuleKey::FULL, 0, TCP, 80), true),
        ("every port of the peer", (RuleKey::ANY_PORT, 21, TCP, 0), true),
        ("every port of everybody", (RuleKey::ANY_PORT, 0, TCP, 0), true),
        ("everything of the peer", (RuleKey::ANY_PROTO, 21, 0, 0), true),
        ("everything of everybody", (RuleKey::ANY_PROTO, 0, 0, 0), true),
        ("a range that holds the port: 80 to 87", (RuleKey::ANY_PORT + 13, 21, TCP, 80), true),
        ("a range that ends before: 72 to 79", (RuleKey::ANY_PORT + 13, 21, TCP, 72), false),
        ("another port", (RuleKey::FULL, 21, TCP, 81), false),
        ("another protocol", (RuleKey::FULL, 21, UDP, 80), false),
        ("another peer", (RuleKey::ANY_PROTO, 22, 0, 0), false),
        ("every port of another protocol", (RuleKey::ANY_PORT, 0, UDP, 0), false),
    ];
    for (name, (len, identity, proto, port), expected) in cases {
        let mut node = guarded();
        node.rule(IN, len, (identity, proto, port), 5, true);
        assert_eq!(allowed(&mut node, &tcp(CLIENT, SERVER, SYN)), expected, "{name}");
        assert!(!allowed(&mut node, &tcp(SERVER, (v4(10, 244, 1, 99), 80), SYN)), "no such pod");
    }
}

#[test]
fn the_longest_cidr_gives_the_identity() {
    let mut node = Bench::new();
    node.endpoint(&A, |a| a.egress_ruleset = OUT);
    let net = v4(203, 0, 113, 0);
    node.identity(net, 24, 50);
    node.identity(v4(203, 0, 113, 8), 31, 51);
    node.rule(OUT, RuleKey::ANY_PROTO, (50, 0, 0), 5, true);
    let mut to = |last| allowed(&mut node, &tcp(CLIENT, (v4(203, 0, 113, last), 80), SYN));
    assert!(to(7) && to(10) && to(255));
    assert!(!to(8) && !to(9), "the exception");
    assert!(!allowed(&mut node, &tcp(CLIENT, (v4(203, 0, 114, 1), 80), SYN)));
}

#[test]
fn both_ends_must_agree() {
    for (egress, ingress) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut node = guarded();
        node.endpoint(&A, |a| a.egress_ruleset = OUT);
        if egress {
            node.rule(OUT, RuleKey::FULL, (0, TCP, 80), 5, true);
        }
        if ingress {
            node.rule(IN, RuleKey::FULL, (0, TCP, 80), 6, true);
        }
        assert_eq!(allowed(&mut node, &tcp(CLIENT, SERVER, SYN)), egress && ingress);
    }
}

#[test]
fn drops_name_the_rule_and_the_pod_and_rules_count_what_they_decided() {
    let mut node = guarded();
    node.rule(IN, RuleKey::DEFAULT, (0, 0, 0), 90, false);
    node.rule(IN, RuleKey::FULL, (21, TCP, 80), 91, true);
    node.count_rule(90);
    node.count_rule(91);
    let good = tcp(CLIENT, SERVER, SYN).frame();
    let bad = tcp(CLIENT, (B.ip, 81), SYN).frame();
    assert_eq!(node.run("from_pod", &good).verdict, REDIRECT);
    assert_eq!(node.run("from_pod", &good).verdict, REDIRECT);
    node.expect_drop("from_pod", &bad, Reason::PolicyIngress);
    node.expect_drop("from_pod", &bad, Reason::PolicyIngress);
    assert_eq!(node.hits(91), RuleHits { allowed: 1, dropped: 0, bytes: good.len() as u64 });
    assert_eq!(node.hits(90), RuleHits { allowed: 0, dropped: 2, bytes: 2 * bad.len() as u64 });
    let records = node.records();
    assert_eq!(records.len(), 2);
    let expected = FlowEvent {
        time: records[0].time,
        src: A.ip.into(),
        dst: B.ip.into(),
        src_port: Be16::new(40000),
        dst_port: Be16::new(81),
        proto: TCP,
        hook: FlowEvent::FROM_POD,
        reason: Reason::PolicyIngress as u16,
        rule: 90,
        endpoint: B.id,
        ifindex: LO,
        bytes: bad.len() as u32,
    };
    assert_eq!(records[0], expected);
    assert!(records[0].time > 0 && records[1].time >= records[0].time);
}

#[test]
fn answers_pass_rules_that_would_deny_them_as_questions() {
    let mut node = guarded();
    node.rule(IN, RuleKey::FULL, (21, TCP, 80), 5, true);
    node.endpoint(&B, |b| (b.ingress_ruleset, b.egress_ruleset) = (IN, OUT));
    node.endpoint(&A, |a| a.ingress_ruleset = 9);
    assert!(allowed(&mut node, &tcp(CLIENT, SERVER, SYN)));
    assert!(allowed(&mut node, &tcp(SERVER, CLIENT, SYN | ACK)));
    assert!(!allowed(&mut node, &tcp((B.ip, 80), (A.ip, 40001), SYN | ACK)), "no such flow");
}

#[test]
fn a_syn_from_the_end_that_was_asked_is_judged_as_its_own_flow() {
    let mut node = Bench::new();
    node.endpoint(&A, |a| a.ingress_ruleset = IN);
    assert!(allowed(&mut node, &tcp(CLIENT, SERVER, SYN)));
    assert!(allowed(&mut node, &tcp(SERVER, CLIENT, SYN | ACK)));
    assert!(!allowed(&mut node, &tcp(SERVER, CLIENT, SYN)));
    assert!(allowed(&mut node, &tcp(SERVER, CLIENT, ACK)), "the flow itself goes on");
}

#[test]
fn an_established_flow_is_judged_again_when_a_policy_changed() {
    for changed in [&A, &B] {
        for packet in [tcp(CLIENT, SERVER, ACK), tcp(SERVER, CLIENT, ACK)] {
            let mut node = guarded();
            node.endpoint(&A, |a| a.egress_ruleset = OUT);
            node.rule(IN, RuleKey::FULL, (21, TCP, 80), 5, true);
            node.rule(OUT, RuleKey::FULL, (0, TCP, 80), 6, true);
            assert!(allowed(&mut node, &tcp(CLIENT, SERVER, SYN)));
            assert!(allowed(&mut node, &tcp(SERVER, CLIENT, SYN | ACK)));
            let evaluated = node.metric(Metric::PolicyEvaluated);
            assert!(allowed(&mut node, &packet));
            assert_eq!(node.metric(Metric::PolicyEvaluated), evaluated, "not while nothing changed");
            // Another ruleset that allows nothing, under a new revision.
            let (a, b) = if changed.id == A.id { (98, IN) } else { (OUT, 99) };
            node.endpoint(&A, |e| (e.egress_ruleset, e.revision) = (a, 1 + u32::from(a == 98)));
            node.endpoint(&B, |e| (e.ingress_ruleset, e.revision) = (b, 1 + u32::from(b == 99)));
            let reason = if a == 98 { Reason::PolicyEgress } else { Reason::PolicyIngress };
            node.expect_drop("from_pod", &packet.frame(), reason);
            node.expect_drop("from_pod", &packet.frame(), reason);
            // And allowed again.
            node.endpoint(&A, |e| (e.egress_ruleset, e.revision) = (OUT, 3));
            node.endpoint(&B, |e| (e.ingress_ruleset, e.revision) = (IN, 3));
            assert!(allowed(&mut node, &packet));
            let evaluated = node.metric(Metric::PolicyEvaluated);
            assert!(allowed(&mut node, &packet));
            assert_eq!(node.metric(Metric::PolicyEvaluated), evaluated, "once per change");
        }
    }
}

#[test]
fn a_change_that_still_allows_keeps_the_flow() {
    let mut node = guarded();
    node.rule(IN, RuleKey::FULL, (21, TCP, 80), 5, true);
    assert!(allowed(&mut node, &tcp(CLIENT, SERVER, SYN)));
    node.endpoint(&B, |b| (b.ingress_ruleset, b.revision) = (IN, 2));
    assert!(allowed(&mut node, &tcp(SERVER, CLIENT, ACK)));
    assert_eq!(node.metric(Metric::FlowOpened), 1);
}

#[test]
fn the_node_reaches_its_pods_and_they_reach_it_under_every_policy() {
    let mut node = guarded();
    node.endpoint(&B, |b| (b.ingress_ruleset, b.egress_ruleset, b.flags) = (IN, OUT, Endpoint::CLOSED));
    let probe = tcp((NODE, 50000), SERVER, SYN).frame();
    node.expect("to_pod", &probe, NEXT, &probe);
    let answer = tcp(SERVER, (NODE, 50000), SYN | ACK).frame();
    node.expect("from_pod", &answer, NEXT, &answer);
    let own = tcp((B.ip, 40000), (NODE, 10250), SYN).frame();
    node.expect("from_pod", &own, NEXT, &own);
}

#[test]
fn what_the_stack_routed_to_a_pod_is_judged() {
    let mut node = guarded();
    let frame = tcp((OUTSIDE, 50000), SERVER, SYN).frame();
    assert_eq!(node.run_as("to_pod", &frame, LO, 1).verdict, DROP);
    assert_eq!(node.all_drops(), [(Reason::PolicyIngress, 1)]);
    node.rule(IN, RuleKey::ANY_PROTO, (0, 0, 0), 5, true);
    assert_eq!(node.run_as("to_pod", &frame, LO, 1).verdict, NEXT);
    node.expect_drop(
        "to_pod",
        &tcp((NODE, 1), (v4(10, 244, 1, 99), 2), SYN).frame(),
        Reason::UnknownEndpoint,
    );
}

#[test]
fn services_are_judged_by_their_backends() {
    let mut node = Bench::new();
    node.service(CLUSTER_IP, 80, TCP, 3, &[(B.ip, 8080)]);
    node.endpoint(&A, |a| a.egress_ruleset = OUT);
    node.identity(B.ip, 32, 22);
    node.rule(OUT, RuleKey::FULL, (22, TCP, 80), 5, true);
    assert!(!allowed(&mut node, &tcp(CLIENT, (CLUSTER_IP, 80), SYN)), "80 is not the backend's port");
    node.rule(OUT, RuleKey::FULL, (22, TCP, 8080), 6, true);
    assert!(allowed(&mut node, &tcp(CLIENT, (CLUSTER_IP, 80), SYN)));
}

// Generated policies. The model below says what a NetworkPolicy means, in the words of its API; `compile`
// turns it into map entries, one identity per address.

/// A pod label: the name of one of a few groups.
type Label = u8;

#[derive(Debug, Clone)]
enum Peer {
    Pods(Label),
    Block { ip: IpAddr, len: u32, except: Vec<(IpAddr, u32)> },
}

#[derive(Debug, Clone)]
struct Port {
    proto: u8,
    range: Option<(u16, u16)>,
}

#[derive(Debug, Clone)]
struct PolicyRule {
    /// Empty: everybody.
    peers: Vec<Peer>,
    /// Empty: everything.
    ports: Vec<Port>,
}

#[derive(Debug, Clone)]
struct Policy {
    selects: Label,
    ingress: Option<Vec<PolicyRule>>,
    egress: Option<Vec<PolicyRule>>,
}

/// Everybody there is: address and labels; those outside have none.
struct Place {
    people: Vec<(IpAddr, Vec<Label>)>,
}

fn within(addr: IpAddr, net: IpAddr, len: u32) -> bool {
    let whole = if net.is_ipv4() { 32 } else { 128 };
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let mask = u128::MAX.checked_shl(whole - len).unwrap_or(0);
    addr.is_ipv4() == net.is_ipv4() && number(addr) & mask == number(net) & mask
}

impl Place {
    fn labels(&self, addr: IpAddr) -> &[Label] {
        self.people.iter().find(|(ip, _)| *ip == addr).map_or(&[], |(_, labels)| labels)
    }

    fn peer_matches(&self, peer: &Peer, addr: IpAddr) -> bool {
        match peer {
            Peer::Pods(label) => self.labels(addr).contains(label),
            Peer::Block { ip, len, except } => {
                within(addr, *ip, *len) && !except.iter().any(|(ip, len)| within(addr, *ip, *len))
            }
        }
    }

    fn rules_allow(&self, rules: &[&PolicyRule], peer: IpAddr, proto: u8, port: u16) -> bool {
        rules.iter().any(|rule| {
            let peers = rule.peers.is_empty() || rule.peers.iter().any(|p| self.peer_matches(p, peer));
            let ports = rule.ports.is_empty()
                || rule.ports.iter().any(|p| {
                    p.proto == proto && p.range.is_none_or(|(from, to)| (from..=to).contains(&port))
                });
            peers && ports
        })
    }

    /// The rules of one direction that select a pod; none when no policy does.
    fn selected<'a>(
        &self,
        policies: &'a [Policy],
        pod: IpAddr,
        ingress: bool,
    ) -> Option<Vec<&'a PolicyRule>> {
        let mine = policies.iter().filter(|policy| self.labels(pod).contains(&policy.selects));
        let lists: Vec<_> = mine
            .filter_map(|policy| if ingress { policy.ingress.as_ref() } else { policy.egress.as_ref() })
            .collect();
        (!lists.is_empty()).then(|| lists.into_iter().flatten().collect())
    }

    fn compile(&self, node: &mut Bench, ruleset: u32, rules: &[&PolicyRule]) {
        for (number, rule) in rules.iter().enumerate() {
            let identities: Vec<u32> = if rule.peers.is_empty() {
                vec![0]
            } else {
                let people = self.people.iter().enumerate();
                people
                    .filter(|(_, (ip, _))| rule.peers.iter().any(|peer| self.peer_matches(peer, *ip)))
                    .map(|(index, _)| index as u32 + 1)
                    .collect()
            };
            let mut keys = Vec::new();
            if rule.ports.is_empty() {
                keys.push((RuleKey::ANY_PROTO, 0, 0));
            }
            for port in &rule.ports {
                match port.range {
                    None => keys.push((RuleKey::ANY_PORT, port.proto, 0)),
                    Some(range) => {
                        keys.extend(
                            prefixes(range).map(|(len, first)| (RuleKey::ANY_PORT + len, port.proto, first)),
                        );
                    }
                }
            }
            for identity in identities {
                for (len, proto, port) in &keys {
                    node.rule(ruleset, *len, (identity, *proto, *port), number as u32 + 1, true);
                }
            }
        }
    }
}

/// The fewest port prefixes that make up a range.
fn prefixes((from, to): (u16, u16)) -> impl Iterator<Item = (u32, u16)> {
    let (mut next, end) = (u32::from(from), u32::from(to));
    std::iter::from_fn(move || {
        if next > end {
            return None;
        }
        let mut bits = if next == 0 { 16 } else { next.trailing_zeros().min(16) };
        while next + (1 << bits) - 1 > end {
            bits -= 1;
        }
        let first = next as u16;
        next += 1 << bits;
        Some((16 - bits, first))
    })
}

fn generate_rule(random: &mut StdRng, place: &Place) -> PolicyRule {
    let peers = (0..random.random_range(0..3))
        .map(|_| {
            if random.random_bool(0.6) {
                return Peer::Pods(random.random_range(0..4));
            }
            let near = place.people[random.random_range(0..place.people.len())].0;
            let len = random.random_range(8..=32);
            let except = if random.random_bool(0.5) && len < 32 {
                let other = place.people[random.random_range(0..place.people.len())].0;
                vec![(other, random.random_range(len + 1..=32))]
            } else {
                vec![]
            };
            Peer::Block { ip: near, len, except }
        })
        .collect();
    let ports = (0..random.random_range(0..3))
        .map(|_| {
            let from = random.random_range(70..100);
            let range = match random.random_range(0..3) {
                0 => None,
                1 => Some((from, from)),
                _ => Some((from, from + random.random_range(0..40))),
            };
            Port { proto: if random.random_bool(0.6) { TCP } else { UDP }, range }
        })
        .collect();
    PolicyRule { peers, ports }
}

fn generate(random: &mut StdRng, place: &Place) -> Vec<Policy> {
    (0..random.random_range(0..5))
        .map(|_| {
            let rules = |random: &mut StdRng| {
                random
                    .random_bool(0.6)
                    .then(|| (0..random.random_range(0..3)).map(|_| generate_rule(random, place)).collect())
            };
            let (ingress, egress) = (rules(random), rules(random));
            Policy { selects: random.random_range(0..4), ingress, egress }
        })
        .collect()
}

#[test]
fn generated_policies_decide_as_their_model() {
    const SEED: u64 = 20;
    const WORLDS: usize = 40;
    const PACKETS: usize = 150;
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut allowed_count, mut denied_count) = (0, 0);
    for world in 0..WORLDS {
        let mut label = || (0..4).filter(|_| random.random_bool(0.4)).collect::<Vec<Label>>();
        let place = Place {
            people: vec![
                (A.ip, label()),
                (B.ip, label()),
                (REMOTE, label()),
                (v4(10, 244, 2, 31), label()),
                (OUTSIDE, vec![]),
                (v4(203, 0, 113, 77), vec![]),
            ],
        };
        let policies = generate(&mut random, &place);
        let mut node = Bench::new();
        for (index, (ip, _)) in place.people.iter().enumerate() {
            node.identity(*ip, 32, index as u32 + 1);
        }
        for (number, pod) in [&A, &B].into_iter().enumerate() {
            let rulesets = [100 + 2 * number as u32, 101 + 2 * number as u32];
            let rules = [true, false].map(|ingress| place.selected(&policies, pod.ip, ingress));
            for (ruleset, rules) in rulesets.iter().zip(&rules) {
                place.compile(&mut node, *ruleset, rules.as_deref().unwrap_or(&[]));
            }
            node.endpoint(pod, |endpoint| {
                endpoint.ingress_ruleset = if rules[0].is_some() { rulesets[0] } else { 0 };
                endpoint.egress_ruleset = if rules[1].is_some() { rulesets[1] } else { 0 };
            });
        }
        for count in 0..PACKETS {
            let pod = if random.random_bool(0.5) { &A } else { &B };
            let (peer, _) = place.people[random.random_range(0..place.people.len())];
            if peer == pod.ip {
                continue;
            }
            let inward = peer == OUTSIDE && random.random_bool(0.5);
            let proto = [TCP, UDP, ICMP][random.random_range(0..3)];
            let port = random.random_range(60..140);
            // Every packet opens a flow of its own.
            let own = 1000 + count as u16;
            let (from, to) = if inward { (peer, pod.ip) } else { (pod.ip, peer) };
            let packet = match proto {
                TCP => tcp((from, own), (to, port), SYN),
                UDP => udp((from, own), (to, port), b""),
                _ => echo(from, to, true, own),
            };
            let port = if proto == ICMP { 0 } else { port };
            // The policies of pods elsewhere are their own node's business.
            let judge = |pod: IpAddr, peer: IpAddr, ingress: bool| {
                ![A.ip, B.ip].contains(&pod)
                    || place
                        .selected(&policies, pod, ingress)
                        .is_none_or(|rules| place.rules_allow(&rules, peer, proto, port))
            };
            let expected = judge(from, to, false) && judge(to, from, true);
            let out = node.run(if inward { "from_uplink" } else { "from_pod" }, &packet.frame());
            assert_eq!(
                out.verdict != DROP,
                expected,
                "seed {SEED}, world {world}: {from}:{own} -> {to}:{port} protocol {proto}; {:?}; {policies:#?}",
                place.people
            );
            if expected { allowed_count += 1 } else { denied_count += 1 }
        }
    }
    assert!(allowed_count > 1000 && denied_count > 1000, "{allowed_count} allowed, {denied_count} denied");
}
