//! Nodes -> where pod CIDRs live and which addresses are nodes'. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use fairlead_abi::{Node as Flags, Route, map};
use ipnet::IpNet;

use crate::{
    inspect::{Entry, entry},
    maps::prefix_key,
    model::{Family, Node},
    policy::identity,
};

/// On which addresses of a node NodePorts answer (`--nodeport-addresses`, as kube-proxy has it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePorts {
    /// On all.
    #[default]
    Everywhere,
    /// On the first of each family that the Node object names.
    Primary,
    /// On those in one of the blocks.
    Within(Vec<IpNet>),
}

/// Where the pods of another node are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Address of the node, as the underlay reaches it.
    pub node: IpAddr,
    /// Hardware address of its overlay device.
    pub mac: [u8; 6],
}

/// What the maps and the kernel's routes should say about the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Pod CIDR -> the node that has it.
    pub routes: BTreeMap<IpNet, Hop>,
    /// Every node's addresses with their `fairlead_abi::Node` flags.
    pub addresses: BTreeMap<IpAddr, u32>,
}

/// Changes to carry out, additions first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverlayChange {
    /// Addresses to write, with their `fairlead_abi::Node` flags.
    pub set_addresses: Vec<(IpAddr, u32)>,
    /// Pod CIDRs to write.
    pub set_routes: Vec<(IpNet, Hop)>,
    /// Pod CIDRs to remove.
    pub remove_routes: Vec<(IpNet, Hop)>,
    /// Addresses to remove.
    pub remove_addresses: Vec<IpAddr>,
}

/// The state of all nodes.
#[derive(Debug)]
pub struct NodeTable {
    own: Arc<str>,
    /// Whether the other nodes are next hops themselves: then each family needs one of its own.
    native: bool,
    node_ports: NodePorts,
    nodes: HashMap<Arc<str>, Node>,
    own_addresses: Vec<IpAddr>,
    planned: Overlay,
    dirty: bool,
    /// Whether other nodes may answer for load balancers than when that was last asked.
    balancing_changed: bool,
}

impl NodeTable {
    /// An empty table on the node of that name.
    #[must_use]
    pub fn new(own: &str, native: bool, node_ports: NodePorts) -> Self {
        NodeTable {
            own: own.into(),
            native,
            node_ports,
            nodes: HashMap::new(),
            own_addresses: Vec::new(),
            planned: Overlay::default(),
            dirty: true,
            balancing_changed: true,
        }
    }

    /// A node is new or different.
    pub fn set_node(&mut self, node: Node) {
        let before = self.nodes.get(&node.name);
        if before != Some(&node) {
            self.balancing_changed |= before.is_some_and(|before| before.balances) != node.balances;
            self.nodes.insert(node.name.clone(), node);
            self.dirty = true;
        }
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &str) {
        let before = self.nodes.remove(name);
        self.dirty |= before.is_some();
        self.balancing_changed |= before.is_some_and(|before| before.balances);
    }

    /// Addresses of this node's interfaces, as the kernel has them.
    pub fn set_own_addresses(&mut self, addresses: Vec<IpAddr>) {
        if self.own_addresses != addresses {
            self.own_addresses = addresses;
            self.dirty = true;
        }
    }

