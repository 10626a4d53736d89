//! What one Service has in the maps, and the difference between two such states. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use fairlead_abi::{Addr, Backend, BackendKey, Be16, Service as Frontend, ServiceKey, Table};
use ipnet::IpNet;

use super::maglev;
use crate::model::Protocol;

/// Backends that share a number, in the order of their slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) protocol: Protocol,
    pub(super) backends: Vec<Backend>,
    /// Weights by slot, when the set has a table.
    pub(super) weights: Option<Vec<u16>>,
}

/// What one Service should have in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    pub(super) frontends: BTreeMap<FrontendKey, Frontend>,
    pub(super) sets: BTreeMap<u32, Set>,
    /// Clients that may ask, by number of the set.
    pub(super) ranges: BTreeSet<(u32, IpNet)>,
}

/// The same as it is kept: most Services have one or two of each, for which a tree's nodes would be ten times too big.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) frontends: Box<[(FrontendKey, Frontend)]>,
    pub(super) sets: Box<[(u32, Set)]>,
    pub(super) ranges: Box<[(u32, IpNet)]>,
}

impl From<Entries> for Packed {
    fn from(entries: Entries) -> Self {
        let mut sets: Box<[(u32, Set)]> = entries.sets.into_iter().collect();
        sets.iter_mut().for_each(|(_, set)| set.backends.shrink_to_fit());
        Packed {
            frontends: entries.frontends.into_iter().collect(),
            sets,
            ranges: entries.ranges.into_iter().collect(),
        }
    }
}

impl From<Packed> for Entries {
    fn from(packed: Packed) -> Self {
        Entries {
            frontends: packed.frontends.into_iter().collect(),
            sets: packed.sets.into_iter().collect(),
            ranges: packed.ranges.into_iter().collect(),
        }
    }
}

impl Entries {
    pub(super) fn backends(&self) -> usize {
        self.sets.values().map(|set| set.backends.len()).sum()
    }
}

/// A [`ServiceKey`] in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FrontendKey {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    /// For pods and the node itself alone.
    pub(super) inside: bool,
}

impl FrontendKey {
    pub(super) fn wire(self) -> ServiceKey {
        let addr = if self.address.is_unspecified() { Addr::UNSPECIFIED } else { Addr::from(self.address) };
        let scope = if self.inside { ServiceKey::INSIDE } else { 0 };
        ServiceKey { addr, port: Be16::new(self.port), proto: self.protocol.number(), scope }
    }
}

/// Datagrams to a backend that has left would go on into the void: nothing tells their sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Number of the set it was in.
    pub service: u32,
    /// The backend.
    pub backend: Backend,
    /// Frontends that led to it.
    pub frontends: Vec<ServiceKey>,
}

/// Changes to the maps for one Service. They must be carried out field by field, in this order, so that no frontend
/// ever counts a backend or names a table that is not there, nor is open to everyone for want of a range.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceChange {
    /// Entries to write to BACKENDS.
    pub set_backends: Vec<(BackendKey, Backend)>,
    /// Entries to write to TABLES.
    pub set_tables: Vec<(u32, Box<Table>)>,
    /// Entries to write to RANGES: number of the set, and clients.
    pub set_ranges: Vec<(u32, IpNet)>,
    /// Entries to write to SERVICES.
    pub set_frontends: Vec<(ServiceKey, Frontend)>,
    /// Entries to remove from SERVICES.
    pub remove_frontends: Vec<ServiceKey>,
    /// Entries to remove from RANGES.
    pub remove_ranges: Vec<(u32, IpNet)>,
    /// Entries to remove from TABLES.
    pub remove_tables: Vec<u32>,
    /// Entries to remove from BACKENDS.
    pub remove_backends: Vec<BackendKey>,
    /// Backends that datagrams must not go to any more.
    pub gone: Vec<Gone>,
}

impl ServiceChange {
    /// Whether there is nothing to carry out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == ServiceChange::default()
    }
}

/// Orders `wanted` so that as many backends as possible stay in the slot they have in `order`: what is gone is
/// replaced by the last, what is new comes at the end.
pub(super) fn keep_slots(order: &[Backend], wanted: Vec<Backend>) -> Vec<Backend> {
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

pub(super) fn difference(previous: &Entries, wanted: &Entries) -> ServiceChange {
    let mut change = ServiceChange::default();
    for (service, set) in &wanted.sets {
        let before = previous.sets.get(service);
        let slots = before.map(|set| set.backends.as_slice()).unwrap_or_default();
        for (slot, backend) in set.backends.iter().enumerate() {
            if slots.get(slot) != Some(backend) {
                change.set_backends.push((BackendKey { service: *service, slot: slot as u32 }, *backend));
            }
        }
        if let Some(weights) = set.weights.as_ref().filter(|_| before != Some(set))
            && let Some(table) = maglev::table(&set.backends, weights)
        {
            change.set_tables.push((*service, Box::new(table)));
        }
    }
    change.set_ranges.extend(wanted.ranges.difference(&previous.ranges));
    for (key, frontend) in &wanted.frontends {
        if previous.frontends.get(key) != Some(frontend) {
            change.set_frontends.push((key.wire(), *frontend));
        }
    }
    let gone = previous.frontends.keys().filter(|key| !wanted.frontends.contains_key(key));
    change.remove_frontends.extend(gone.map(|key| key.wire()));
    change.remove_ranges.extend(previous.ranges.difference(&wanted.ranges));
    for (service, before) in &previous.sets {
        let now = wanted.sets.get(service);
        if before.weights.is_some() && now.is_none_or(|set| set.weights.is_none()) {
            change.remove_tables.push(*service);
        }
        let slots = now.map_or(0, |set| set.backends.len())..before.backends.len();
        change.remove_backends.extend(slots.map(|slot| BackendKey { service: *service, slot: slot as u32 }));
        if before.protocol == Protocol::Udp {
            let led = previous.frontends.iter().filter(|(_, frontend)| frontend.id == *service);
            // Flows remember the address that was asked, whoever asked.
            let frontends: Vec<ServiceKey> =
                led.map(|(key, _)| ServiceKey { scope: 0, ..key.wire() }).collect();
            let left = before.backends.iter().filter(|old| now.is_none_or(|set| !set.backends.contains(old)));
            change.gone.extend(left.map(|backend| Gone {
                service: *service,
                backend: *backend,
                frontends: frontends.clone(),
            }));
        }
    }
    change
}
