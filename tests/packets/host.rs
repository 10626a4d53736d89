//! The programs' functions on the host, with maps that are plain hash maps: for what a test run in the kernel
//! cannot be given, tunnel metadata and sockets.

use fairlead_abi::*;
use fairlead_programs::{Maps, Scratch, Skb, Steps};
use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::HashMap;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What a packet was sent to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sent {
    Nowhere,
    Out(u32),
    Peer(u32),
    Neighbour(u32),
}

pub const NOW: u32 = 1_000_000;

/// A node's maps, and the packet at hand.
pub struct World {
    pub config: Config,
    pub netns: HashMap<u64, NetnsEntry>,
    pub endpoints: HashMap<Addr, Endpoint>,
    /// Longest first.
    pub routes: Vec<(Prefix, Route)>,
    pub nodes: HashMap<Addr, Node>,
    pub services: HashMap<ServiceKey, Service>,
    pub backends: HashMap<BackendKey, Backend>,
    pub cursors: RefCell<HashMap<u32, u32>>,
    pub affinity: RefCell<HashMap<AffinityKey, AffinityValue>>,
    pub sockets: RefCell<HashMap<SocketKey, SocketValue>>,
    pub rules: HashMap<RuleKey, Rule>,
    pub flows: RefCell<HashMap<CtKey, CtEntry>>,
    pub nat: RefCell<HashMap<NatKey, NatValue>>,
    pub fragments: RefCell<HashMap<FragmentKey, FragmentValue>>,
    pub tables: HashMap<u32, Vec<u16>>,
    pub ranges: Vec<(u32, Prefix)>,
    pub loads: RefCell<HashMap<LoadKey, u32>>,
    pub direct: Vec<Prefix>,
    pub rates: RefCell<HashMap<RateKey, Rate>>,
    pub metrics: RefCell<HashMap<u32, u64>>,
    pub now: Cell<u32>,
    pub random: Cell<u32>,

    pub packet: RefCell<Vec<u8>>,
    pub tunnel: Cell<Option<(u32, Addr)>>,
    pub accepted: Cell<bool>,
    pub sent: Cell<Sent>,
}

impl World {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            netns: HashMap::new(),
            endpoints: HashMap::new(),
            routes: Vec::new(),
            nodes: HashMap::new(),
            services: HashMap::new(),
            backends: HashMap::new(),
            cursors: RefCell::default(),
            affinity: RefCell::default(),
            sockets: RefCell::default(),
            rules: HashMap::new(),
            flows: RefCell::default(),
            nat: RefCell::default(),
            fragments: RefCell::default(),
            tables: HashMap::new(),
            ranges: Vec::new(),
            loads: RefCell::default(),
            direct: Vec::new(),
            rates: RefCell::default(),
            metrics: RefCell::default(),
            now: Cell::new(NOW),
            random: Cell::new(1),
            packet: RefCell::default(),
            tunnel: Cell::new(None),
            accepted: Cell::new(false),
            sent: Cell::new(Sent::Nowhere),
        }
    }

    /// Runs one decision on a packet.
    pub fn run(
        &self,
        decide: impl Fn(&Self, &mut Scratch) -> Result<i32, Reason>,
        frame: &[u8],
    ) -> (Result<i32, Reason>, Vec<u8>) {
        *self.packet.borrow_mut() = frame.to_vec();
        self.sent.set(Sent::Nowhere);
        self.accepted.set(false);
        let outcome = decide(self, &mut Scratch::default());
        (outcome, self.packet.borrow().clone())
    }
}

fn slot<'a, K: std::hash::Hash + Eq, V>(map: &'a RefCell<HashMap<K, V>>, key: &K) -> Option<RefMut<'a, V>> {
    RefMut::filter_map(map.borrow_mut(), |map| map.get_mut(key)).ok()
}

fn claim<K: std::hash::Hash + Eq + Copy, V: Copy>(map: &RefCell<HashMap<K, V>>, key: &K, value: &V) -> bool {
    let mut map = map.borrow_mut();
    let free = !map.contains_key(key);
    if free {
        map.insert(*key, *value);
    }
    free
}

