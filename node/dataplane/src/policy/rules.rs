//! Policies, pods and namespaces -> which address has which identity, which ruleset allows what, and which pod obeys
//! which ruleset. Pure: events go in, [`Rules::settle`] gives the difference as a [`Plan`] in the order that never
//! opens a pod and never closes an allowed flow.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::{self, Write as _},
    net::IpAddr,
    sync::Arc,
};

use fairlead_abi::{Be16, Be32, Rule as RuleValue, RuleKey};
use ipnet::IpNet;

use super::{
    identity::{Canonical, Identity, Numbers},
    spec::{Peer, Policy, Port, PortMatch, Rule, Selector, port_prefixes},
};
use crate::model::{Key, Labels, NamedPort, Namespace, Pod, Protocol};

/// A key of the map RULES with its prefix length.
pub type Entry = (u32, RuleKey);

/// Direction of a ruleset, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// What the pod receives.
    Ingress,
    /// What the pod sends.
    Egress,
}

/// A rule that flow records and counters name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy.
    pub policy: Key,
    /// Which of its lists.
    pub direction: Direction,
    /// Index in that list; None is the default deny that the policy brings.
    pub index: Option<usize>,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        match self.index {
            Some(index) => write!(f, "{} {direction}[{index}]", self.policy),
            None => write!(f, "{} {direction} default deny", self.policy),
        }
    }
}

impl Canonical for RuleName {
    fn canonical(&self, out: &mut String) {
        let _ = write!(out, "rule {self}");
    }
}

/// Ports of a rule as one pod resolves them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum ResolvedPort {
    /// Every port of the protocol.
    Protocol(Protocol),
    /// Ports that agree with this one in so many leading bits.
    Prefix(Protocol, u16, u8),
    /// The port of that name at the peer.
    AtPeer(Protocol, String),
}

/// A rule as one pod resolves it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct ResolvedRule {
    id: u32,
    peers: Option<Vec<Arc<Peer>>>,
    ports: Option<Vec<ResolvedPort>>,
}

/// Everything that decides for a pod in one direction. Pods that resolve to the same share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Ruleset {
    direction: Direction,
    default: u32,
    rules: Vec<ResolvedRule>,
}

impl Canonical for Ruleset {
    fn canonical(&self, out: &mut String) {
        let _ = write!(out, "ruleset {:?} {}", self.direction, self.default);
        for rule in &self.rules {
            let _ = write!(out, "\nrule {} ports {:?} peers", rule.id, rule.ports);
            match &rule.peers {
                None => out.push_str(" everyone"),
                Some(peers) => peers.iter().for_each(|peer| peer.canonical(out)),
            }
        }
    }
}

/// The peer "any pod of the cluster", for named ports of egress rules that name no peer.
fn any_pod() -> Arc<Peer> {
    Arc::new(Peer::Pods { namespace: None, namespaces: Selector::default(), pods: Selector::default() })
}

impl ResolvedRule {
    fn asks_at_peer(&self) -> bool {
        self.ports.iter().flatten().any(|port| matches!(port, ResolvedPort::AtPeer(..)))
    }

    /// Peers that must be told apart for this rule.
    fn told_apart(&self) -> Vec<Arc<Peer>> {
        match &self.peers {
            Some(peers) => peers.clone(),
            None if self.asks_at_peer() => vec![any_pod()],
            None => Vec::new(),
        }
    }
}

impl Ruleset {
    fn told_apart(&self) -> BTreeSet<Arc<Peer>> {
        self.rules.iter().flat_map(ResolvedRule::told_apart).collect()
    }

    /// Entries that hold for every peer, with the default among them.
    fn entries_for_everyone(&self, number: u32) -> Entries {
        let mut entries = Entries::default();
        let base = RuleKey { ruleset: Be32::new(number), ..RuleKey::default() };
        entries.add(RuleKey::DEFAULT, base, RuleValue { id: self.default, flags: 0 });
        for rule in self.rules.iter().filter(|rule| rule.peers.is_none()) {
            rule.expand(base, &[], &mut entries);
        }
        entries
    }

