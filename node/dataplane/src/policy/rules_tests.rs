//! The tables are played against a plain model of NetworkPolicy semantics, with every step of every plan checked.

use std::collections::{BTreeMap, HashMap};

use fairlead_abi::{Be32, Rule as RuleValue, RuleKey};
use ipnet::IpNet;
use serde_json::json;

use super::*;
use crate::policy::spec::Policy;

/// The maps as the kernel has them, with its longest-prefix look-up.
#[derive(Clone, Default)]
struct Maps {
    rules: HashMap<Entry, RuleValue>,
    identities: HashMap<IpNet, u32>,
    verdicts: HashMap<Key, Verdict>,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    peer: IpAddr,
    protocol: Protocol,
    port: u16,
}

impl Maps {
    fn identity(&self, address: IpAddr) -> u32 {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest)
            .rev()
            .find_map(|length| self.identities.get(&IpNet::new(address, length).expect("a length").trunc()))
            .copied()
            .unwrap_or_default()
    }

    fn lookup(&self, ruleset: u32, identity: u32, probe: Probe) -> Option<RuleValue> {
        let proto = Be16::new(u16::from(probe.protocol.number()));
        let base = RuleKey { ruleset: Be32::new(ruleset), ..RuleKey::default() };
        let mut keys = Vec::new();
        for bits in (0..=16).rev() {
            let mask = if bits == 0 { 0 } else { u16::MAX << (16 - bits) };
            let key =
                RuleKey { identity: Be32::new(identity), proto, port: Be16::new(probe.port & mask), ..base };
            keys.push((RuleKey::ANY_PORT + bits, key));
        }
        keys.push((RuleKey::ANY_PROTO, RuleKey { identity: Be32::new(identity), ..base }));
        keys.push((RuleKey::DEFAULT, base));
        keys.iter().find_map(|key| self.rules.get(key)).copied()
    }

    fn allows(&self, pod: &Key, direction: Direction, probe: Probe) -> bool {
        let verdict = self.verdicts.get(pod).copied().expect("a verdict for every local pod");
        let ruleset = match direction {
            Direction::Ingress => verdict.ingress,
            Direction::Egress => verdict.egress,
        };
        if verdict.closed {
            return false;
        }
        ruleset == 0
            || [self.identity(probe.peer), 0].into_iter().any(|identity| {
                self.lookup(ruleset, identity, probe).is_some_and(|rule| rule.flags & RuleValue::ALLOW != 0)
            })
    }
}

/// NetworkPolicy as its documentation reads, one packet at a time.
#[derive(Default)]
struct Model {
    pods: BTreeMap<Key, Pod>,
    namespaces: BTreeMap<Arc<str>, Labels>,
    policies: BTreeMap<Key, Policy>,
}

impl Model {
    fn allows(&self, pod: &Key, direction: Direction, probe: Probe) -> bool {
        let pod = &self.pods[pod];
        let mut selected = false;
        for policy in self.policies.values() {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let Some(rules) = rules else { continue };
            if policy.key.namespace != pod.key.namespace || !policy.selects.matches(&pod.labels) {
                continue;
            }
            selected = true;
            for rule in rules {
                let peer = rule
                    .peers
                    .as_ref()
                    .is_none_or(|peers| peers.iter().any(|peer| self.is_peer(peer, probe.peer)));
                let target = match direction {
                    Direction::Ingress => Some(pod),
                    Direction::Egress => self.at(probe.peer),
                };
                let port = rule
                    .ports
                    .as_ref()
                    .is_none_or(|ports| ports.iter().any(|port| is_port(port, target, probe)));
                if peer && port {
                    return true;
                }
            }
        }
        !selected
    }

    fn at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.values().find(|pod| !pod.host_network && !pod.finished && pod.addresses.contains(&address))
    }

    fn is_peer(&self, peer: &Peer, address: IpAddr) -> bool {
        match peer {
            Peer::Block { cidr, except } => {
                cidr.contains(&address) && !except.iter().any(|part| part.contains(&address))
            }
            Peer::Nobody => false,
            Peer::Pods { namespace, namespaces, pods } => self.at(address).is_some_and(|pod| {
                pods.matches(&pod.labels)
                    && match namespace {
                        Some(own) => *own == pod.key.namespace,
                        None => {
                            self.namespaces.get(&pod.key.namespace).is_some_and(|l| namespaces.matches(l))
                        }
                    }
            }),
        }
    }
}

