//! Services and EndpointSlices -> entries of SERVICES and BACKENDS. Pure: events go in, [`ServiceTable::settle`]
//! gives one [`ServiceChange`] per Service that is different now; what has not changed is not looked at.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    net::IpAddr,
    sync::Arc,
};

use fairlead_abi::{Addr, Backend, BackendKey, Be16, Service as Frontend, map};

pub use super::entries::{Gone, ServiceChange};
use super::{
    entries::{Entries, FrontendKey, Packed, Set, difference, keep_slots},
    health::{Checks, Health},
    maglev,
    reach::{Candidate, Place, reachable},
};
use crate::{
    inspect::{Entry, entry},
    maps::range_key,
    model::{Algorithm, EndpointSlice, Family, Key, Protocol, Service, ServicePort},
    policy::identity::{Canonical, Numbers},
};

/// Backends beyond this many per port are left out, and the change says so.
pub const MAX_BACKENDS: usize = 4096;

/// Names a set of backends. Two frontends that send to the same backends share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct SetName {
    service: Key,
    port: String,
    protocol: Protocol,
    number: u16,
    local: bool,
    family: Family,
}

impl Canonical for SetName {
    fn canonical(&self, out: &mut String) {
        let protocol = self.protocol.number();
        let _ = write!(
            out,
            "service {} port {:?}/{protocol}:{} {}",
            self.service, self.port, self.number, self.local
        );
        // IPv4 adds nothing: its numbers are those of layout 1, which knew no other family.
        if self.family == Family::V6 {
            out.push_str(" v6");
        }
    }
}

/// A port of this node that leads to one pod (hostPort).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Address on the node; unspecified is every address of its family.
    pub address: IpAddr,
    /// Port on the node.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Address of the pod.
    pub pod: IpAddr,
    /// Port in the pod.
    pub pod_port: u16,
}

/// The state of all Services.
#[derive(Debug)]
pub struct ServiceTable {
    place: Place,
    /// How traffic from pods and nodes is spread when a Service does not say.
    inside: Algorithm,
    /// IPv6 addresses of this node that NodePorts answer on. The one entry that stands for every address of the node
    /// leads to IPv4 backends, so IPv6 has an entry for each.
    node_addresses: Vec<IpAddr>,
    /// Those of the other nodes: with direct server return they send here what they are asked, as it came.
    peer_addresses: Vec<IpAddr>,
    services: HashMap<Key, Service>,
    host_ports: HashMap<Key, Vec<HostPort>>,
    /// By namespace and name, so that those of one namespace are found without the others.
    slices: BTreeMap<Key, EndpointSlice>,
    slices_of: HashMap<Key, Vec<Key>>,
    /// Weights of pods that have one.
    weights: HashMap<IpAddr, u16>,
    numbers: Numbers<SetName>,
    held: HashMap<Key, Vec<Arc<SetName>>>,
    planned: HashMap<Key, Packed>,
    owners: HashMap<FrontendKey, Key>,
    contested: HashMap<FrontendKey, BTreeSet<Key>>,
    dirty: HashSet<Key>,
    /// Backends over all that is planned.
    backend_count: usize,
    /// Order of backends that an earlier run of the agent left in the map, by set number.
    adopted: HashMap<u32, Vec<Backend>>,
    checks: Checks,
    /// Health check ports by Service.
    check_ports: HashMap<Key, u16>,
    checks_changed: bool,
    /// Services that have addresses of a load balancer.
    balanced: BTreeSet<Key>,
    balancers_changed: bool,
}

impl ServiceTable {
    /// An empty table for the node of that name. `adopted` is the order of backends in the pinned map, kept so that a
    /// restart moves no backend to another slot.
    #[must_use]
    pub fn new(node: &str, inside: Algorithm, adopted: HashMap<u32, Vec<Backend>>) -> Self {
        ServiceTable {
            place: Place { node: node.to_owned(), zone: String::new() },
            inside,
            node_addresses: Vec::new(),
            peer_addresses: Vec::new(),
            services: HashMap::new(),
            host_ports: HashMap::new(),
            slices: BTreeMap::new(),
            slices_of: HashMap::new(),
            weights: HashMap::new(),
            numbers: Numbers::default(),
            held: HashMap::new(),
            planned: HashMap::new(),
            owners: HashMap::new(),
            contested: HashMap::new(),
            dirty: HashSet::new(),
            backend_count: 0,
            adopted,
            checks: Checks::new(),
            check_ports: HashMap::new(),
            checks_changed: false,
            balanced: BTreeSet::new(),
            balancers_changed: true,
        }
    }