impl Maps for World {
    type Flow<'a> = RefMut<'a, CtEntry>;
    type Nat<'a> = RefMut<'a, NatValue>;
    type Bucket<'a> = RefMut<'a, Rate>;

    fn nanoseconds(&self) -> u64 {
        u64::from(self.now.get()) * 1_000_000_000
    }

    fn now(&self) -> u32 {
        self.now.get()
    }

    fn random(&self) -> u32 {
        let next = self.random.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random.set(next);
        next
    }

    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }

    fn netns(&self, cookie: u64) -> Option<&NetnsEntry> {
        self.netns.get(&cookie)
    }

    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint> {
        self.endpoints.get(addr)
    }

    fn route(&self, addr: &Addr) -> Option<&Route> {
        self.routes.iter().find(|(prefix, _)| prefix.contains(addr)).map(|(_, route)| route)
    }

    fn node(&self, addr: &Addr) -> Option<&Node> {
        self.nodes.get(addr)
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    fn backend(&self, key: &BackendKey) -> Option<&Backend> {
        self.backends.get(key)
    }

    fn slot(&self, table: u32, index: u32) -> Option<u32> {
        self.tables.get(&table)?.get(index as usize).map(|slot| u32::from(*slot))
    }

    fn is_in_range(&self, key: &RangeKey) -> bool {
        self.ranges.iter().any(|(id, prefix)| *id == key.service.get() && prefix.contains(&key.addr))
    }

    fn load_of(&self, key: &LoadKey) -> u32 {
        self.loads.borrow().get(key).copied().unwrap_or(0)
    }

    fn count_load(&self, key: &LoadKey, up: bool) {
        let mut loads = self.loads.borrow_mut();
        let load = loads.entry(*key).or_default();
        *load = if up { *load + 1 } else { load.saturating_sub(1) };
    }

    fn is_direct(&self, addr: &Addr) -> bool {
        self.direct.iter().any(|prefix| prefix.contains(addr))
    }

    fn is_announced(&self, _: &Addr) -> bool {
        false
    }

    fn rate(&self, key: &RateKey) -> Option<RefMut<'_, Rate>> {
        slot(&self.rates, key)
    }

    fn cursor(&self, index: u32) -> u32 {
        let mut cursors = self.cursors.borrow_mut();
        let cursor = cursors.entry(index).or_default();
        *cursor += 1;
        *cursor - 1
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.affinity.borrow().get(key).copied()
    }

    fn set_affinity(&self, key: &AffinityKey, value: &AffinityValue) {
        self.affinity.borrow_mut().insert(*key, *value);
    }

    fn socket(&self, key: &SocketKey) -> Option<SocketValue> {
        Ref::filter_map(self.sockets.borrow(), |map| map.get(key)).ok().map(|value| *value)
    }

    fn set_socket(&self, key: &SocketKey, value: &SocketValue) -> bool {
        self.sockets.borrow_mut().insert(*key, *value);
        true
    }

    fn remove_socket(&self, key: &SocketKey) {
        self.sockets.borrow_mut().remove(key);
    }

    fn identity(&self, _: &Addr) -> u32 {
        0
    }

    fn rule(&self, key: RuleKey) -> Option<Rule> {
        self.rules.get(&key).copied()
    }

    fn flow(&self, key: &CtKey) -> Option<RefMut<'_, CtEntry>> {
        slot(&self.flows, key)
    }

    fn set_flow(&self, key: &CtKey, value: &CtEntry) -> bool {
        self.flows.borrow_mut().insert(*key, *value);
        true
    }

    fn claim_flow(&self, key: &CtKey, value: &CtEntry) -> bool {
        claim(&self.flows, key, value)
    }

    fn nat(&self, key: &NatKey) -> Option<RefMut<'_, NatValue>> {
        slot(&self.nat, key)
    }

    fn set_nat(&self, key: &NatKey, value: &NatValue) -> bool {
        self.nat.borrow_mut().insert(*key, *value);
        true
    }

    fn claim_nat(&self, key: &NatKey, value: &NatValue) -> bool {
        claim(&self.nat, key, value)
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.fragments.borrow().get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.fragments.borrow_mut().insert(*key, *value);
    }

    fn count_drop(&self, _: Reason, _: u32) {}

    fn count_rule(&self, _: u32, _: bool, _: u32) {}

    fn count(&self, metric: Metric) {
        *self.metrics.borrow_mut().entry(metric as u32).or_default() += 1;
    }

    fn report(&self, _: &FlowEvent) {}
}

