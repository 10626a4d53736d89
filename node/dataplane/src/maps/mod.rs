//! The one place that writes maps.
//!
//! Tables plan, this module carries out, in the order that the plans are in. After a start it first compares with what
//! an earlier run left pinned: what is the same is not written, and what nobody planned is removed at the end.

pub mod carry;
pub mod table;

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    io,
    net::IpAddr,
    path::Path,
};

use fairlead_abi::{
    Addr, Backend, BackendKey, Be32, Config, Counter, CtEntry, CtKey, Endpoint, NatKey, NatValue, NetnsEntry,
    Node, RangeKey, Rate, RateKey, Route, Rule, RuleHits, Service, ServiceKey, SocketKey, SocketValue, map,
};
use ipnet::IpNet;

use crate::{
    overlay::OverlayChange,
    policy::{Bridge, Plan, bridge},
    service::ServiceChange,
};
use table::{AddrPrefix, PerCpu, RangePrefix, RulePrefix, Table, Wire};

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} map {map}: {source}")]
pub struct MapError {
    /// The map.
    pub map: &'static str,
    /// What was being done.
    pub action: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

impl MapError {
    /// Whether the map has no room left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM))
    }
}

/// A map that only this module writes.
#[derive(Debug)]
struct Owned<K, V> {
    table: Table<K, V>,
    /// What is in a longest-prefix map, since the kernel cannot be asked for exactly one prefix of it.
    copy: Option<HashMap<K, V>>,
    /// Keys planned since the start; None once everything else has been removed.
    planned: Option<HashSet<K>>,
    /// How many entries there are.
    filled: u32,
    /// Writes and removals that changed something.
    writes: u64,
}

impl<K: Wire + Eq + Hash, V: Wire + PartialEq> Owned<K, V> {
    fn hash(directory: &Path, name: &'static str) -> Result<Self, MapError> {
        let table: Table<K, V> = Table::open(directory, name)?;
        let mut filled = 0;
        table.for_each(|_, _| filled += 1)?;
        Ok(Owned { table, copy: None, planned: Some(HashSet::new()), filled, writes: 0 })
    }

    fn trie(directory: &Path, name: &'static str) -> Result<Self, MapError> {
        let table: Table<K, V> = Table::open(directory, name)?;
        let copy = table.entries()?;
        let filled = copy.len() as u32;
        Ok(Owned { table, copy: Some(copy), planned: Some(HashSet::new()), filled, writes: 0 })
    }

    fn current(&self, key: &K) -> Result<Option<V>, MapError> {
        match &self.copy {
            Some(copy) => Ok(copy.get(key).copied()),
            None => self.table.get(key),
        }
    }

    fn set(&mut self, key: K, value: V) -> Result<(), MapError> {
        self.write(key, value)?;
        if let Some(planned) = &mut self.planned {
            planned.insert(key);
        }
        Ok(())
    }

    /// Writes what nobody planned, so that it goes with what an earlier run left.
    fn write(&mut self, key: K, value: V) -> Result<(), MapError> {
        let before = self.current(&key)?;
        if before != Some(value) {
            self.table.set(&key, &value)?;
            self.writes += 1;
            if let Some(copy) = &mut self.copy {
                copy.insert(key, value);
            }
        }
        self.filled += u32::from(before.is_none());
        Ok(())
    }

    fn remove(&mut self, key: K) -> Result<(), MapError> {
        if self.current(&key)?.is_some() {
            self.table.remove(&key)?;
            self.writes += 1;
            self.filled = self.filled.saturating_sub(1);
            if let Some(copy) = &mut self.copy {
                copy.remove(&key);
            }
        }
        if let Some(planned) = &mut self.planned {
            planned.remove(&key);
        }
        Ok(())
    }

    /// Removes what nobody planned; gives how many entries that were.
    fn remove_unplanned(&mut self) -> Result<u32, MapError> {
        let Some(planned) = self.planned.take() else { return Ok(0) };
        let mut stale = Vec::new();
        self.table.for_each(|key, _| {
            if !planned.contains(&key) {
                stale.push(key);
            }
        })?;
        for key in &stale {
            self.remove(*key)?;
        }
        Ok(stale.len() as u32)
    }