    /// Zone of this node. Services with hints for zones are planned anew when it changes, which it hardly ever does.
    pub fn set_zone(&mut self, zone: &str) {
        if self.place.zone != zone {
            zone.clone_into(&mut self.place.zone);
            let hinted = |slice: &&EndpointSlice| slice.endpoints.iter().any(|e| !e.for_zones.is_empty());
            self.dirty.extend(self.slices.values().filter(hinted).map(|slice| slice.service.clone()));
        }
    }

    /// The weight that a pod of `namespace` asks for; None is the usual one.
    pub fn set_weight(&mut self, namespace: &str, address: IpAddr, weight: Option<u16>) {
        let before = match weight {
            Some(weight) => self.weights.insert(address, weight),
            None => self.weights.remove(&address),
        };
        if before == weight {
            return;
        }
        let first = Key::new(namespace, "");
        let of_namespace = self.slices.range(first..).take_while(|(key, _)| *key.namespace == *namespace);
        let holds = |slice: &&EndpointSlice| slice.endpoints.iter().any(|e| e.addresses.contains(&address));
        self.dirty
            .extend(of_namespace.map(|(_, slice)| slice).filter(holds).map(|slice| slice.service.clone()));
    }

    /// Health check ports with their answers, if they are different from what the last call gave.
    pub fn changed_checks(&mut self) -> Option<Checks> {
        std::mem::take(&mut self.checks_changed).then(|| self.checks.clone())
    }

    /// A Service is new or different.
    pub fn set_service(&mut self, service: Service) {
        if self.services.get(&service.key) != Some(&service) {
            self.dirty.insert(service.key.clone());
            self.services.insert(service.key.clone(), service);
        }
    }

    /// A Service is gone, or has no virtual address any more.
    pub fn remove_service(&mut self, key: &Key) {
        if self.services.remove(key).is_some() {
            self.dirty.insert(key.clone());
        }
    }

    /// An EndpointSlice is new or different.
    pub fn set_slice(&mut self, slice: EndpointSlice) {
        if self.slices.get(&slice.key) == Some(&slice) {
            return;
        }
        self.remove_slice(&slice.key.clone());
        self.dirty.insert(slice.service.clone());
        let of = self.slices_of.entry(slice.service.clone()).or_default();
        if let Err(at) = of.binary_search(&slice.key) {
            of.reserve_exact(1);
            of.insert(at, slice.key.clone());
        }
        self.slices.insert(slice.key.clone(), slice);
    }

    /// An EndpointSlice is gone.
    pub fn remove_slice(&mut self, key: &Key) {
        let Some(slice) = self.slices.remove(key) else { return };
        if let Some(keys) = self.slices_of.get_mut(&slice.service) {
            keys.retain(|held| held != key);
            if keys.is_empty() {
                self.slices_of.remove(&slice.service);
            }
        }
        self.dirty.insert(slice.service);
    }

    /// Ports of this node that lead to a pod; none takes them away. `owner` must not be a Service's key.
    pub fn set_host_ports(&mut self, owner: Key, ports: Vec<HostPort>) {
        self.dirty.insert(owner.clone());
        if ports.is_empty() {
            self.host_ports.remove(&owner);
        } else {
            self.host_ports.insert(owner, ports);
        }
    }

