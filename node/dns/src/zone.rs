//! The cluster's names: Services, their endpoints and namespaces, indexed by the octets of the question.
//!
//! A Service is found by the two labels `SERVICE.NAMESPACE` as they stand in the question; what hangs below it (ports,
//! endpoints) is looked up within it. A change costs as much as the Service it touches is large, whatever else there is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::name::{Asked, Label, Name, pod_address};

/// Protocol of a port, as its label in SRV names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// `_tcp`
    Tcp,
    /// `_udp`
    Udp,
    /// `_sctp`
    Sctp,
}

impl Protocol {
    /// Reads the API's form; absent means TCP.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Option<Protocol> {
        match text {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    fn label(self) -> &'static [u8] {
        match self {
            Protocol::Tcp => b"\x04_tcp",
            Protocol::Udp => b"\x04_udp",
            Protocol::Sctp => b"\x05_sctp",
        }
    }
}

/// A port of a Service or of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its name with the underscore of SRV names before it; None when it has none.
    pub name: Option<Label>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Its own addresses.
    Cluster(Vec<IpAddr>),
    /// The addresses of its endpoints.
    Headless,
    /// Another name.
    External(Name),
}

/// A Service, as far as names are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What its name stands for.
    pub target: Target,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Endpoints have names before they are ready.
    pub publish_not_ready: bool,
}

/// Endpoints of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Whose they are.
    pub service: ServiceKey,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Their ports.
    pub ports: Vec<Port>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its own name below that of the Service.
    pub hostname: Option<Label>,
    /// Whether it takes connections.
    pub ready: bool,
}

/// `SERVICE.NAMESPACE` as two labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey(Box<[u8]>);

impl ServiceKey {
    /// # Errors
    /// When one of them is no label.
    pub fn new(namespace: &str, name: &str) -> Result<ServiceKey, crate::name::NameError> {
        Ok(ServiceKey([Label::new(name)?.wire(), Label::new(namespace)?.wire()].concat().into()))
    }

    /// The two labels.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for ServiceKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Endpoints that share a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name below that of the Service.
    pub label: Label,
    /// Its addresses.
    pub addresses: Addresses,
}

/// Addresses of one name, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// For A.
    pub v4: Vec<Ipv4Addr>,
    /// For AAAA.
    pub v6: Vec<Ipv6Addr>,
}

impl Addresses {
    fn add(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.v4.push(v4),
            IpAddr::V6(v6) => self.v6.push(v6),
        }
    }

    fn settle(&mut self) {
        self.v4.sort_unstable();
        self.v4.dedup();
        self.v6.sort_unstable();
        self.v6.dedup();
        self.v4.shrink_to_fit();
        self.v6.shrink_to_fit();
    }

    fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().copied().map(IpAddr::V4);
        v4.chain(self.v6.iter().copied().map(IpAddr::V6))
    }
}

/// One target of an SRV record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SrvTarget {
    /// The port there.
    pub port: u16,
    /// Number of the [`Host`]; None is the Service itself.
    pub host: Option<u32>,
}

/// The SRV records of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvSet {
    /// `_port`; None for a port without a name, which has no SRV name of its own.
    pub port: Option<Label>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it is served.
    pub targets: Vec<SrvTarget>,
}

/// A port's number and the name of the endpoint that serves it.
type Served = (u16, Label);

/// Everything known of one Service: it and its slices come in any order.
#[derive(Debug, Default)]
pub struct Entry {
    service: Option<Service>,
    slices: BTreeMap<Box<str>, Slice>,
    /// What its own name stands for.
    pub addresses: Addresses,
    /// Its endpoints by name.
    pub hosts: Vec<Host>,
    /// Its ports.
    pub srv: Vec<SrvSet>,
}

impl Entry {
    /// The endpoints of this name.
    #[must_use]
    pub fn host(&self, label: &[u8]) -> Option<&Host> {
        let at = self.hosts.binary_search_by(|host| host.label.wire().cmp(label)).ok()?;
        self.hosts.get(at)
    }