fn is_port(port: &Port, target: Option<&Pod>, probe: Probe) -> bool {
    port.protocol == probe.protocol
        && match &port.ports {
            PortMatch::Any => true,
            PortMatch::Range(first, last) => (*first..=*last).contains(&probe.port),
            PortMatch::Named(name) => target.is_some_and(|pod| {
                pod.ports
                    .iter()
                    .any(|p| p.name == *name && p.protocol == port.protocol && p.port == probe.port)
            }),
        }
}

struct World {
    rules: Rules,
    maps: Maps,
    model: Model,
    local: Vec<Key>,
}

impl World {
    fn probes(&self) -> Vec<Probe> {
        let outside = [
            "192.0.2.1",
            "192.0.2.77",
            "10.244.9.9",
            "198.51.100.1",
            "2001:db8::1",
            "2001:db8:7::1",
            "fd00::99",
        ]
        .map(|a| a.parse().expect("address"));
        let pods = self.model.pods.values().flat_map(|pod| pod.addresses.iter().copied());
        let mut probes = Vec::new();
        for peer in pods.chain(outside) {
            for port in [80, 81, 8080, 8099, 9000] {
                probes.push(Probe { peer, protocol: Protocol::Tcp, port });
            }
            probes.push(Probe { peer, protocol: Protocol::Udp, port: 80 });
        }
        probes
    }

    /// Verdict of every probe against every local pod.
    fn picture(&self, allows: impl Fn(&Key, Direction, Probe) -> bool) -> Vec<bool> {
        let mut picture = Vec::new();
        for pod in &self.local {
            for direction in [Direction::Ingress, Direction::Egress] {
                picture.extend(self.probes().into_iter().map(|probe| allows(pod, direction, probe)));
            }
        }
        picture
    }

    /// Carries out what the rules plan, and checks after each step that nothing that is the same before and after
    /// was different in between.
    #[track_caller]
    fn settle(&mut self, what: &str) {
        self.settle_watching(what, true);
    }

    #[track_caller]
    fn settle_watching(&mut self, what: &str, watch: bool) {
        for _ in 0..4 {
            let plan = self.rules.settle();
            let known = self.local.iter().all(|key| self.maps.verdicts.contains_key(key));
            let mut steps = vec![self.maps.clone()];
            let mut next = |edit: &dyn Fn(&mut Maps)| {
                edit(&mut self.maps);
                steps.push(self.maps.clone());
            };
            next(&|maps| maps.rules.extend(plan.add_rules.iter().copied()));
            for (prefix, number) in &plan.set_identities {
                next(&|maps| {
                    maps.identities.insert(*prefix, *number);
                });
            }
            for (key, verdict) in &plan.verdicts {
                next(&|maps| {
                    maps.verdicts.insert(key.clone(), *verdict);
                });
            }
            for prefix in &plan.remove_identities {
                next(&|maps| {
                    maps.identities.remove(prefix);
                });
            }
            next(&|maps| maps.rules.retain(|entry, _| !plan.remove_rules.contains(entry)));
            if known && watch {
                let pictures: Vec<Vec<bool>> = steps
                    .iter()
                    .map(|maps| self.picture(|pod, direction, probe| maps.allows(pod, direction, probe)))
                    .collect();
                let (first, last) = (&pictures[0], &pictures[pictures.len() - 1]);
                for (step, picture) in pictures.iter().enumerate() {
                    for (index, seen) in picture.iter().enumerate() {
                        assert!(
                            first[index] != last[index] || *seen == first[index],
                            "{what}: step {step} of {} makes probe {index} {seen} for a moment",
                            pictures.len()
                        );
                    }
                }
            }
            if !plan.more {
                return self.compare(what);
            }
        }
        panic!("{what}: does not settle");
    }