    /// Addresses of this node that NodePorts answer on.
    pub fn set_node_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut addresses: Vec<IpAddr> = addresses.into_iter().filter(IpAddr::is_ipv6).collect();
        addresses.sort();
        if self.node_addresses == addresses {
            return;
        }
        self.node_addresses = addresses;
        let has_node_port = |service: &&Service| service.ports.iter().any(|port| port.node_port != 0);
        self.dirty.extend(self.services.values().filter(has_node_port).map(|service| service.key.clone()));
        self.dirty.extend(self.host_ports.keys().cloned());
    }

    /// Addresses of other nodes that NodePorts answer on.
    pub fn set_peer_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut addresses: Vec<IpAddr> = addresses.into_iter().filter(IpAddr::is_ipv6).collect();
        addresses.sort();
        if self.peer_addresses == addresses {
            return;
        }
        self.peer_addresses = addresses;
        let direct = self.services.values().filter(|service| service.direct_return);
        self.dirty.extend(direct.map(|service| service.key.clone()));
    }

    /// Every address of the node of one family, as frontends name it.
    fn on_every_address(&self, family: Family) -> Vec<IpAddr> {
        match family {
            Family::V4 => vec![family.unspecified()],
            Family::V6 => self.node_addresses.clone(),
        }
    }

    /// Keys of every Service.
    pub fn service_keys(&self) -> impl Iterator<Item = &Key> {
        self.services.keys()
    }

    /// Keys of every EndpointSlice.
    pub fn slice_keys(&self) -> impl Iterator<Item = &Key> {
        self.slices.keys()
    }

    /// How many Services and how many backends there are.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.services.len(), self.backend_count)
    }

    /// Gives one change for each Service that is different from what the last call left.
    pub fn settle(&mut self) -> Vec<ServiceChange> {
        let mut changes = Vec::new();
        // A frontend that one Service gives up may be waited for by another, which is then dirty too.
        while !self.dirty.is_empty() {
            let mut dirty: Vec<Key> = std::mem::take(&mut self.dirty).into_iter().collect();
            dirty.sort();
            for key in dirty {
                let change = self.settle_one(&key);
                if !change.is_empty() {
                    changes.push(change);
                }
            }
        }
        changes
    }

    fn settle_one(&mut self, key: &Key) -> ServiceChange {
        let previous = self.planned.remove(key).map(Entries::from).unwrap_or_default();
        let (wanted, names) = self.entries(key, &previous);
        let change = difference(&previous, &wanted);
        self.settle_check(key);
        let was = self.balanced.remove(key);
        let is = self.services.get(key).is_some_and(|service| !service.balancer_ips.is_empty());
        if is {
            self.balanced.insert(key.clone());
        }
        self.balancers_changed |= was || is;
        self.backend_count = self.backend_count + wanted.backends() - previous.backends();
        for frontend in previous.frontends.keys().filter(|frontend| !wanted.frontends.contains_key(frontend))
        {
            self.owners.remove(frontend);
            self.dirty.extend(self.contested.remove(frontend).into_iter().flatten());
        }
        for name in std::mem::replace(self.held.entry(key.clone()).or_default(), names) {
            self.numbers.release(&name);
        }
        if wanted == Entries::default() {
            self.held.remove(key);
        } else {
            self.planned.insert(key.clone(), wanted.into());
        }
        change
    }

    /// What a Service should have in the maps, with the names of the sets it holds.
    fn entries(&mut self, key: &Key, previous: &Entries) -> (Entries, Vec<Arc<SetName>>) {
        let mut building = Building { entries: Entries::default(), names: Vec::new() };
        if let Some(service) = self.services.get(key).cloned() {
            for family in Family::ALL {
                if service.cluster_ips.iter().any(|address| Family::of(*address) == family) {
                    for port in &service.ports {
                        self.add_port(&service, port, family, previous, &mut building);
                    }
                }
            }
        }
        for port in self.host_ports.get(key).cloned().unwrap_or_default() {
            let family = Family::of(port.pod);
            let name = SetName {
                service: key.clone(),
                port: String::new(),
                protocol: port.protocol,
                number: port.port,
                local: true,
                family,
            };
            let backend = Backend { addr: Addr::from(port.pod), port: Be16::new(port.pod_port), flags: 0 };
            let number = self.insert_set(name, vec![backend], previous, &mut building);
            let frontend = Frontend { id: number, backends: 1, ..Frontend::default() };
            let addresses = if port.address.is_unspecified() {
                self.on_every_address(family)
            } else {
                vec![port.address]
            };
            for address in addresses {
                let at = FrontendKey { address, port: port.port, protocol: port.protocol, inside: false };
                self.add_frontend(key, at, frontend, &mut building);
            }
        }
        (building.entries, building.names)
    }

    /// Names of sets by number, as metrics show them: the Service with the port.
    #[must_use]
    pub fn names(&self, numbers: &[u32]) -> HashMap<u32, (String, String)> {
        let named = |number: &u32| {
            let name = self.numbers.content(*number)?;
            let protocol = format!("{:?}", name.protocol).to_uppercase();
            Some((*number, (name.service.to_string(), format!("{}/{protocol}", name.number))))
        };
        numbers.iter().filter_map(named).collect()
    }

    /// What the maps should say, for people.
    #[must_use]
    pub fn wanted(&self) -> Vec<Entry> {
        let mut shown = Vec::new();
        for (key, entries) in &self.planned {
            let owner = key.to_string();
            let mut show = |map: &str, entry: (String, String)| shown.push(Entry::new(map, entry, &owner));
            for (frontend, value) in &entries.frontends {
                show(map::SERVICES, entry::frontend(&frontend.wire(), value));
            }
            for (number, set) in &entries.sets {
                for (slot, backend) in set.backends.iter().enumerate() {
                    let key = BackendKey { service: *number, slot: slot as u32 };
                    show(map::BACKENDS, entry::backend(&key, backend));
                }
                let table = set.weights.as_ref().and_then(|weights| maglev::table(&set.backends, weights));
                if let Some(table) = table {
                    show(map::TABLES, entry::table(*number, &table));
                }
            }
            for (number, clients) in &entries.ranges {
                let prefix = range_key(*number, *clients);
                show(map::RANGES, entry::range(prefix.length, &prefix.key));
            }
        }
        shown
    }

    /// Whether the answer of [`Self::balancers`] may have changed since this was last asked.
    pub fn balancers_changed(&mut self) -> bool {
        std::mem::take(&mut self.balancers_changed)
    }

    /// Every load balancer address, with the only nodes that may answer for it: those with a ready backend, when its
    /// traffic must stay on the node that takes it. Services that share an address come to one answer, so that every node
    /// ranks the same candidates: nodes that suit all of them, if there are any.
    pub fn balancers(&self) -> BTreeMap<IpAddr, Option<BTreeSet<&str>>> {
        let mut balancers: BTreeMap<IpAddr, Option<BTreeSet<&str>>> = BTreeMap::new();
        for service in self.balanced.iter().filter_map(|key| self.services.get(key)) {
            let nodes: Option<BTreeSet<&str>> = service.external_local.then(|| {
                let slices = self.slices_of.get(&service.key).into_iter().flatten();
                let endpoints =
                    slices.filter_map(|key| self.slices.get(key)).flat_map(|slice| &slice.endpoints);
                endpoints.filter(|endpoint| endpoint.ready).map(|endpoint| endpoint.node.as_str()).collect()
            });
            for address in &service.balancer_ips {
                let merged = match balancers.remove(address) {
                    Some(others) => both_suit(others, nodes.clone()),
                    None => nodes.clone(),
                };
                balancers.insert(*address, merged);
            }
        }
        balancers
    }

    /// Keeps the Service's health check port, if it has one, in step with its backends here.
    fn settle_check(&mut self, key: &Key) {
        let service = self.services.get(key).filter(|service| service.external_local);
        let wanted = service.map(|service| service.health_check_node_port).filter(|port| *port != 0);
        let health = wanted.map(|port| (port, Health { service: key.clone(), local: self.ready_here(key) }));
        if let Some((port, health)) = &health
            && self.checks.get(port) == Some(health)
        {
            return;
        }
        let before = self.check_ports.remove(key).and_then(|port| self.checks.remove(&port));
        self.checks_changed |= before.is_some() || health.is_some();
        if let Some((port, health)) = health {
            self.check_ports.insert(key.clone(), port);
            self.checks.insert(port, health);
        }
    }

    /// Ready endpoints of a Service on this node. One of two families counts once.
    fn ready_here(&self, key: &Key) -> usize {
        let slices = self.slices_of.get(key).into_iter().flatten().filter_map(|key| self.slices.get(key));
        let endpoints = slices.flat_map(|slice| &slice.endpoints);
        let ready: BTreeSet<IpAddr> = endpoints
            .filter(|endpoint| endpoint.ready && endpoint.node == self.place.node)
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .collect();
        let of = |family| ready.iter().filter(|address| Family::of(**address) == family).count();
        Family::ALL.into_iter().map(of).max().unwrap_or_default()
    }

    fn add_port(
        &mut self,
        service: &Service,
        port: &ServicePort,
        family: Family,
        previous: &Entries,
        building: &mut Building,
    ) {
        for side in [Side::Cluster, Side::External, Side::Balancer] {
            let addresses = self.addresses(service, port, family, side);
            let local = if side == Side::Cluster { service.internal_local } else { service.external_local };
            // The external policy is about clients outside; others are served as at the cluster addresses (KEP-1669).
            let scopes: &[bool] = if local && side != Side::Cluster { &[false, true] } else { &[false] };
            for inside in scopes.iter().filter(|_| !addresses.is_empty()) {
                let local = local && !inside;
                let Some(mut frontend) =
                    self.frontend(service, port, family, side, local, previous, building)
                else {
                    continue;
                };
                if scopes.len() > 1 && !inside {
                    frontend.flags |= Frontend::INSIDE;
                }
                let direct = side == Side::External && frontend.flags & Frontend::DSR != 0;
                let peers = match port.node_port {
                    number @ 1.. if direct && family == Family::V6 => {
                        self.peer_addresses.iter().map(|address| (*address, number)).collect()
                    }
                    _ => Vec::new(),
                };
                for (address, port_number) in addresses.iter().copied().chain(peers) {
                    let protocol = port.protocol;
                    let key = FrontendKey { address, port: port_number, protocol, inside: false };
                    // Whoever has the address decides what pods get there.
                    if !inside {
                        self.add_frontend(&service.key, key, frontend, building);
                    } else if building.entries.frontends.contains_key(&key) {
                        let key = FrontendKey { inside: true, ..key };
                        self.add_frontend(&service.key, key, frontend, building);
                    }
                }
            }
        }
    }

    /// What one side of a Service's port leads to, with its set.
    #[expect(clippy::too_many_arguments, reason = "each says another part of what is asked")]
    fn frontend(
        &mut self,
        service: &Service,
        port: &ServicePort,
        family: Family,
        side: Side,
        local: bool,
        previous: &Entries,
        building: &mut Building,
    ) -> Option<Frontend> {
        let external = side != Side::Cluster && (local || !service.external_local);
        let algorithm = self.algorithm(service, if external { side } else { Side::Cluster });
        let number = self.add_set(service, port, family, local, algorithm, previous, building);
        let set = building.entries.sets.get(&number)?;
        let algorithm = if algorithm == Algorithm::Maglev && set.weights.is_none() {
            // Too many backends for a table.
            Algorithm::Random
        } else {
            algorithm
        };
        let uneven = set.weights.as_ref().is_some_and(|weights| weights.iter().any(|w| *w != weights[0]));
        let mut flags = if local { Frontend::LOCAL } else { 0 };
        // A local backend answers by itself anyway.
        if service.direct_return && external && !local && algorithm == Algorithm::Maglev {
            flags |= Frontend::DSR;
        }
        if let Some(ranges) = service.source_ranges.as_ref().filter(|_| side == Side::Balancer) {
            // Ranges of the other family alone leave nobody: they were meant to restrict.
            flags |= Frontend::RANGES;
            let of_family = ranges.iter().filter(|range| Family::of(range.addr()) == family);
            building.entries.ranges.extend(of_family.map(|range| (number, range.trunc())));
        }
        Some(Frontend {
            id: number,
            backends: set.backends.len() as u32,
            flags,
            affinity_seconds: service.affinity_seconds,
            algorithm: algorithm.number(),
            table: if uneven || algorithm == Algorithm::Maglev { number } else { 0 },
        })
    }

    /// Addresses with ports at which one side of a Service is asked.
    fn addresses(
        &self,
        service: &Service,
        port: &ServicePort,
        family: Family,
        side: Side,
    ) -> Vec<(IpAddr, u16)> {
        let named = match side {
            Side::Cluster => &service.cluster_ips,
            Side::External => &service.external_ips,
            Side::Balancer => &service.balancer_ips,
        };
        let mut addresses: Vec<(IpAddr, u16)> = named
            .iter()
            .filter(|address| Family::of(**address) == family)
            .map(|address| (*address, port.port))
            .collect();
        if side == Side::External && port.node_port != 0 {
            let node = self.on_every_address(family);
            addresses.extend(node.into_iter().map(|address| (address, port.node_port)));
        }
        addresses
    }

    fn algorithm(&self, service: &Service, side: Side) -> Algorithm {
        service.algorithm.unwrap_or(if side == Side::Cluster { self.inside } else { Algorithm::Maglev })
    }

    /// Backends of a port that take new connections.
    fn backends(&self, service: &Key, port: &ServicePort, family: Family, local: bool) -> Vec<Backend> {
        let slices = self.slices_of.get(service).into_iter().flatten().filter_map(|key| self.slices.get(key));
        let mut candidates: Vec<Candidate<'_>> = Vec::new();
        for slice in slices {
            let numbers = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
            for number in numbers.map(|found| found.port) {
                let of_family = slice.endpoints.iter().filter(|endpoint| {
                    endpoint.addresses.first().is_some_and(|address| Family::of(*address) == family)
                });
                candidates.extend(of_family.map(|endpoint| (endpoint, number)));
            }
        }
        reachable(&candidates, local, &self.place)
            .into_iter()
            .take(MAX_BACKENDS)
            .map(|(address, port)| Backend { addr: Addr::from(address), port: Be16::new(port), flags: 0 })
            .collect()
    }

    /// Adds the set of backends of a port, unless it is there for another side; gives its number. A table is added when
    /// the algorithm or the weights ask for it.
    #[expect(clippy::too_many_arguments, reason = "each says another part of the set's name")]
    fn add_set(
        &mut self,
        service: &Service,
        port: &ServicePort,
        family: Family,
        local: bool,
        algorithm: Algorithm,
        previous: &Entries,
        building: &mut Building,
    ) -> u32 {
        let name = SetName {
            service: service.key.clone(),
            port: port.name.clone(),
            protocol: port.protocol,
            number: port.port,
            local,
            family,
        };
        let present = self.numbers.number(&name).filter(|number| building.entries.sets.contains_key(number));
        let number = match present {
            Some(number) => number,
            None => {
                let backends = self.backends(&service.key, port, family, local);
                self.insert_set(name, backends, previous, building)
            }
        };
        let Some(set) = building.entries.sets.get_mut(&number) else { return number };
        if set.weights.is_none() && !set.backends.is_empty() && set.backends.len() <= maglev::MAX_BACKENDS {
            let weight = |backend: &Backend| self.weights.get(&backend.addr.to_ip()).copied().unwrap_or(1);
            let weights: Vec<u16> = set.backends.iter().map(weight).collect();
            let uneven = weights.iter().any(|weight| *weight != weights[0]);
            set.weights = (uneven || algorithm == Algorithm::Maglev).then_some(weights);
        }
        number
    }

    fn insert_set(
        &mut self,
        name: SetName,
        backends: Vec<Backend>,
        previous: &Entries,
        building: &mut Building,
    ) -> u32 {
        let name = Arc::new(name);
        let protocol = name.protocol;
        let (number, _) = self.numbers.acquire(&name);
        building.names.push(name);
        let adopted = self.adopted.remove(&number);
        let before = previous.sets.get(&number).map(|set| &set.backends);
        let order = before.or(adopted.as_ref()).map(Vec::as_slice).unwrap_or_default();
        let backends = keep_slots(order, backends);
        building.entries.sets.insert(number, Set { protocol, backends, weights: None });
        number
    }

    /// The first Service to name an address and port has it; others wait until it is given up.
    fn add_frontend(&mut self, owner: &Key, key: FrontendKey, frontend: Frontend, building: &mut Building) {
        match self.owners.get(&key) {
            Some(other) if other != owner => {
                self.contested.entry(key).or_default().insert(owner.clone());
            }
            _ => {
                self.owners.insert(key, owner.clone());
                building.entries.frontends.insert(key, frontend);
            }
        }
    }
}

/// Nodes that may answer for an address of two Services, of which each may leave it to all.
fn both_suit<'a>(
    one: Option<BTreeSet<&'a str>>,
    other: Option<BTreeSet<&'a str>>,
) -> Option<BTreeSet<&'a str>> {
    match (one, other) {
        (Some(one), Some(other)) => {
            let both: BTreeSet<&str> = one.intersection(&other).copied().collect();
            Some(if both.is_empty() { one.union(&other).copied().collect() } else { both })
        }
        // Who has no backend anywhere keeps nobody else's traffic away.
        (one, other) => one.or(other).filter(|nodes| !nodes.is_empty()),
    }
}

/// Where a frontend is asked from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// At the cluster addresses.
    Cluster,
    /// At external addresses and node ports.
    External,
    /// At a load balancer's addresses, which source ranges guard.
    Balancer,
}

struct Building {
    entries: Entries,
    names: Vec<Arc<SetName>>,
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