    /// Every address of this node: those its Node object names, and those of its interfaces.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let named = self.own().into_iter().flat_map(|node| &node.addresses);
        let all: BTreeSet<IpAddr> = named.chain(&self.own_addresses).copied().collect();
        all.into_iter()
    }

    /// Whether NodePorts answer on an address of this node.
    #[must_use]
    pub fn has_node_ports(&self, address: IpAddr) -> bool {
        self.answers(self.own(), address)
    }

    /// Whether NodePorts answer on an address of a node.
    fn answers(&self, node: Option<&Node>, address: IpAddr) -> bool {
        match &self.node_ports {
            NodePorts::Everywhere => true,
            NodePorts::Primary => node.is_some_and(|node| node.address(Family::of(address)) == Some(address)),
            NodePorts::Within(blocks) => blocks.iter().any(|block| block.contains(&address)),
        }
    }

    /// Addresses of the other nodes that NodePorts answer on, if those nodes are told what this one is told.
    pub fn peers_with_node_ports(&self) -> impl Iterator<Item = IpAddr> {
        let others = self.nodes.values().filter(|node| node.name != self.own);
        others.flat_map(move |node| {
            let all = node.addresses.iter().copied();
            all.filter(move |address| self.answers(Some(node), *address))
        })
    }

    /// This node, once it is known.
    #[must_use]
    pub fn own(&self) -> Option<&Node> {
        self.nodes.get(&self.own)
    }

    /// Whether the answer of [`Self::balancing`] has changed since this was last asked.
    pub fn balancing_changed(&mut self) -> bool {
        std::mem::take(&mut self.balancing_changed)
    }

    /// Names of the nodes that may answer for load balancers.
    pub fn balancing(&self) -> impl Iterator<Item = &str> {
        self.nodes.values().filter(|node| node.balances).map(|node| &*node.name)
    }

    /// Whether an address is a node's own.
    #[must_use]
    pub fn is_nodes(&self, address: IpAddr) -> bool {
        self.planned.addresses.contains_key(&address)
    }

    /// What the maps should say, for people.
    #[must_use]
    pub fn wanted_entries(&self) -> Vec<Entry> {
        let nodes = self.planned.addresses.iter().map(|(address, flags)| {
            Entry::new(map::NODES, entry::node((*address).into(), &Flags { flags: *flags }), "nodes")
        });
        let routes = self.planned.routes.iter().map(|(cidr, hop)| {
            let route = Route { node: hop.node.into(), flags: 0 };
            Entry::new(map::ROUTES, entry::route(&prefix_key(*cidr), &route), "nodes")
        });
        nodes.chain(routes).collect()
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
            wanted.addresses.iter().filter(|(address, flags)| previous.addresses.get(address) != Some(flags));
        change.set_addresses.extend(new.map(|(address, flags)| (*address, *flags)));
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
                wanted.addresses.insert(*address, 0);
            }
            let (reached, mac) = (self.own().and_then(|own| reached_by(own, node)), device_mac(node));
            for (family, cidr) in Family::ALL.map(|family| (family, node.pod_cidr(family))) {
                let address = if self.native { node.address(family) } else { reached };
                if let (Some(cidr), Some(node), Some(mac)) = (cidr, address, mac) {
                    wanted.routes.entry(cidr).or_insert(Hop { node, mac });
                }
            }
        }
        let ports = |address| if self.has_node_ports(address) { Flags::NODE_PORTS } else { 0 };
        wanted.addresses.extend(self.own_addresses().map(|address| (address, Flags::SELF | ports(address))));
        for own in self.own().iter().flat_map(|node| &node.pod_cidrs) {
            wanted.routes.remove(&own.trunc());
        }
        wanted
    }
}

/// The address by which `own` reaches `other`: IPv4 when both have it, else IPv6. Both ends come to the same family, so
/// that each knows the other by the address that its packets come from.
fn reached_by(own: &Node, other: &Node) -> Option<IpAddr> {
    let both = |family: &Family| own.address(*family).is_some();
    Family::ALL.into_iter().filter(both).find_map(|family| other.address(family))
}

/// First address of a pod CIDR: the node's own address towards pods.
#[must_use]
pub fn gateway(pod_cidr: IpNet) -> IpAddr {
    match pod_cidr.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).saturating_add(1)).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).saturating_add(1)).into(),
    }
}