    #[track_caller]
    fn compare(&self, what: &str) {
        for pod in &self.local {
            for direction in [Direction::Ingress, Direction::Egress] {
                for probe in self.probes() {
                    let expected = self.model.allows(pod, direction, probe);
                    let seen = self.maps.allows(pod, direction, probe);
                    assert_eq!(seen, expected, "{what}: {pod} {direction:?} {probe:?}");
                }
            }
        }
    }

    fn set_pod(&mut self, pod: Pod) {
        self.model.pods.insert(pod.key.clone(), pod.clone());
        self.rules.set_pod(pod);
    }

    fn set_namespace(&mut self, name: &str, labels: &[(&str, &str)]) {
        let labels = labels_of(labels);
        self.model.namespaces.insert(name.into(), labels.clone());
        self.rules.set_namespace(Namespace { name: name.into(), labels });
    }

    fn set_policy(&mut self, namespace: &str, name: &str, spec: serde_json::Value) {
        let object = json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec});
        let policy = Policy::from_api(&serde_json::from_value(object).expect("a NetworkPolicy"));
        self.model.policies.insert(policy.key.clone(), policy.clone());
        self.rules.set_policy(policy);
    }

    fn remove_policy(&mut self, namespace: &str, name: &str) {
        let key = Key::new(namespace, name);
        self.model.policies.remove(&key);
        self.rules.remove_policy(&key);
    }
}

fn labels_of(pairs: &[(&str, &str)]) -> Labels {
    Labels::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

/// The pod's other address: the digits of its IPv4 address as groups.
fn v6_of(address: &str) -> IpAddr {
    format!("fd00:{}", address.replace('.', ":").replacen(':', "::", 1)).parse().expect("an address")
}

fn pod(namespace: &str, name: &str, address: &str, labels: &[(&str, &str)], http: u16) -> Pod {
    Pod {
        key: Key::new(namespace, name),
        uid: String::new(),
        labels: labels_of(labels),
        addresses: vec![address.parse().expect("an address"), v6_of(address)],
        node: "a".to_owned(),
        host_network: false,
        weight: None,
        rates: Default::default(),
        finished: false,
        ports: vec![NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: http }],
    }
}

/// Two namespaces with two pods each; the pods of `shop` are on this node.
fn world() -> World {
    let mut world =
        World { rules: Rules::default(), maps: Maps::default(), model: Model::default(), local: Vec::new() };
    world.set_namespace("shop", &[("team", "shop")]);
    world.set_namespace("bank", &[("team", "bank")]);
    for pod in [
        pod("shop", "web", "10.244.0.2", &[("app", "web")], 80),
        pod("shop", "db", "10.244.0.3", &[("app", "db")], 8080),
        pod("bank", "web", "10.244.1.2", &[("app", "web")], 8080),
        pod("bank", "job", "10.244.1.3", &[("app", "job")], 9000),
    ] {
        world.set_pod(pod);
    }
    for name in ["web", "db"] {
        let key = Key::new("shop", name);
        world.rules.add_local(key.clone());
        world.local.push(key);
    }
    world.settle("no policy");
    world
}

/// Specs that between them use everything the API offers.
fn specs() -> Vec<serde_json::Value> {
    vec![
        json!({"podSelector": {}}),
        json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{}]}),
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 8080}]}]}),
        json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "bank"}}}]}]}),
        json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}}], "ports": [{"port": 8080, "endPort": 8100}]}]}),
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.64/26"]}}]}]}),
        json!({"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.244.0.0/16"]}}], "ports": [{"protocol": "UDP", "port": 80}, {"port": 81}]}], "policyTypes": ["Egress"]}),
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:7::/48"]}}, {"ipBlock": {"cidr": "fd00::/16"}}], "ports": [{"port": 80}]}]}),
        json!({"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "::/0", "except": ["fd00:10::244:1:2/128"]}}]}], "policyTypes": ["Egress"]}),
        json!({"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]}),
        json!({"podSelector": {}, "egress": [{"ports": [{"port": "http"}]}], "policyTypes": ["Egress"]}),
        json!({"podSelector": {}, "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"team": "bank"}}}], "ports": [{"port": "http"}]}], "policyTypes": ["Egress"]}),
        json!({"podSelector": {}, "ingress": [{"ports": [{"port": "no-such"}]}]}),
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "fd00::/8"}}]}]}),
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.244.1.2/32"}}, {"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.1.3/32"]}}]}]}),
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "not an address"}}]}, {}]}),
    ]
}