    /// Entries that hold for peers of one identity.
    fn entries_for(&self, number: u32, identity: &Identity, identity_number: u32) -> Entries {
        let mut entries = Entries::default();
        let base = RuleKey {
            ruleset: Be32::new(number),
            identity: Be32::new(identity_number),
            ..RuleKey::default()
        };
        for rule in &self.rules {
            match &rule.peers {
                Some(peers) if peers.iter().any(|peer| identity.is_one_of(peer)) => {
                    rule.expand(base, &identity.ports, &mut entries);
                }
                None if rule.asks_at_peer() && identity.is_one_of(&any_pod()) => {
                    rule.expand_at_peer(base, &identity.ports, &mut entries);
                }
                _ => {}
            }
        }
        entries
    }
}

/// Entries in the order they were made; the first of two with one key stays.
#[derive(Default)]
struct Entries(HashMap<Entry, RuleValue>);

impl Entries {
    fn add(&mut self, length: u32, key: RuleKey, value: RuleValue) {
        self.0.entry((length, key)).or_insert(value);
    }
}

impl ResolvedRule {
    fn expand(&self, base: RuleKey, named: &[NamedPort], entries: &mut Entries) {
        let allow = RuleValue { id: self.id, flags: RuleValue::ALLOW };
        let Some(ports) = &self.ports else {
            entries.add(RuleKey::ANY_PROTO, base, allow);
            return;
        };
        for port in ports {
            match port {
                ResolvedPort::Protocol(protocol) => {
                    let key = RuleKey { proto: Be16::new(u16::from(protocol.number())), ..base };
                    entries.add(RuleKey::ANY_PORT, key, allow);
                }
                ResolvedPort::Prefix(protocol, port, bits) => {
                    let proto = Be16::new(u16::from(protocol.number()));
                    let key = RuleKey { proto, port: Be16::new(*port), ..base };
                    entries.add(RuleKey::ANY_PORT + u32::from(*bits), key, allow);
                }
                ResolvedPort::AtPeer(..) => {}
            }
        }
        self.expand_at_peer(base, named, entries);
    }

    fn expand_at_peer(&self, base: RuleKey, named: &[NamedPort], entries: &mut Entries) {
        for port in self.ports.iter().flatten() {
            let ResolvedPort::AtPeer(protocol, name) = port else { continue };
            for found in named.iter().filter(|found| found.protocol == *protocol && found.name == *name) {
                let proto = Be16::new(u16::from(protocol.number()));
                let key = RuleKey { proto, port: Be16::new(found.port), ..base };
                entries.add(RuleKey::FULL, key, RuleValue { id: self.id, flags: RuleValue::ALLOW });
            }
        }
    }
}

/// What a pod of this node obeys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Ruleset for what it receives; 0 when no policy selects it for ingress.
    pub ingress: u32,
    /// Ruleset for what it sends; 0 when no policy selects it for egress.
    pub egress: u32,
    /// Whether nothing passes, since it is not known what the pod is.
    pub closed: bool,
}

/// Changes to the maps. They must be carried out field by field, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Entries to add to RULES.
    pub add_rules: Vec<(Entry, RuleValue)>,
    /// Entries to add to or change in IDENTITIES.
    pub set_identities: Vec<(IpNet, u32)>,
    /// Pods of this node that obey other rulesets now.
    pub verdicts: Vec<(Key, Verdict)>,
    /// Entries to remove from IDENTITIES.
    pub remove_identities: Vec<IpNet>,
    /// Entries to remove from RULES.
    pub remove_rules: Vec<Entry>,
    /// Whether an address may have lost an allowance: established flows of every pod must be evaluated again.
    pub recheck: bool,
    /// Whether [`Rules::settle`] has more to do once this plan is carried out.
    pub more: bool,
}