    fn settle(&mut self) {
        self.addresses = Addresses::default();
        self.hosts.clear();
        self.srv.clear();
        let Some(service) = &self.service else { return };
        if matches!(service.target, Target::External(_)) {
            return;
        }
        let mut hosts: BTreeMap<Label, Addresses> = BTreeMap::new();
        let mut ports: BTreeMap<(Option<Label>, Protocol), Vec<Served>> = BTreeMap::new();
        let headless = service.target == Target::Headless;
        for slice in self.slices.values() {
            for endpoint in slice.endpoints.iter().filter(|one| one.ready || service.publish_not_ready) {
                for address in &endpoint.addresses {
                    let label = endpoint.hostname.clone().unwrap_or_else(|| Label::of_address(*address));
                    for port in slice.ports.iter().filter(|_| headless) {
                        let set = ports.entry((port.name.clone(), port.protocol)).or_default();
                        set.push((port.number, label.clone()));
                    }
                    hosts.entry(label).or_default().add(*address);
                }
            }
        }
        let named = |(label, mut addresses): (Label, Addresses)| {
            addresses.settle();
            Host { label, addresses }
        };
        self.hosts = hosts.into_iter().map(named).collect();
        if let Target::Cluster(own) = &service.target {
            own.iter().for_each(|address| self.addresses.add(*address));
            for port in &service.ports {
                let target = SrvTarget { port: port.number, host: None };
                let (port, protocol) = (port.name.clone(), port.protocol);
                self.srv.push(SrvSet { port, protocol, targets: vec![target] });
            }
        } else {
            self.hosts.iter().flat_map(|host| host.addresses.all()).for_each(|a| self.addresses.add(a));
            for ((port, protocol), targets) in ports {
                let number = |label: &Label| self.hosts.binary_search_by(|host| host.label.cmp(label)).ok();
                let target = |(port, label): &Served| {
                    Some(SrvTarget { port: *port, host: Some(u32::try_from(number(label)?).ok()?) })
                };
                let mut targets: Vec<SrvTarget> = targets.iter().filter_map(target).collect();
                targets.sort_unstable();
                targets.dedup();
                self.srv.push(SrvSet { port, protocol, targets });
            }
        }
        self.addresses.settle();
    }

    /// The names its addresses have: the Service's own, or those of a headless Service's endpoints.
    fn reversed(&self, key: &ServiceKey) -> Vec<(IpAddr, Box<[u8]>)> {
        match self.service.as_ref().map(|service| &service.target) {
            Some(Target::Cluster(own)) => own.iter().map(|address| (*address, key.wire().into())).collect(),
            Some(Target::Headless) => {
                let host = |host: &Host| -> Vec<(IpAddr, Box<[u8]>)> {
                    let name: Box<[u8]> = [host.label.wire(), key.wire()].concat().into();
                    host.addresses.all().map(|address| (address, name.clone())).collect()
                };
                self.hosts.iter().flat_map(host).collect()
            }
            Some(Target::External(_)) | None => Vec::new(),
        }
    }
}