#[test]
fn every_policy_alone_decides_as_its_documentation_reads() {
    let mut world = world();
    for (index, spec) in specs().into_iter().enumerate() {
        world.set_policy("shop", "p", spec);
        world.settle(&format!("spec {index}"));
    }
    world.remove_policy("shop", "p");
    world.settle("removed");
    assert_eq!(world.maps.rules.len() + world.maps.identities.len(), 0, "nothing stays behind");
    assert_eq!(world.rules.sizes(), (0, 0, 0));
}

#[test]
fn random_histories_decide_as_the_model_and_never_flicker() {
    let mut seed = 0x5eed_u64;
    let mut draw = move |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let specs = specs();
    let mut world = world();
    for round in 0..400 {
        // A local pod that changes is subject and peer at once: two facts change, and they show one after the other.
        let mut one_fact = true;
        let what = match draw(6) {
            0 | 1 => {
                let (name, spec) = (draw(3), draw(specs.len()));
                world.set_policy("shop", &format!("p{name}"), specs[spec].clone());
                format!("{round}: policy p{name} is spec {spec}")
            }
            2 => {
                let name = draw(3);
                world.remove_policy("shop", &format!("p{name}"));
                format!("{round}: policy p{name} is gone")
            }
            3 => {
                let team = ["shop", "bank"][draw(2)];
                world.set_namespace("bank", &[("team", team)]);
                format!("{round}: namespace bank is of team {team}")
            }
            4 => {
                let app = ["web", "db", "job"][draw(3)];
                let (namespace, name, address) =
                    [("bank", "job", "10.244.1.3"), ("shop", "db", "10.244.0.3")][draw(2)];
                one_fact = namespace == "bank";
                world.set_pod(pod(namespace, name, address, &[("app", app)], [80, 8080, 9000][draw(3)]));
                format!("{round}: pod {namespace}/{name} is app {app}")
            }
            _ => {
                let mut finished = pod("bank", "web", "10.244.1.2", &[("app", "web")], 8080);
                finished.finished = draw(2) == 0;
                let what = format!("{round}: pod bank/web has ended: {}", finished.finished);
                world.set_pod(finished);
                what
            }
        };
        world.settle_watching(&what, one_fact);
    }
}

#[test]
fn a_restarted_agent_gives_the_same_numbers() {
    let build = |order: &[usize]| {
        let mut world = world();
        for index in order {
            world.set_policy("shop", &format!("p{index}"), specs()[*index].clone());
            world.settle("history");
        }
        world.maps
    };
    let (one, other) = (build(&[3, 5, 7, 9]), build(&[9, 7, 3, 5]));
    assert_eq!(one.rules, other.rules);
    assert_eq!(one.identities, other.identities);
    assert_eq!(one.verdicts, other.verdicts);
}

#[test]
fn a_pod_that_was_never_seen_is_closed() {
    let mut rules = Rules::default();
    let key = Key::new("shop", "ghost");
    rules.add_local(key.clone());
    let plan = rules.settle();
    assert_eq!(plan.verdicts, [(key, Verdict { ingress: 0, egress: 0, closed: true })]);
}

#[test]
fn a_late_word_of_a_gone_pod_does_not_take_its_address_back() {
    let mut rules = Rules::default();
    let (old, new) = (pod("shop", "old", "10.0.0.9", &[], 80), pod("shop", "new", "10.0.0.9", &[], 80));
    let address = old.addresses[0];
    rules.set_pod(old.clone());
    rules.set_pod(new.clone());
    rules.set_pod(old.clone());
    assert_eq!(rules.by_address.get(&address), Some(&new.key));
    rules.remove_pod(&old.key);
    assert_eq!(rules.by_address.get(&address), Some(&new.key));
}