impl Plan {
    /// Whether there is nothing to carry out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Plan { more: self.more, ..Plan::default() }
    }
}

#[derive(Debug, Default)]
struct Local {
    /// The pod as it was last seen; None when it has not been seen yet.
    pod: Option<Pod>,
    ingress: Option<Arc<Ruleset>>,
    egress: Option<Arc<Ruleset>>,
    planned: Option<Verdict>,
}

/// The state of all policies on this node.
#[derive(Debug, Default)]
pub struct Rules {
    pods: HashMap<Key, Pod>,
    by_address: HashMap<IpAddr, Key>,
    namespaces: HashMap<Arc<str>, Labels>,
    policies: BTreeMap<Key, Policy>,
    local: HashMap<Key, Local>,
    /// Peers that some ruleset tells apart, with how many rulesets do.
    peers: BTreeMap<Arc<Peer>, usize>,
    /// Names of ports that egress rulesets ask for at peers.
    port_names: BTreeSet<String>,
    identities: Numbers<Identity>,
    rulesets: Numbers<Ruleset>,
    rule_names: Numbers<RuleName>,
    assigned: HashMap<IpNet, Arc<Identity>>,
    dirty_addresses: HashSet<IpAddr>,
    dirty_local: HashSet<Key>,
    /// Rulesets of pods that left; released with the next plan.
    orphaned: Vec<Arc<Ruleset>>,
    /// Whether the peers that are told apart have changed since identities were given.
    renumber: bool,
}

impl Rules {
    /// A pod is new or different.
    pub fn set_pod(&mut self, pod: Pod) {
        let key = pod.key.clone();
        let before = self.pods.get(&key).map(|known| known.addresses.clone()).unwrap_or_default();
        self.forget_addresses(&key);
        if !pod.host_network && !pod.finished {
            for address in &pod.addresses {
                // An address that was given on is its new pod's: a late word of the old one does not take it back.
                if before.contains(address) && self.by_address.contains_key(address) {
                    continue;
                }
                self.by_address.insert(*address, key.clone());
                self.dirty_addresses.insert(*address);
            }
        }
        if let Some(local) = self.local.get_mut(&key) {
            local.pod = Some(pod.clone());
            self.dirty_local.insert(key.clone());
        }
        self.pods.insert(key, pod);
    }

    /// A pod is gone. If it still has a sandbox here, that goes on with what was known.
    pub fn remove_pod(&mut self, key: &Key) {
        self.forget_addresses(key);
        self.pods.remove(key);
    }

    fn forget_addresses(&mut self, key: &Key) {
        let Some(pod) = self.pods.get(key) else { return };
        for address in &pod.addresses {
            if self.by_address.get(address) == Some(key) {
                self.by_address.remove(address);
                self.dirty_addresses.insert(*address);
            }
        }
    }

    /// The pod of that name, as it was last seen.
    #[must_use]
    pub fn pod(&self, key: &Key) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// Keys of every pod.
    pub fn pod_keys(&self) -> impl Iterator<Item = &Key> {
        self.pods.keys()
    }

    /// Keys of every policy.
    pub fn policy_keys(&self) -> impl Iterator<Item = &Key> {
        self.policies.keys()
    }

