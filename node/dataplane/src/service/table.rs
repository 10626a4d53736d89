//! Services and EndpointSlices -> entries of SERVICES and BACKENDS. Pure: events go in, [`ServiceTable::settle`]
//! gives one [`ServiceChange`] per Service that is different now; what has not changed is not looked at.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write as _,
    net::IpAddr,
    sync::Arc,
};

use fairlead_abi::{Addr, Backend, BackendKey, Be16, Service as Frontend, ServiceKey};

use crate::{
    model::{EndpointSlice, Family, Key, Protocol, Service, ServicePort},
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

/// What one Service should have in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entries {
    frontends: BTreeMap<FrontendKey, Frontend>,
    sets: BTreeMap<u32, Vec<Backend>>,
}

impl Entries {
    fn backends(&self) -> usize {
        self.sets.values().map(Vec::len).sum()
    }
}

/// A [`ServiceKey`] in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct FrontendKey {
    address: IpAddr,
    port: u16,
    protocol: Protocol,
}

impl FrontendKey {
    fn wire(self) -> ServiceKey {
        let addr = if self.address.is_unspecified() { Addr::UNSPECIFIED } else { Addr::from(self.address) };
        ServiceKey { addr, port: Be16::new(self.port), proto: self.protocol.number(), _pad: 0 }
    }
}

/// Changes to the maps for one Service. They must be carried out field by field, in this order, so that no frontend
/// ever counts a backend that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceChange {
    /// Entries to write to BACKENDS.
    pub set_backends: Vec<(BackendKey, Backend)>,
    /// Entries to write to SERVICES.
    pub set_frontends: Vec<(ServiceKey, Frontend)>,
    /// Entries to remove from SERVICES.
    pub remove_frontends: Vec<ServiceKey>,
    /// Entries to remove from BACKENDS.
    pub remove_backends: Vec<BackendKey>,
}

impl ServiceChange {
    /// Whether there is nothing to carry out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == ServiceChange::default()
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
    node: String,
    /// IPv6 addresses of this node that NodePorts answer on. The one entry that stands for every address of the node
    /// leads to IPv4 backends, so IPv6 has an entry for each.
    node_addresses: Vec<IpAddr>,
    services: HashMap<Key, Service>,
    host_ports: HashMap<Key, Vec<HostPort>>,
    slices: HashMap<Key, EndpointSlice>,
    slices_of: HashMap<Key, BTreeSet<Key>>,
    numbers: Numbers<SetName>,
    held: HashMap<Key, Vec<Arc<SetName>>>,
    planned: HashMap<Key, Entries>,
    owners: HashMap<FrontendKey, Key>,
    contested: HashMap<FrontendKey, BTreeSet<Key>>,
    dirty: HashSet<Key>,
    /// Backends over all that is planned.
    backend_count: usize,
    /// Order of backends that an earlier run of the agent left in the map, by set number.
    adopted: HashMap<u32, Vec<Backend>>,
}

impl ServiceTable {
    /// An empty table for the node of that name. `adopted` is the order of backends in the pinned map, kept so that a
    /// restart moves no backend to another slot.
    #[must_use]
    pub fn new(node: &str, adopted: HashMap<u32, Vec<Backend>>) -> Self {
        ServiceTable {
            node: node.to_owned(),
            node_addresses: Vec::new(),
            services: HashMap::new(),
            host_ports: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            numbers: Numbers::default(),
            held: HashMap::new(),
            planned: HashMap::new(),
            owners: HashMap::new(),
            contested: HashMap::new(),
            dirty: HashSet::new(),
            backend_count: 0,
            adopted,
        }
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
        self.slices_of.entry(slice.service.clone()).or_default().insert(slice.key.clone());
        self.slices.insert(slice.key.clone(), slice);
    }

    /// An EndpointSlice is gone.
    pub fn remove_slice(&mut self, key: &Key) {
        let Some(slice) = self.slices.remove(key) else { return };
        if let Some(keys) = self.slices_of.get_mut(&slice.service) {
            keys.remove(key);
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
        let previous = self.planned.remove(key).unwrap_or_default();
        let (wanted, names) = self.entries(key, &previous);
        let change = difference(&previous, &wanted);
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
            self.planned.insert(key.clone(), wanted);
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
            let (number, count) = self.add_set(name, vec![backend], previous, &mut building);
            let frontend = Frontend { id: number, backends: count, ..Frontend::default() };
            let addresses = if port.address.is_unspecified() {
                self.on_every_address(family)
            } else {
                vec![port.address]
            };
            for address in addresses {
                self.add_frontend(key, address, port.port, port.protocol, frontend, &mut building);
            }
        }
        (building.entries, building.names)
    }

