//! Nodes -> where pod CIDRs live and which addresses are nodes'. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::Arc,
};

use ipnet::Ipv4Net;

use crate::model::Node;

/// What the maps and the kernel's routes should say about the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Pod CIDR -> address of the node that has it.
    pub routes: BTreeMap<Ipv4Net, Ipv4Addr>,
    /// Every node's addresses; true for this node's own.
    pub addresses: BTreeMap<Ipv4Addr, bool>,
}

/// Changes to carry out, additions first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayChange {
    /// Addresses to write, with whether they are this node's own.
    pub set_addresses: Vec<(Ipv4Addr, bool)>,
    /// Pod CIDRs to write.
    pub set_routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Pod CIDRs to remove.
    pub remove_routes: Vec<(Ipv4Net, Ipv4Addr)>,
    /// Addresses to remove.
    pub remove_addresses: Vec<Ipv4Addr>,
}

/// The state of all nodes.
#[derive(Debug)]
pub struct NodeTable {
    own: Arc<str>,
    nodes: HashMap<Arc<str>, Node>,
    own_addresses: Vec<Ipv4Addr>,
    planned: Overlay,
    dirty: bool,
}

impl NodeTable {
    /// An empty table on the node of that name.
    #[must_use]
    pub fn new(own: &str) -> Self {
        NodeTable {
            own: own.into(),
            nodes: HashMap::new(),
            own_addresses: Vec::new(),
            planned: Overlay::default(),
            dirty: true,
        }
    }

    /// A node is new or different.
    pub fn set_node(&mut self, node: Node) {
        if self.nodes.get(&node.name) != Some(&node) {
            self.nodes.insert(node.name.clone(), node);
            self.dirty = true;
        }
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &str) {
        self.dirty |= self.nodes.remove(name).is_some();
    }

    /// Addresses of this node's interfaces, as the kernel has them.
    pub fn set_own_addresses(&mut self, addresses: Vec<Ipv4Addr>) {
        if self.own_addresses != addresses {
            self.own_addresses = addresses;
            self.dirty = true;
        }
    }

    /// This node, once it is known.
    #[must_use]
    pub fn own(&self) -> Option<&Node> {
        self.nodes.get(&self.own)
    }

    /// Names of every node.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.keys()
    }

    /// Gives the difference between what the last call left and what should be now.
    pub fn settle(&mut self) -> OverlayChange {
        if !std::mem::take(&mut self.dirty) {
            return OverlayChange::default();
        }
        let wanted = self.wanted();
        let previous = std::mem::replace(&mut self.planned, wanted);
        let wanted = &self.planned;
        let mut change = OverlayChange::default();
        let new =
            wanted.addresses.iter().filter(|(address, own)| previous.addresses.get(address) != Some(own));
        change.set_addresses.extend(new.map(|(address, own)| (*address, *own)));
        let new = wanted.routes.iter().filter(|(cidr, node)| previous.routes.get(cidr) != Some(node));
        change.set_routes.extend(new.map(|(cidr, node)| (*cidr, *node)));
        let gone = previous.routes.iter().filter(|(cidr, _)| !wanted.routes.contains_key(cidr));
        change.remove_routes.extend(gone.map(|(cidr, node)| (*cidr, *node)));
        let gone = previous.addresses.keys().filter(|address| !wanted.addresses.contains_key(address));
        change.remove_addresses.extend(gone.copied());
        change
    }

    fn wanted(&self) -> Overlay {
        let mut wanted = Overlay::default();
        let mut nodes: Vec<&Node> = self.nodes.values().collect();
        // Two nodes may claim one CIDR for a moment; every agent must then decide alike.
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        for node in nodes.iter().filter(|node| node.name != self.own) {
            for address in &node.addresses {
                wanted.addresses.insert(*address, false);
            }
            if let (Some(cidr), Some(address)) = (node.pod_cidr, node.addresses.first()) {
                wanted.routes.entry(cidr.trunc()).or_insert(*address);
            }
        }
        for address in self.own().iter().flat_map(|node| &node.addresses).chain(&self.own_addresses) {
            wanted.addresses.insert(*address, true);
        }
        if let Some(own) = self.own().and_then(|node| node.pod_cidr) {
            wanted.routes.remove(&own.trunc());
        }
        wanted
    }
}

/// First address of a pod CIDR: the node's own address towards pods.
#[must_use]
pub fn gateway(pod_cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(pod_cidr.network()).saturating_add(1))
}

/// Hardware address of a node's overlay device. It follows from the node's address, so that every node knows every
/// other's without asking.
#[must_use]
pub fn device_mac(node: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = node.octets();
    [0x02, 0xfa, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: Option<&str>, address: &str) -> Node {
        Node {
            name: name.into(),
            pod_cidr: cidr.map(|cidr| cidr.parse().expect("a CIDR")),
            addresses: vec![address.parse().expect("an address")],
            zone: String::new(),
        }
    }

    #[test]
    fn other_nodes_get_routes_and_own_addresses_are_marked() {
        let mut table = NodeTable::new("a");
        table.set_node(node("a", Some("10.244.0.0/24"), "192.0.2.1"));
        table.set_node(node("b", Some("10.244.1.0/24"), "192.0.2.2"));
        table.set_node(node("c", None, "192.0.2.3"));
        let change = table.settle();
        assert_eq!(
            change.set_routes,
            [("10.244.1.0/24".parse().expect("a CIDR"), Ipv4Addr::new(192, 0, 2, 2))]
        );
        let addresses =
            [(1, true), (2, false), (3, false)].map(|(last, own)| (Ipv4Addr::new(192, 0, 2, last), own));
        assert_eq!(change.set_addresses, addresses);
        assert_eq!(table.settle(), OverlayChange::default());
        table.remove_node("b");
        let change = table.settle();
        assert_eq!(change.remove_routes.len(), 1);
        assert_eq!(change.remove_addresses, [Ipv4Addr::new(192, 0, 2, 2)]);
    }

    #[test]
    fn a_claim_to_this_nodes_own_cidr_is_not_believed() {
        let mut table = NodeTable::new("a");
        table.set_node(node("a", Some("10.244.0.0/24"), "192.0.2.1"));
        table.set_node(node("thief", Some("10.244.0.0/24"), "192.0.2.2"));
        assert_eq!(table.settle().set_routes, []);
    }
}