/// Hardware address of a node's overlay device; None for a node without addresses. It follows from its first IPv4
/// address, or else its first IPv6 address, so that every node knows every other's without asking.
#[must_use]
pub fn device_mac(node: &Node) -> Option<[u8; 6]> {
    match Family::ALL.into_iter().find_map(|family| node.address(family))? {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Some([0x02, 0xfa, a, b, c, d])
        }
        IpAddr::V6(address) => {
            let [a, b, c, d] = identity::hashed(&address.to_string()).to_be_bytes();
            Some([0x02, 0xfb, a, b, c, d])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: Option<&str>, address: &str) -> Node {
        Node {
            name: name.into(),
            pod_cidrs: cidr
                .iter()
                .flat_map(|texts| texts.split(','))
                .map(|text| text.parse().expect("a CIDR"))
                .collect(),
            addresses: address.split(',').map(|text| text.parse().expect("an address")).collect(),
            zone: String::new(),
            balances: true,
        }
    }

    #[test]
    fn other_nodes_get_routes_and_own_addresses_are_marked() {
        let mut table = NodeTable::new("a", false, NodePorts::default());
        table.set_node(node("a", Some("10.244.0.0/24"), "192.0.2.1"));
        table.set_node(node("b", Some("10.244.1.0/24"), "192.0.2.2"));
        table.set_node(node("c", None, "192.0.2.3"));
        let change = table.settle();
        assert_eq!(
            change.set_routes,
            [(
                "10.244.1.0/24".parse().expect("a CIDR"),
                Hop { node: v4(2), mac: [0x02, 0xfa, 192, 0, 2, 2] }
            )]
        );
        let addresses =
            [(1, Flags::SELF | Flags::NODE_PORTS), (2, 0), (3, 0)].map(|(last, flags)| (v4(last), flags));
        assert_eq!(change.set_addresses, addresses);
        assert_eq!(table.settle(), OverlayChange::default());
        table.remove_node("b");
        let change = table.settle();
        assert_eq!(change.remove_routes.len(), 1);
        assert_eq!(change.remove_addresses, [v4(2)]);
    }

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn both_pod_cidrs_are_behind_the_address_that_both_nodes_know_each_other_by() {
        let nodes = [
            node("a", Some("10.244.0.0/24,fd00:10::/64"), "192.0.2.1,2001:db8::1"),
            node("b", Some("10.244.1.0/24,fd00:10:0:1::/64"), "2001:db8::2,192.0.2.2"),
            node("c", Some("fd00:10:0:2::/64"), "2001:db8::3"),
        ];
        let routes = |own: &str| {
            let mut table = NodeTable::new(own, false, NodePorts::default());
            nodes.iter().for_each(|node| table.set_node(node.clone()));
            let routes = table.settle().set_routes;
            routes.iter().map(|(cidr, hop)| format!("{cidr} by {}", hop.node)).collect::<Vec<_>>()
        };
        let to_c = "fd00:10:0:2::/64 by 2001:db8::3";
        assert_eq!(routes("a"), ["10.244.1.0/24 by 192.0.2.2", "fd00:10:0:1::/64 by 192.0.2.2", to_c]);
        assert_eq!(routes("b"), ["10.244.0.0/24 by 192.0.2.1", "fd00:10::/64 by 192.0.2.1", to_c]);
        assert_eq!(
            routes("c"),
            [
                "10.244.0.0/24 by 2001:db8::1",
                "10.244.1.0/24 by 2001:db8::2",
                "fd00:10::/64 by 2001:db8::1",
                "fd00:10:0:1::/64 by 2001:db8::2"
            ]
        );
        let gateways: Vec<String> =
            nodes[0].pod_cidrs.iter().map(|cidr| gateway(*cidr).to_string()).collect();
        assert_eq!(gateways, ["10.244.0.1", "fd00:10::1"]);
        assert_eq!(
            device_mac(&nodes[1]),
            Some([0x02, 0xfa, 192, 0, 2, 2]),
            "by whatever address it is reached"
        );
        assert_eq!(device_mac(&nodes[2]).map(|mac| mac[1]), Some(0xfb));
    }

    #[test]
    fn native_routes_go_by_an_address_of_their_own_family() {
        let mut table = NodeTable::new("a", true, NodePorts::default());
        table.set_node(node("a", Some("10.244.0.0/24,fd00:10::/64"), "192.0.2.1,2001:db8::1"));
        table.set_node(node("b", Some("10.244.1.0/24,fd00:10:0:1::/64"), "192.0.2.2,2001:db8::2"));
        let hops: Vec<String> =
            table.settle().set_routes.iter().map(|(_, hop)| hop.node.to_string()).collect();
        assert_eq!(hops, ["192.0.2.2", "2001:db8::2"]);
    }

    #[test]
    fn node_ports_answer_where_they_are_told_to() {
        let addresses = "192.0.2.1,198.51.100.1,2001:db8::1";
        let check = |node_ports: NodePorts, expected: &[&str]| {
            let mut table = NodeTable::new("a", false, node_ports);
            table.set_node(node("a", None, addresses));
            let flagged = |(address, flags): &(IpAddr, u32)| {
                (flags & Flags::NODE_PORTS != 0).then(|| address.to_string())
            };
            let seen: Vec<String> = table.settle().set_addresses.iter().filter_map(flagged).collect();
            assert_eq!(seen, expected);
        };
        check(NodePorts::Everywhere, &["192.0.2.1", "198.51.100.1", "2001:db8::1"]);
        check(NodePorts::Primary, &["192.0.2.1", "2001:db8::1"]);
        check(NodePorts::Within(vec!["198.51.100.0/24".parse().expect("a CIDR")]), &["198.51.100.1"]);
    }

    #[test]
    fn a_claim_to_this_nodes_own_cidr_is_not_believed() {
        let mut table = NodeTable::new("a", false, NodePorts::default());
        table.set_node(node("a", Some("10.244.0.0/24"), "192.0.2.1"));
        table.set_node(node("thief", Some("10.244.0.0/24"), "192.0.2.2"));
        assert_eq!(table.settle().set_routes, []);
    }
}