    fn add_port(
        &mut self,
        service: &Service,
        port: &ServicePort,
        family: Family,
        previous: &Entries,
        building: &mut Building,
    ) {
        let of_family =
            |addresses: &[IpAddr]| addresses.iter().copied().filter(|a| Family::of(*a) == family).collect();
        let mut sets: HashMap<bool, (u32, u32)> = HashMap::new();
        for (external, local) in [(false, service.internal_local), (true, service.external_local)] {
            let own: Vec<IpAddr> =
                of_family(if external { &service.external_ips } else { &service.cluster_ips });
            let mut addresses: Vec<(IpAddr, u16)> =
                own.into_iter().map(|address| (address, port.port)).collect();
            if external && port.node_port != 0 {
                let node = self.on_every_address(family);
                addresses.extend(node.into_iter().map(|address| (address, port.node_port)));
            }
            if addresses.is_empty() {
                continue;
            }
            let (number, count) = match sets.get(&local) {
                Some(set) => *set,
                None => {
                    let name = SetName {
                        service: service.key.clone(),
                        port: port.name.clone(),
                        protocol: port.protocol,
                        number: port.port,
                        local,
                        family,
                    };
                    let backends = self.backends(&service.key, port, family, local);
                    let set = self.add_set(name, backends, previous, building);
                    sets.insert(local, set);
                    set
                }
            };
            let flags = if local { Frontend::LOCAL } else { 0 };
            let frontend = Frontend {
                id: number,
                backends: count,
                flags,
                affinity_seconds: service.affinity_seconds,
                ..Frontend::default()
            };
            for (address, number) in addresses {
                self.add_frontend(&service.key, address, number, port.protocol, frontend, building);
            }
        }
    }

    /// Backends of a port: ready ones; if there is none, those that still serve while they terminate (KEP-1669).
    fn backends(&self, service: &Key, port: &ServicePort, family: Family, local: bool) -> Vec<Backend> {
        let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
        for slice in self.slices_of.get(service).into_iter().flatten().filter_map(|key| self.slices.get(key))
        {
            let matching =
                |found: &&crate::model::SlicePort| found.name == port.name && found.protocol == port.protocol;
            for number in slice.ports.iter().filter(matching).map(|found| found.port) {
                for endpoint in slice.endpoints.iter().filter(|endpoint| !local || endpoint.node == self.node)
                {
                    let of_family =
                        endpoint.addresses.iter().filter(|address| Family::of(**address) == family);
                    let addresses = of_family.map(|address| (*address, number));
                    if endpoint.ready {
                        ready.extend(addresses);
                    } else if endpoint.serving && endpoint.terminating {
                        serving.extend(addresses);
                    }
                }
            }
        }
        let chosen = if ready.is_empty() { serving } else { ready };
        chosen
            .into_iter()
            .take(MAX_BACKENDS)
            .map(|(address, port)| Backend { addr: Addr::from(address), port: Be16::new(port), flags: 0 })
            .collect()
    }

    fn add_set(
        &mut self,
        name: SetName,
        backends: Vec<Backend>,
        previous: &Entries,
        building: &mut Building,
    ) -> (u32, u32) {
        let name = Arc::new(name);
        let (number, _) = self.numbers.acquire(&name);
        building.names.push(name);
        let adopted = self.adopted.remove(&number);
        let order = previous.sets.get(&number).or(adopted.as_ref()).map(Vec::as_slice).unwrap_or_default();
        let backends = keep_slots(order, backends);
        let count = backends.len() as u32;
        building.entries.sets.insert(number, backends);
        (number, count)
    }

    /// The first Service to name an address and port has it; others wait until it is given up.
    fn add_frontend(
        &mut self,
        owner: &Key,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        frontend: Frontend,
        building: &mut Building,
    ) {
        let key = FrontendKey { address, port, protocol };
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

struct Building {
    entries: Entries,
    names: Vec<Arc<SetName>>,
}

/// Orders `wanted` so that as many backends as possible stay in the slot they have in `order`: what is gone is
/// replaced by the last, what is new comes at the end.
fn keep_slots(order: &[Backend], wanted: Vec<Backend>) -> Vec<Backend> {
    let mut missing: HashSet<Backend> = wanted.iter().copied().collect();
    let mut slots: Vec<Backend> = order.to_vec();
    let mut slot = 0;
    while slot < slots.len() {
        if missing.remove(&slots[slot]) {
            slot += 1;
        } else {
            slots.swap_remove(slot);
        }
    }
    slots.extend(wanted.into_iter().filter(|backend| missing.contains(backend)));
    slots
}

fn difference(previous: &Entries, wanted: &Entries) -> ServiceChange {
    let mut change = ServiceChange::default();
    for (service, backends) in &wanted.sets {
        let before = previous.sets.get(service).map(Vec::as_slice).unwrap_or_default();
        for (slot, backend) in backends.iter().enumerate() {
            if before.get(slot) != Some(backend) {
                change.set_backends.push((BackendKey { service: *service, slot: slot as u32 }, *backend));
            }
        }
    }
    for (key, frontend) in &wanted.frontends {
        if previous.frontends.get(key) != Some(frontend) {
            change.set_frontends.push((key.wire(), *frontend));
        }
    }
    let gone = previous.frontends.keys().filter(|key| !wanted.frontends.contains_key(key));
    change.remove_frontends.extend(gone.map(|key| key.wire()));
    for (service, before) in &previous.sets {
        let kept = wanted.sets.get(service).map_or(0, Vec::len);
        let slots = kept..before.len();
        change.remove_backends.extend(slots.map(|slot| BackendKey { service: *service, slot: slot as u32 }));
    }
    change
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