    /// Names of every namespace.
    pub fn namespace_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.keys()
    }

    /// A namespace is new or different.
    pub fn set_namespace(&mut self, namespace: Namespace) {
        let previous = self.namespaces.insert(namespace.name.clone(), namespace.labels.clone());
        if previous.as_ref() != Some(&namespace.labels) {
            self.touch_namespace(&namespace.name);
        }
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        if self.namespaces.remove(name).is_some() {
            self.touch_namespace(name);
        }
    }

    fn touch_namespace(&mut self, name: &str) {
        let in_it = self.by_address.iter().filter(|(_, key)| &*key.namespace == name);
        self.dirty_addresses.extend(in_it.map(|(address, _)| *address));
    }

    /// A policy is new or different.
    pub fn set_policy(&mut self, policy: Policy) {
        let namespace = policy.key.namespace.clone();
        if self.policies.get(&policy.key) != Some(&policy) {
            self.policies.insert(policy.key.clone(), policy);
            self.touch_local(&namespace);
        }
    }

    /// A policy is gone.
    pub fn remove_policy(&mut self, key: &Key) {
        if self.policies.remove(key).is_some() {
            self.touch_local(&key.namespace);
        }
    }

    fn touch_local(&mut self, namespace: &str) {
        self.dirty_local.extend(self.local.keys().filter(|key| &*key.namespace == namespace).cloned());
    }

    /// A pod has a sandbox on this node from now on.
    pub fn add_local(&mut self, key: Key) {
        let pod = self.pods.get(&key).cloned();
        let local = self.local.entry(key.clone()).or_default();
        local.pod = pod.or(local.pod.take());
        self.dirty_local.insert(key);
    }

    /// A pod has no sandbox on this node any more.
    pub fn remove_local(&mut self, key: &Key) {
        if let Some(local) = self.local.remove(key) {
            self.dirty_local.remove(key);
            self.orphaned.extend(local.ingress.into_iter().chain(local.egress));
        }
    }

    /// What a pod of this node obeys according to the last plan; None when it has no sandbox here.
    #[must_use]
    pub fn verdict(&self, key: &Key) -> Option<Verdict> {
        self.local.get(key).and_then(|local| local.planned)
    }

    /// Policies that could not be expressed and therefore allow nothing.
    pub fn closed_policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values().filter(|policy| policy.problem.is_some())
    }

    /// Numbers in flow records and counters with the rules they stand for.
    pub fn rule_names(&self) -> impl Iterator<Item = (u32, &RuleName)> {
        self.rule_names.iter().map(|(name, number)| (number, &**name))
    }

    /// Which prefix has which identity, by the last plan.
    pub fn identified(&self) -> impl Iterator<Item = (IpNet, u32)> {
        self.assigned
            .iter()
            .filter_map(|(prefix, identity)| Some((*prefix, self.identities.number(identity)?)))
    }

    /// What the map RULES should hold, by the last plan.
    pub fn entries(&self) -> impl Iterator<Item = (Entry, RuleValue)> {
        self.rulesets.iter().flat_map(|(ruleset, number)| {
            let each = self.identities.iter();
            let of_peers =
                each.flat_map(move |(identity, peers)| ruleset.entries_for(number, identity, peers).0);
            ruleset.entries_for_everyone(number).0.into_iter().chain(of_peers)
        })
    }

    /// The rule that a number stands for, in words.
    #[must_use]
    pub fn rule_name(&self, number: u32) -> String {
        self.rule_names.content(number).map(ToString::to_string).unwrap_or_default()
    }

    /// How many identities, rulesets and policies there are.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.identities.len(), self.rulesets.len(), self.policies.len())
    }

    /// Gives the difference between what the last plan left and what should be now.
    pub fn settle(&mut self) -> Plan {
        let mut plan = Plan::default();
        let idle = self.orphaned.is_empty() && self.dirty_local.is_empty() && self.dirty_addresses.is_empty();
        if idle && !self.renumber {
            return plan;
        }
        let mut released = std::mem::take(&mut self.orphaned);
        let fresh_rulesets = self.settle_local(&mut plan, &mut released);
        let all = std::mem::take(&mut self.renumber);
        let fresh_identities = self.settle_identities(all, &mut plan);
        self.add_rules(&fresh_rulesets, &fresh_identities.added, &mut plan);
        self.release(released, fresh_identities.dropped, &mut plan);
        plan.more = self.renumber;
        plan
    }

    /// Resolves the rulesets of dirty pods; gives the rulesets that are new.
    fn settle_local(&mut self, plan: &mut Plan, released: &mut Vec<Arc<Ruleset>>) -> Vec<Arc<Ruleset>> {
        let mut fresh = Vec::new();
        for key in std::mem::take(&mut self.dirty_local) {
            let Some(pod) = self.local.get(&key).map(|local| local.pod.clone()) else { continue };
            let [ingress, egress] = [Direction::Ingress, Direction::Egress]
                .map(|direction| pod.as_ref().and_then(|pod| self.resolve(pod, direction)).map(Arc::new));
            let numbers = [&ingress, &egress].map(|ruleset| match ruleset {
                Some(ruleset) => {
                    let (number, first) = self.rulesets.acquire(ruleset);
                    if first {
                        self.tell_apart(ruleset);
                        fresh.push(ruleset.clone());
                    }
                    number
                }
                None => 0,
            });
            let verdict = Verdict { ingress: numbers[0], egress: numbers[1], closed: pod.is_none() };
            let Some(local) = self.local.get_mut(&key) else { continue };
            released.extend(std::mem::replace(&mut local.ingress, ingress));
            released.extend(std::mem::replace(&mut local.egress, egress));
            if local.planned != Some(verdict) {
                local.planned = Some(verdict);
                plan.verdicts.push((key, verdict));
            }
        }
        fresh
    }

    /// What decides for a pod in one direction; None when no policy selects it.
    fn resolve(&mut self, pod: &Pod, direction: Direction) -> Option<Ruleset> {
        let first = Key { namespace: pod.key.namespace.clone(), name: "".into() };
        let mut names = Vec::new();
        let mut rules = Vec::new();
        let mut default = None;
        for (key, policy) in self.policies.range(first..) {
            if key.namespace != pod.key.namespace {
                break;
            }
            let list = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let Some(list) = list.as_ref().filter(|_| policy.selects.matches(&pod.labels)) else { continue };
            default.get_or_insert_with(|| RuleName { policy: key.clone(), direction, index: None });
            for (index, rule) in list.iter().enumerate() {
                names.push(RuleName { policy: key.clone(), direction, index: Some(index) });
                rules.push((share_peers(rule), resolve_ports(rule, pod, direction)));
            }
        }
        let default = self.rule_number(default?);
        let mut resolved: Vec<ResolvedRule> = names
            .into_iter()
            .zip(rules)
            .map(|(name, (peers, ports))| ResolvedRule { id: self.rule_number(name), peers, ports })
            .collect();
        resolved.sort();
        Some(Ruleset { direction, default, rules: resolved })
    }

    fn rule_number(&mut self, name: RuleName) -> u32 {
        let name = Arc::new(name);
        match self.rule_names.number(&name) {
            Some(number) => number,
            None => self.rule_names.acquire(&name).0,
        }
    }

    fn tell_apart(&mut self, ruleset: &Ruleset) {
        for peer in ruleset.told_apart() {
            let users = self.peers.entry(peer).or_default();
            *users += 1;
            self.renumber |= *users == 1;
        }
        for port in ruleset.rules.iter().flat_map(|rule| rule.ports.iter().flatten()) {
            if let ResolvedPort::AtPeer(_, name) = port {
                self.renumber |= self.port_names.insert(name.clone());
            }
        }
    }

    /// Gives identities to dirty addresses, or to all when the peers told apart have changed.
    fn settle_identities(&mut self, all: bool, plan: &mut Plan) -> Settled {
        let mut settled = Settled::default();
        let mut wanted: HashMap<IpNet, Option<Identity>> = HashMap::new();
        let dirty = std::mem::take(&mut self.dirty_addresses);
        if all {
            wanted.extend(self.assigned.keys().map(|prefix| (*prefix, None)));
            wanted.extend(
                self.block_prefixes().into_iter().map(|prefix| (prefix, self.identify_only_blocks(prefix))),
            );
            wanted.extend(
                self.by_address.keys().map(|address| (IpNet::from(*address), self.identify_pod(*address))),
            );
        } else {
            wanted.extend(dirty.iter().map(|address| (IpNet::from(*address), self.identify_pod(*address))));
        }
        for (prefix, identity) in wanted {
            let identity = identity.filter(|identity| !identity.peers.is_empty()).map(Arc::new);
            if self.assigned.get(&prefix) == identity.as_ref() {
                continue;
            }
            let previous = match &identity {
                Some(identity) => {
                    let (number, first) = self.identities.acquire(identity);
                    if first {
                        settled.added.push((identity.clone(), number));
                    }
                    plan.set_identities.push((prefix, number));
                    self.assigned.insert(prefix, identity.clone())
                }
                None => {
                    plan.remove_identities.push(prefix);
                    self.assigned.remove(&prefix)
                }
            };
            if let Some(previous) = previous {
                plan.recheck = true;
                settled.dropped.push(previous);
            }
        }
        settled
    }

    /// Every prefix at which membership in some block begins or ends.
    fn block_prefixes(&self) -> BTreeSet<IpNet> {
        let mut prefixes = BTreeSet::new();
        for peer in self.peers.keys() {
            if let Peer::Block { cidr, except } = &**peer {
                prefixes.insert(*cidr);
                prefixes.extend(except.iter().copied());
            }
        }
        prefixes
    }

    fn blocks_of(&self, prefix: IpNet) -> impl Iterator<Item = &Arc<Peer>> {
        self.peers.keys().filter(move |peer| match &***peer {
            Peer::Block { cidr, except } => {
                cidr.contains(&prefix) && !except.iter().any(|part| part.contains(&prefix))
            }
            _ => false,
        })
    }

    fn identify_pod(&self, address: IpAddr) -> Option<Identity> {
        let prefix = IpNet::from(address);
        let own_prefix = self.block_prefixes_hold(prefix);
        let Some(pod) = self.by_address.get(&address).and_then(|key| self.pods.get(key)) else {
            return if own_prefix { self.identify_only_blocks(prefix) } else { None };
        };
        let selected: Vec<Arc<Peer>> =
            self.peers.keys().filter(|peer| self.selects(peer, pod)).cloned().collect();
        if selected.is_empty() {
            return if own_prefix { self.identify_only_blocks(prefix) } else { None };
        }
        let mut peers = selected;
        peers.extend(self.blocks_of(prefix).cloned());
        peers.sort();
        let mut ports: Vec<NamedPort> =
            pod.ports.iter().filter(|port| self.port_names.contains(&port.name)).cloned().collect();
        ports.sort();
        ports.dedup();
        Some(Identity { peers, ports })
    }

    fn block_prefixes_hold(&self, prefix: IpNet) -> bool {
        self.peers.keys().any(|peer| match &**peer {
            Peer::Block { cidr, except } => *cidr == prefix || except.contains(&prefix),
            _ => false,
        })
    }

    /// A prefix that is an exception of one block may lie in no other: then its entry hides what is around it.
    fn identify_only_blocks(&self, prefix: IpNet) -> Option<Identity> {
        let mut peers: Vec<Arc<Peer>> = self.blocks_of(prefix).cloned().collect();
        if peers.is_empty() {
            peers.push(Arc::new(Peer::Nobody));
        }
        Some(Identity { peers, ports: Vec::new() })
    }

    fn selects(&self, peer: &Peer, pod: &Pod) -> bool {
        let Peer::Pods { namespace, namespaces, pods } = peer else { return false };
        let in_namespace = match namespace {
            Some(own) => *own == pod.key.namespace,
            // A namespace that has not been seen yet has no labels to match by.
            None => self.namespaces.get(&pod.key.namespace).is_some_and(|labels| namespaces.matches(labels)),
        };
        in_namespace && pods.matches(&pod.labels)
    }

    fn add_rules(&self, fresh: &[Arc<Ruleset>], added: &[(Arc<Identity>, u32)], plan: &mut Plan) {
        for (ruleset, number) in self.rulesets.iter() {
            if fresh.contains(ruleset) {
                plan.add_rules.extend(ruleset.entries_for_everyone(number).0);
                for (identity, identity_number) in self.identities.iter() {
                    plan.add_rules.extend(ruleset.entries_for(number, identity, identity_number).0);
                }
            } else {
                for (identity, identity_number) in added {
                    plan.add_rules.extend(ruleset.entries_for(number, identity, *identity_number).0);
                }
            }
        }
    }

    fn release(&mut self, released: Vec<Arc<Ruleset>>, dropped: Vec<Arc<Identity>>, plan: &mut Plan) {
        for ruleset in released {
            let Some(number) = self.rulesets.release(&ruleset) else { continue };
            plan.remove_rules.extend(ruleset.entries_for_everyone(number).0.into_keys());
            for (identity, identity_number) in self.identities.iter() {
                plan.remove_rules
                    .extend(ruleset.entries_for(number, identity, identity_number).0.into_keys());
            }
            for peer in ruleset.told_apart() {
                if let Some(users) = self.peers.get_mut(&peer) {
                    *users -= 1;
                    if *users == 0 {
                        self.peers.remove(&peer);
                        self.renumber = true;
                    }
                }
            }
        }
        for identity in dropped {
            let Some(identity_number) = self.identities.release(&identity) else { continue };
            for (ruleset, number) in self.rulesets.iter() {
                plan.remove_rules
                    .extend(ruleset.entries_for(number, &identity, identity_number).0.into_keys());
            }
        }
        self.forget_rule_names();
    }

    /// Names of rules that no policy has any more are given up, so that their numbers do not pile up.
    fn forget_rule_names(&mut self) {
        let gone: Vec<Arc<RuleName>> = self
            .rule_names
            .iter()
            .filter(|(name, _)| !self.policies.contains_key(&name.policy))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.rule_names.release(&name);
        }
    }
}