    fn fill(&self) -> Fill {
        Fill {
            map: self.table.name(),
            entries: u64::from(self.filled),
            capacity: u64::from(self.table.capacity()),
        }
    }
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Name of the map.
    pub map: &'static str,
    /// Entries in it.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

/// Every map that userspace writes.
#[derive(Debug)]
pub struct Maps {
    config: Table<u32, Config>,
    netns: Owned<u64, NetnsEntry>,
    endpoints: Owned<Addr, Endpoint>,
    routes: Owned<AddrPrefix, Route>,
    nodes: Owned<Addr, Node>,
    services: Owned<ServiceKey, Service>,
    backends: Owned<BackendKey, Backend>,
    tables: Owned<u32, fairlead_abi::Table>,
    ranges: Owned<RangePrefix, u32>,
    direct: Owned<AddrPrefix, u32>,
    announced: Owned<Addr, u32>,
    rates: Owned<RateKey, Rate>,
    identities: Owned<AddrPrefix, u32>,
    rules: Owned<RulePrefix, Rule>,
    rule_hits: PerCpu<u32, RuleHits>,
    counted: HashSet<u32>,
}

/// Maps that the programs write and userspace reads or thins out.
#[derive(Debug)]
pub struct Observed {
    /// Flows.
    pub conntrack: Table<CtKey, CtEntry>,
    /// Translations.
    pub nat: Table<NatKey, NatValue>,
    /// Sockets' translations.
    pub sockets: Table<SocketKey, SocketValue>,
    /// Addresses on the uplink's segment that are answered for.
    pub announced: Table<Addr, u32>,
    /// Drops by reason.
    pub drops: PerCpu<u32, Counter>,
    /// Other counters.
    pub metrics: PerCpu<u32, u64>,
    /// Verdicts by rule.
    pub rule_hits: PerCpu<u32, RuleHits>,
    /// Messages and bytes that went from socket to socket.
    pub spliced: PerCpu<u32, Counter>,
    /// Packets that the uplink's driver has forwarded.
    pub early: PerCpu<u32, Counter>,
}

impl Observed {
    /// Opens the maps that are pinned in `directory`.
    ///
    /// # Errors
    /// When one is not pinned, or is of another layout.
    pub fn open(directory: &Path) -> Result<Self, MapError> {
        Ok(Observed {
            conntrack: Table::open(directory, map::CONNTRACK)?,
            nat: Table::open(directory, map::NAT)?,
            sockets: Table::open(directory, map::SOCKETS)?,
            announced: Table::open(directory, map::ANNOUNCED)?,
            drops: PerCpu::open(directory, map::DROPS)?,
            metrics: PerCpu::open(directory, map::METRICS)?,
            rule_hits: PerCpu::open(directory, map::RULE_HITS)?,
            spliced: PerCpu::open(directory, map::SPLICED)?,
            early: PerCpu::open(directory, map::EARLY)?,
        })
    }
}

/// A prefix as keys of longest-prefix maps have it.
pub(crate) fn prefix_key(prefix: IpNet) -> AddrPrefix {
    let mapped = if prefix.addr().is_ipv4() { 96 } else { 0 };
    AddrPrefix { length: mapped + u32::from(prefix.prefix_len()), addr: Addr::from(prefix.network()) }
}

/// Clients of a set as the keys of RANGES have them.
pub(crate) fn range_key(service: u32, clients: IpNet) -> RangePrefix {
    let AddrPrefix { length, addr } = prefix_key(clients);
    RangePrefix { length: 32 + length, key: RangeKey { service: Be32::new(service), addr } }
}

impl Maps {
    /// Opens the maps that are pinned in `directory`.
    ///
    /// # Errors
    /// When one is not pinned, or is of another layout.
    pub fn open(directory: &Path) -> Result<Self, MapError> {
        Ok(Maps {
            config: Table::open(directory, map::CONFIG)?,
            netns: Owned::hash(directory, map::NETNS)?,
            endpoints: Owned::hash(directory, map::ENDPOINTS)?,
            routes: Owned::trie(directory, map::ROUTES)?,
            nodes: Owned::hash(directory, map::NODES)?,
            services: Owned::hash(directory, map::SERVICES)?,
            backends: Owned::hash(directory, map::BACKENDS)?,
            tables: Owned::hash(directory, map::TABLES)?,
            ranges: Owned::trie(directory, map::RANGES)?,
            direct: Owned::trie(directory, map::DIRECT)?,
            announced: Owned::hash(directory, map::ANNOUNCED)?,
            rates: Owned::hash(directory, map::RATES)?,
            identities: Owned::trie(directory, map::IDENTITIES)?,
            rules: Owned::trie(directory, map::RULES)?,
            rule_hits: PerCpu::open(directory, map::RULE_HITS)?,
            counted: HashSet::new(),
        })
    }

