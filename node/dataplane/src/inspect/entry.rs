//! Entries of maps as people read them. What the agent wants and what is in the maps go through the same functions, so
//! that they can be compared. Pure.

use std::fmt::Write as _;

use fairlead_abi::{
    Addr, Backend, BackendKey, Endpoint, NetnsEntry, Node, RangeKey, Rate, RateKey, Route, Rule, Service,
    ServiceKey, Table,
};
use serde::{Deserialize, Serialize};

use crate::maps::table::{AddrPrefix, RulePrefix};

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the map.
    pub map: String,
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The object it comes from; empty when that cannot be told.
    pub owner: String,
}

impl Entry {
    /// An entry of a map.
    #[must_use]
    pub fn new(map: &str, (key, value): (String, String), owner: &str) -> Self {
        Entry { map: map.to_owned(), key, value, owner: owner.to_owned() }
    }
}

fn socket(addr: Addr, port: u16) -> String {
    if addr == Addr::UNSPECIFIED {
        return format!("*:{port}");
    }
    std::net::SocketAddr::new(addr.to_ip(), port).to_string()
}

fn protocol(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}

fn flags(bits: u32, names: &[(u32, &str)]) -> String {
    let mut text = String::new();
    let mut left = bits;
    for (bit, name) in names.iter().filter(|(bit, _)| bits & bit != 0) {
        let _ = write!(text, " {name}");
        left &= !bit;
    }
    if left != 0 {
        let _ = write!(text, " {left:#x}");
    }
    text
}

/// An entry of SERVICES.
#[must_use]
pub fn frontend(key: &ServiceKey, value: &Service) -> (String, String) {
    let algorithm = match value.algorithm {
        Service::ROUND_ROBIN => "round-robin",
        Service::RANDOM => "random",
        Service::MAGLEV => "maglev",
        Service::LEAST => "least-connections",
        _ => "unknown",
    };
    let mut text = format!("set {:08x}, {} backends, {algorithm}", value.id, value.backends);
    if value.table != 0 {
        let _ = write!(text, " by table {:08x}", value.table);
    }
    if value.affinity_seconds != 0 {
        let _ = write!(text, ", affinity {} s", value.affinity_seconds);
    }
    let names = [
        (Service::LOCAL, "local"),
        (Service::RANGES, "source-ranges"),
        (Service::DSR, "direct-return"),
        (Service::INSIDE, "others-inside"),
    ];
    text += &flags(value.flags, &names);
    let scope = if key.scope == ServiceKey::INSIDE { " from inside" } else { "" };
    (format!("{}/{}{scope}", socket(key.addr, key.port.get()), protocol(key.proto)), text)
}

/// An entry of BACKENDS.
#[must_use]
pub fn backend(key: &BackendKey, value: &Backend) -> (String, String) {
    (format!("{:08x}[{}]", key.service, key.slot), socket(value.addr, value.port.get()))
}

/// An entry of TABLES; the value is a digest.
#[must_use]
pub fn table(key: u32, value: &Table) -> (String, String) {
    let digest = value.slots.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, slot| {
        (hash ^ u64::from(*slot)).wrapping_mul(0x0100_0000_01b3)
    });
    (format!("{key:08x}"), format!("{} entries, digest {digest:016x}", Table::SIZE))
}

fn prefix(addr: Addr, length: u32) -> String {
    let length = if addr.is_v4() { length.saturating_sub(96) } else { length };
    format!("{}/{length}", addr.to_ip())
}

/// An entry of RANGES, whose prefix has so many bits.
#[must_use]
pub fn range(length: u32, key: &RangeKey) -> (String, String) {
    let clients = prefix(key.addr, length.saturating_sub(32));
    (format!("{:08x} {clients}", key.service.get()), "may ask".to_owned())
}

/// An entry of ENDPOINTS. Its revision is only the node's own count.
#[must_use]
pub fn endpoint(key: Addr, value: &Endpoint) -> (String, String) {
    let names = [
        (Endpoint::CLOSED, "closed"),
        (Endpoint::INGRESS_RATE, "ingress-bounded"),
        (Endpoint::EGRESS_RATE, "egress-bounded"),
    ];
    let text = format!(
        "pod {}, interface {}, ingress {:08x}, egress {:08x}{}",
        value.id,
        value.ifindex,
        value.ingress_ruleset,
        value.egress_ruleset,
        flags(value.flags, &names)
    );
    (key.to_ip().to_string(), text)
}

/// An entry of ROUTES.
#[must_use]
pub fn route(key: &AddrPrefix, value: &Route) -> (String, String) {
    (prefix(key.addr, key.length), format!("by {}", value.node.to_ip()))
}

/// An entry of NODES.
#[must_use]
pub fn node(key: Addr, value: &Node) -> (String, String) {
    let text = flags(value.flags, &[(Node::SELF, "this node"), (Node::NODE_PORTS, "node ports")]);
    let text = if text.is_empty() { "another node".to_owned() } else { text.trim_start().to_owned() };
    (key.to_ip().to_string(), text)
}

/// An entry of IDENTITIES.
#[must_use]
pub fn identity(key: &AddrPrefix, value: u32) -> (String, String) {
    (prefix(key.addr, key.length), format!("identity {value:08x}"))
}

/// An entry of RULES.
#[must_use]
pub fn rule(key: &RulePrefix, value: Rule) -> (String, String) {
    let RulePrefix { length, key } = key;
    let (set, peer) = (key.ruleset.get(), key.identity.get());
    let text = format!("{set:08x} {peer:08x} {} {}/{length}", key.proto.get(), key.port.get());
    (text, format!("rule {:08x}{}", value.id, flags(value.flags, &[(Rule::ALLOW, "allows")])))
}

/// An entry of RATES. What may pass at the moment is the programs' to count.
#[must_use]
pub fn rate(key: RateKey, value: &Rate) -> (String, String) {
    let direction = match key.direction {
        RateKey::INGRESS => "ingress".to_owned(),
        RateKey::EGRESS => "egress".to_owned(),
        other => other.to_string(),
    };
    let text = format!("{} bytes/s, {} at once", value.bytes_per_second, value.burst);
    (format!("pod {} {direction}", key.endpoint), text)
}

/// An entry of DIRECT.
#[must_use]
pub fn direct(key: &AddrPrefix) -> (String, String) {
    (prefix(key.addr, key.length), "is not masqueraded".to_owned())
}

/// An entry of ANNOUNCED.
#[must_use]
pub fn announced(address: Addr) -> (String, String) {
    (address.to_ip().to_string(), "is answered for".to_owned())
}

/// An entry of NETNS.
#[must_use]
pub fn netns(cookie: u64, value: NetnsEntry) -> (String, String) {
    let role = match value.role {
        NetnsEntry::POD => format!("pod {}", value.endpoint),
        NetnsEntry::NODE => "this node".to_owned(),
        other => format!("role {other}"),
    };
    (cookie.to_string(), role)
}