#[derive(Default)]
struct Settled {
    added: Vec<(Arc<Identity>, u32)>,
    dropped: Vec<Arc<Identity>>,
}

fn share_peers(rule: &Rule) -> Option<Vec<Arc<Peer>>> {
    rule.peers.as_ref().map(|peers| {
        let mut shared: Vec<Arc<Peer>> = peers.iter().cloned().map(Arc::new).collect();
        shared.sort();
        shared.dedup();
        shared
    })
}

fn resolve_ports(rule: &Rule, pod: &Pod, direction: Direction) -> Option<Vec<ResolvedPort>> {
    let mut resolved: Vec<ResolvedPort> =
        rule.ports.as_ref()?.iter().flat_map(|port| resolve_port(port, pod, direction)).collect();
    resolved.sort();
    resolved.dedup();
    Some(resolved)
}

/// A named port of an ingress rule is the pod's own; a name it does not have matches no port.
fn resolve_port(port: &Port, pod: &Pod, direction: Direction) -> Vec<ResolvedPort> {
    match (&port.ports, direction) {
        (PortMatch::Any, _) => vec![ResolvedPort::Protocol(port.protocol)],
        (PortMatch::Range(first, last), _) => port_prefixes(*first, *last)
            .into_iter()
            .map(|(start, bits)| ResolvedPort::Prefix(port.protocol, start, bits))
            .collect(),
        (PortMatch::Named(name), Direction::Ingress) => pod
            .ports
            .iter()
            .filter(|own| own.protocol == port.protocol && own.name == *name)
            .map(|own| ResolvedPort::Prefix(port.protocol, own.port, 16))
            .collect(),
        (PortMatch::Named(name), Direction::Egress) => {
            vec![ResolvedPort::AtPeer(port.protocol, name.clone())]
        }
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