/// What is at a name of the cluster's domain.
#[derive(Debug)]
pub enum Node<'z> {
    /// Nothing: NXDOMAIN.
    Absent,
    /// Nothing of its own, but names below it: no data of any type.
    Empty,
    /// The domain itself: SOA and NS.
    Apex,
    /// `ns.dns`: the name that NS names.
    NameServer,
    /// `dns-version`: TXT.
    Version,
    /// A Service with addresses.
    Service(&'z Entry),
    /// An endpoint.
    Host(&'z Host),
    /// A port of a Service.
    Port(&'z Entry, &'z SrvSet),
    /// An alias.
    External(&'z Name),
    /// The address spelled in the name itself.
    Pod(IpAddr),
}

/// All names of the cluster.
#[derive(Debug)]
pub struct Zone {
    domain: Name,
    synced: bool,
    namespaces: HashSet<Label>,
    services: HashMap<ServiceKey, Entry>,
    /// `namespace/name` of a slice -> the Service it belongs to.
    slices: HashMap<Arc<str>, ServiceKey>,
    reverse: HashMap<IpAddr, Vec<Box<[u8]>>>,
}

impl Zone {
    /// An empty zone.
    #[must_use]
    pub fn new(domain: Name) -> Zone {
        Zone {
            domain,
            synced: false,
            namespaces: HashSet::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            reverse: HashMap::new(),
        }
    }

    /// The cluster's domain.
    #[must_use]
    pub fn domain(&self) -> &Name {
        &self.domain
    }

    /// Whether everything has been listed once: before, that a name is not there means nothing.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Everything has been listed.
    pub fn set_synced(&mut self) {
        self.synced = true;
    }

    /// How many Services and namespaces there are.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.services.len(), self.namespaces.len())
    }

    /// A namespace is there.
    pub fn namespace(&mut self, name: Label) {
        self.namespaces.insert(name);
    }

    /// A namespace is gone.
    pub fn namespace_gone(&mut self, name: &Label) {
        self.namespaces.remove(name);
    }

    /// A Service is new or different.
    pub fn service(&mut self, key: &ServiceKey, service: Service) {
        self.change(key, |entry| entry.service = Some(service));
    }

    /// A Service is gone.
    pub fn service_gone(&mut self, key: &ServiceKey) {
        self.change(key, |entry| entry.service = None);
    }

    /// A slice is new or different. `name` is `namespace/name`.
    pub fn slice(&mut self, name: &str, slice: Slice) {
        let key = slice.service.clone();
        if self.slices.get(name).is_some_and(|before| *before != key) {
            self.slice_gone(name);
        }
        self.slices.insert(name.into(), key.clone());
        self.change(&key, |entry| {
            entry.slices.insert(name.into(), slice);
        });
    }

    /// A slice is gone.
    pub fn slice_gone(&mut self, name: &str) {
        if let Some(key) = self.slices.remove(name) {
            self.change(&key, |entry| {
                entry.slices.remove(name);
            });
        }
    }

    /// Forgets the namespaces that a new list did not name.
    pub fn keep_namespaces(&mut self, listed: &HashSet<Label>) {
        self.namespaces.retain(|name| listed.contains(name));
    }

    /// Forgets the Services that a new list did not name.
    pub fn keep_services(&mut self, listed: &HashSet<ServiceKey>) {
        let held =
            self.services.iter().filter(|(key, entry)| entry.service.is_some() && !listed.contains(*key));
        for key in held.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.service_gone(&key);
        }
    }

    /// Forgets the slices that a new list did not name.
    pub fn keep_slices(&mut self, listed: &HashSet<Arc<str>>) {
        let gone: Vec<_> = self.slices.keys().filter(|name| !listed.contains(*name)).cloned().collect();
        for name in gone {
            self.slice_gone(&name);
        }
    }

    fn change(&mut self, key: &ServiceKey, edit: impl FnOnce(&mut Entry)) {
        let entry = self.services.entry(key.clone()).or_default();
        let before = entry.reversed(key);
        edit(entry);
        entry.settle();
        let after = entry.reversed(key);
        if entry.service.is_none() && entry.slices.is_empty() {
            self.services.remove(key);
        }
        if before == after {
            return;
        }
        for (address, name) in before {
            if let Some(names) = self.reverse.get_mut(&address) {
                names.retain(|known| *known != name);
                if names.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
        for (address, name) in after {
            let names = self.reverse.entry(address).or_default();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }

    /// The addresses of a Service that has its own.
    #[must_use]
    pub fn addresses(&self, key: &[u8]) -> Option<&Addresses> {
        self.services.get(key).map(|entry| &entry.addresses)
    }

    /// The names of an address, without `svc` and the domain.
    #[must_use]
    pub fn names_of(&self, address: IpAddr) -> &[Box<[u8]>] {
        self.reverse.get(&address).map_or(&[], Vec::as_slice)
    }

    /// What is at the name made of the first `own` labels of `asked` and the domain.
    #[must_use]
    pub fn find(&self, asked: &Asked, own: usize) -> Node<'_> {
        let label = |from_end: usize| own.checked_sub(from_end).map(|at| asked.labels(at, at + 1));
        let Some(branch) = label(1) else { return Node::Apex };
        match branch {
            b"\x03svc" if own == 1 => Node::Empty,
            b"\x03svc" if own == 2 => self.in_namespace(label(2), Node::Empty),
            b"\x03svc" => self.find_service(asked, own - 3),
            b"\x03pod" if own == 1 => Node::Empty,
            b"\x03pod" if own == 2 => self.in_namespace(label(2), Node::Empty),
            b"\x03pod" if own == 3 => match label(3).and_then(pod_address) {
                Some(address) => self.in_namespace(label(2), Node::Pod(address)),
                None => Node::Absent,
            },
            b"\x0bdns-version" if own == 1 => Node::Version,
            b"\x03dns" if own == 1 => Node::Empty,
            b"\x03dns" if own == 2 && label(2) == Some(b"\x02ns") => Node::NameServer,
            _ => Node::Absent,
        }
    }

    fn in_namespace<'z>(&self, namespace: Option<&[u8]>, node: Node<'z>) -> Node<'z> {
        let known = namespace.is_some_and(|wire| self.namespaces.contains(wire));
        if known { node } else { Node::Absent }
    }

    /// `below` labels stand before `SERVICE.NAMESPACE`.
    fn find_service(&self, asked: &Asked, below: usize) -> Node<'_> {
        let Some(entry) = self.services.get(asked.labels(below, below + 2)) else { return Node::Absent };
        let Some(service) = &entry.service else { return Node::Absent };
        if let Target::External(name) = &service.target {
            return if below == 0 { Node::External(name) } else { Node::Absent };
        }
        // A headless Service without ready endpoints does not exist (specification, 2.4.1).
        if service.target == Target::Headless && entry.addresses.is_empty() {
            return Node::Absent;
        }
        let last = asked.labels(below.saturating_sub(1), below);
        let named = |set: &&SrvSet| set.port.is_some() && set.protocol.label() == last;
        match below {
            0 => Node::Service(entry),
            1 => match entry.host(last) {
                Some(host) => Node::Host(host),
                None if entry.srv.iter().any(|set| named(&set)) => Node::Empty,
                None => Node::Absent,
            },
            2 => {
                let port = asked.labels(0, 1);
                let is_port = |set: &&SrvSet| set.port.as_ref().is_some_and(|name| name.wire() == port);
                let found = entry.srv.iter().filter(named).find(is_port);
                found.map_or(Node::Absent, |set| Node::Port(entry, set))
            }
            _ => Node::Absent,
        }
    }
}

impl std::borrow::Borrow<[u8]> for Label {
    fn borrow(&self) -> &[u8] {
        self.wire()
    }
}