impl Steps for World {}

impl Skb for World {
    fn length(&self) -> u32 {
        self.packet.borrow().len() as u32
    }

    fn is_gso(&self) -> bool {
        false
    }

    fn segments(&self) -> u32 {
        0
    }

    fn is_for_us(&self) -> bool {
        true
    }

    fn ether_type(&self) -> u16 {
        let packet = self.packet.borrow();
        u16::from_be_bytes([packet[12], packet[13]])
    }

    fn ifindex(&self) -> u32 {
        1
    }

    fn ingress_ifindex(&self) -> u32 {
        0
    }

    fn load<T: FromBytes + IntoBytes>(&self, offset: u32, into: &mut T) -> bool {
        let packet = self.packet.borrow();
        let from = offset as usize;
        match packet.get(from..from + size_of::<T>()).map(T::read_from_bytes) {
            Some(Ok(value)) => {
                *into = value;
                true
            }
            _ => false,
        }
    }

    fn store<T: IntoBytes + Immutable>(&self, offset: u32, from: &T) -> bool {
        let mut packet = self.packet.borrow_mut();
        let at = offset as usize;
        let bytes = from.as_bytes();
        match packet.get_mut(at..at + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    fn store_summed<T: IntoBytes + Immutable>(&self, offset: u32, from: &T) -> bool {
        self.store(offset, from)
    }

    fn fix_l3(&self, offset: u32, from: u32, to: u32) -> bool {
        self.fix_l4(offset, from, to, 4, false, false)
    }

    fn fix_l4(&self, offset: u32, from: u32, to: u32, size: u64, _: bool, udp: bool) -> bool {
        let mut stored = [0u8; 2];
        if !self.load(offset, &mut stored) || (udp && stored == [0, 0]) {
            return stored == [0, 0];
        }
        // RFC 1624: HC' = ~(~HC + ~m + m').
        let halves = |word: u32| {
            let bytes = word.to_ne_bytes();
            let high = u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
            let low = u32::from(u16::from_be_bytes([bytes[2], bytes[3]]));
            if size == 2 { [high, 0] } else { [high, low] }
        };
        let mut sum = u32::from(!u16::from_be_bytes(stored));
        for half in halves(from) {
            sum += half ^ 0xffff;
        }
        for half in halves(to) {
            sum += half;
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        self.store(offset, &(!(sum as u16)).to_be_bytes())
    }

    fn fix_l4_addr(&self, offset: u32, from: &Addr, to: &Addr, pseudo: bool, udp: bool) -> bool {
        let mut words = from.0.into_iter().zip(to.0);
        words.all(|(from, to)| self.fix_l4(offset, from, to, 4, pseudo, udp))
    }

    fn resize(&self, len: u32) -> bool {
        self.packet.borrow_mut().resize(len as usize, 0);
        true
    }

    fn accept(&self) -> bool {
        self.accepted.set(true);
        true
    }

    fn tunnel(&self) -> Option<(u32, Addr)> {
        self.tunnel.get()
    }

    fn set_tunnel(&self, vni: u32, node: &Addr) -> bool {
        self.tunnel.set(Some((vni, *node)));
        true
    }

    fn redirect(&self, ifindex: u32) -> i32 {
        self.sent.set(Sent::Out(ifindex));
        crate::harness::REDIRECT
    }

    fn redirect_peer(&self, ifindex: u32) -> i32 {
        self.sent.set(Sent::Peer(ifindex));
        crate::harness::REDIRECT
    }

    fn redirect_neigh(&self, ifindex: u32) -> i32 {
        self.sent.set(Sent::Neighbour(ifindex));
        crate::harness::REDIRECT
    }
}