    /// Backends in the order an earlier run left them, by set number.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn adopted_backends(&self) -> Result<HashMap<u32, Vec<Backend>>, MapError> {
        let mut entries: Vec<(BackendKey, Backend)> = self.backends.table.entries()?.into_iter().collect();
        entries.sort_by_key(|(key, _)| (key.service, key.slot));
        let mut sets: HashMap<u32, Vec<Backend>> = HashMap::new();
        for (key, backend) in entries {
            sets.entry(key.service).or_default().push(backend);
        }
        Ok(sets)
    }

    /// Greatest revision that an earlier run gave to a pod.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn greatest_revision(&self) -> Result<u32, MapError> {
        let mut greatest = 0;
        self.endpoints.table.for_each(|_, endpoint| greatest = greatest.max(endpoint.revision))?;
        Ok(greatest)
    }

    /// Writes the node's configuration, unless it is the same.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_config(&self, config: &Config) -> Result<(), MapError> {
        if self.config.get(&0)? == Some(*config) {
            return Ok(());
        }
        self.config.set(&0, config)
    }

    /// Says whose sockets live in a network namespace.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_netns(&mut self, cookie: u64, entry: NetnsEntry) -> Result<(), MapError> {
        self.netns.set(cookie, entry)
    }

    /// Forgets a network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_netns(&mut self, cookie: u64) -> Result<(), MapError> {
        self.netns.remove(cookie)
    }

    /// The entry of a pod of this node, as it is in the map.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn endpoint(&self, address: IpAddr) -> Result<Option<Endpoint>, MapError> {
        self.endpoints.table.get(&Addr::from(address))
    }

    /// Writes the entry of a pod of this node.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_endpoint(&mut self, address: IpAddr, endpoint: Endpoint) -> Result<(), MapError> {
        self.endpoints.set(Addr::from(address), endpoint)
    }

    /// Removes the entry of a pod of this node.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_endpoint(&mut self, address: IpAddr) -> Result<(), MapError> {
        self.endpoints.remove(Addr::from(address))
    }

    /// Bounds what a pod receives or sends, or no more. What may pass at the moment is the programs' to count, so an
    /// entry that bounds the same is left alone.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_rate(&mut self, key: RateKey, rate: Option<Rate>) -> Result<(), MapError> {
        let Some(rate) = rate else { return self.rates.remove(key) };
        let same =
            |present: &Rate| (present.bytes_per_second, present.burst) == (rate.bytes_per_second, rate.burst);
        match self.rates.current(&key)?.filter(same) {
            Some(present) => self.rates.set(key, present),
            None => self.rates.set(key, rate),
        }
    }

    /// Says which destinations outside the cluster pods reach with their own address.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_direct(&mut self, prefixes: &[IpNet]) -> Result<(), MapError> {
        prefixes.iter().try_for_each(|prefix| self.direct.set(prefix_key(*prefix), 1))
    }

    /// Addresses on the uplink's segment that are answered for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn announced(&self) -> Result<Vec<IpAddr>, MapError> {
        Ok(self.announced.table.entries()?.into_keys().map(Addr::to_ip).collect())
    }

    /// Answers for an address on the uplink's segment, or no more.
    ///
    /// # Errors
    /// When the map is full.
    pub fn announce(&mut self, address: IpAddr, on: bool) -> Result<(), MapError> {
        if on { self.announced.set(address.into(), 1) } else { self.announced.remove(address.into()) }
    }

    /// Carries out a change of one Service.
    ///
    /// # Errors
    /// When a map is full; then the Service keeps what it had as far as it was not written yet.
    pub fn apply_service(&mut self, change: &ServiceChange) -> Result<(), MapError> {
        for (key, backend) in &change.set_backends {
            self.backends.set(*key, *backend)?;
        }
        for (number, table) in &change.set_tables {
            self.tables.set(*number, **table)?;
        }
        for (number, clients) in &change.set_ranges {
            self.ranges.set(range_key(*number, *clients), 1)?;
        }
        for (key, frontend) in &change.set_frontends {
            self.services.set(*key, *frontend)?;
        }
        for key in &change.remove_frontends {
            self.services.remove(*key)?;
        }
        for (number, clients) in &change.remove_ranges {
            self.ranges.remove(range_key(*number, *clients))?;
        }
        for number in &change.remove_tables {
            self.tables.remove(*number)?;
        }
        for key in &change.remove_backends {
            self.backends.remove(*key)?;
        }
        Ok(())
    }

    /// Adds the rules of a policy plan; pods may obey other rulesets only afterwards.
    ///
    /// # Errors
    /// When a map is full: the caller must close the pods concerned.
    pub fn add_rules(&mut self, plan: &Plan) -> Result<(), MapError> {
        for ((length, key), rule) in &plan.add_rules {
            if self.counted.insert(rule.id) {
                self.rule_hits.add(&rule.id)?;
            }
            self.rules.set(RulePrefix { length: *length, key: *key }, *rule)?;
        }
        Ok(())
    }

    /// Writes the identities of a policy plan.
    ///
    /// # Errors
    /// When a map is full: the caller must close the pods concerned.
    pub fn set_identities(&mut self, plan: &Plan) -> Result<(), MapError> {
        for (prefix, identity) in &plan.set_identities {
            self.identities.set(prefix_key(*prefix), *identity)?;
        }
        Ok(())
    }

    /// What leads from the entries of an earlier run to a plan.
    #[must_use]
    pub fn bridge_to(&self, plan: &Plan) -> Bridge {
        match (&self.identities.copy, &self.rules.copy) {
            (Some(identities), Some(rules)) => bridge(identities, rules, plan),
            _ => Bridge::default(),
        }
    }

    /// Writes what leads to a plan. It is planned by nobody, so that it goes with what the earlier run left.
    ///
    /// # Errors
    /// When a map is full.
    pub fn apply_bridge(&mut self, bridge: &Bridge) -> Result<(), MapError> {
        for (prefix, rule) in &bridge.rules {
            self.rules.write(*prefix, *rule)?;
        }
        for (prefix, number) in &bridge.identities {
            self.identities.write(*prefix, *number)?;
        }
        Ok(())
    }

    /// Carries out the part of a policy plan that must come after pods obey other rulesets.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn apply_rules_last(&mut self, plan: &Plan) -> Result<(), MapError> {
        for prefix in &plan.remove_identities {
            self.identities.remove(prefix_key(*prefix))?;
        }
        for (length, key) in &plan.remove_rules {
            self.rules.remove(RulePrefix { length: *length, key: *key })?;
        }
        Ok(())
    }

    /// Stops counting rules that are not among `alive`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn forget_rules(&mut self, alive: &HashSet<u32>) -> Result<(), MapError> {
        let gone: Vec<u32> = self.counted.difference(alive).copied().collect();
        for id in gone {
            self.rule_hits.remove(&id)?;
            self.counted.remove(&id);
        }
        Ok(())
    }

    /// Carries out changes of nodes.
    ///
    /// # Errors
    /// When a map is full.
    pub fn apply_overlay(&mut self, change: &OverlayChange) -> Result<(), MapError> {
        for (address, flags) in &change.set_addresses {
            self.nodes.set(Addr::from(*address), Node { flags: *flags })?;
        }
        for (cidr, hop) in &change.set_routes {
            self.routes.set(prefix_key(*cidr), Route { node: Addr::from(hop.node), flags: 0 })?;
        }
        for (cidr, _) in &change.remove_routes {
            self.routes.remove(prefix_key(*cidr))?;
        }
        for address in &change.remove_addresses {
            self.nodes.remove(Addr::from(*address))?;
        }
        Ok(())
    }

    /// How many writes to identities and rules have changed something: tells whether verdicts may be different from
    /// those that established flows were given.
    #[must_use]
    pub fn policy_writes(&self) -> u64 {
        self.identities.writes + self.rules.writes
    }

    /// Ends the comparison with what an earlier run left: removes what nobody planned. What refers goes before what is
    /// referred to. Announced addresses stay until another node has them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_unplanned(&mut self) -> Result<u32, MapError> {
        Ok(self.services.remove_unplanned()?
            + self.ranges.remove_unplanned()?
            + self.tables.remove_unplanned()?
            + self.backends.remove_unplanned()?
            + self.direct.remove_unplanned()?
            + self.rates.remove_unplanned()?
            + self.endpoints.remove_unplanned()?
            + self.netns.remove_unplanned()?
            + self.identities.remove_unplanned()?
            + self.rules.remove_unplanned()?
            + self.routes.remove_unplanned()?
            + self.nodes.remove_unplanned()?)
    }

    /// How full each map is.
    #[must_use]
    pub fn fill(&self) -> Vec<Fill> {
        vec![
            self.netns.fill(),
            self.endpoints.fill(),
            self.routes.fill(),
            self.nodes.fill(),
            self.services.fill(),
            self.backends.fill(),
            self.tables.fill(),
            self.ranges.fill(),
            self.direct.fill(),
            self.announced.fill(),
            self.rates.fill(),
            self.identities.fill(),
            self.rules.fill(),
        ]
    }
}
