//! ClusterIPs and node ports of Services.
//!
//! An address is taken by a key of its own in the same transaction that writes the Service: no two Services, on any
//! server, at any time, hold the same one, and nothing leaks when a server dies. The sets in memory only spare
//! guesses; they are fed by the watch of the store.

mod plan;

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use bytes::Bytes;
use fairlead_api::{kind::Kind, status::Status};
use fairlead_store::{Expect, Write};
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::Value;

/// Where the keys of taken addresses live in the store.
const IPS: &str = "ranges/serviceips/";
const PORTS: &str = "ranges/servicenodeports/";

/// The ranges that Services draw from.
pub struct Allocators {
    pub cidrs: Vec<IpNet>,
    pub ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// Keys in the store.
    kept: HashSet<String>,
    /// Keys of transactions that are under way in this process.
    pending: HashSet<String>,
}

/// What one write takes and gives back.
#[derive(Default, Debug)]
pub struct Claims {
    take: Vec<String>,
    release: Vec<String>,
    owner: String,
}

impl Claims {
    /// The writes that belong into the object's transaction.
    pub fn writes(&self) -> Vec<Write> {
        let owner = Bytes::from(self.owner.clone());
        let take = self.take.iter().map(|key| Write::create(key.as_str(), owner.clone()));
        let release = self.release.iter().map(|key| Write::delete(key.as_str(), Expect::Any));
        take.chain(release).collect()
    }
}

impl Allocators {
    pub fn new(cidrs: Vec<IpNet>, ports: RangeInclusive<u16>) -> Self {
        Allocators { cidrs, ports, taken: Mutex::default() }
    }

    /// Gives a Service the addresses that it lacks and claims those that it names. On `dry_run` nothing is claimed,
    /// but everything is checked.
    ///
    /// # Errors
    /// 422 for addresses that are taken or out of range; 500 when a range is exhausted.
    pub fn allocate(
        &self,
        kind: &Kind,
        object: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Claims, Status> {
        if kind.storage != "services" {
            return Ok(Claims::default());
        }
        let claims = plan::plan(self, object, old)?;
        if dry_run {
            self.settle(&claims, false);
            return Ok(Claims::default());
        }
        Ok(claims)
    }

    /// The writes that give back everything that a removed object held.
    pub fn release(&self, kind: &Kind, object: &Value) -> Vec<Write> {
        if kind.storage != "services" {
            return Vec::new();
        }
        Claims { release: plan::held(object), ..Claims::default() }.writes()
    }

    /// The transaction of these claims has ended. After a commit they stay pending until the watch of the store tells
    /// of them, so that what is in memory is never older than what the watch said.
    pub fn settle(&self, claims: &Claims, committed: bool) {
        if !committed {
            let mut taken = self.taken.lock();
            for key in &claims.take {
                taken.pending.remove(key);
            }
        }
    }

    /// Everything is about to be told again.
    pub fn reset(&self) {
        self.taken.lock().kept.clear();
    }

    /// A key of the store came or went.
    pub fn observe(&self, key: &str, present: bool) {
        if !key.starts_with(IPS) && !key.starts_with(PORTS) {
            return;
        }
        let mut taken = self.taken.lock();
        if present {
            taken.pending.remove(key);
            taken.kept.insert(key.to_owned());
        } else {
            taken.kept.remove(key);
        }
    }

    /// Claims a key unless it is taken.
    fn claim(&self, key: &str) -> bool {
        let mut taken = self.taken.lock();
        !taken.kept.contains(key) && taken.pending.insert(key.to_owned())
    }

    /// A free address of a range: a random one of its upper part, which is kept for this, else the first free one.
    fn free_ip(&self, cidr: &IpNet) -> Option<IpAddr> {
        let size = usable(cidr);
        let lower = (size / 16).clamp(16, 256).min(size.saturating_sub(1));
        for _ in 0..64 {
            let ip = nth(cidr, lower + u64::from(rand::random::<u32>()) % (size - lower).max(1))?;
            if self.claim(&ip_key(ip)) {
                return Some(ip);
            }
        }
        let order = (lower..size).chain(0..lower).take(1 << 20);
        order.filter_map(|n| nth(cidr, n)).find(|ip| self.claim(&ip_key(*ip)))
    }

    fn free_port(&self) -> Option<u16> {
        let (first, last) = (*self.ports.start(), *self.ports.end());
        let size = u32::from(last) - u32::from(first) + 1;
        let lower = (size / 32).clamp(16, 128).min(size - 1);
        for _ in 0..64 {
            let port = u32::from(first) + lower + rand::random::<u32>() % (size - lower).max(1);
            let port = u16::try_from(port).ok()?;
            if self.claim(&port_key(port)) {
                return Some(port);
            }
        }
        self.ports.clone().find(|port| self.claim(&port_key(*port)))
    }
}

/// What an update of a Service does not say about its addresses stays as it is.
pub fn inherit(kind: &Kind, new: &mut Value, old: &Value) {
    let external = |service: &Value| service["spec"]["type"] == "ExternalName";
    if kind.storage != "services" || external(new) || external(old) {
        return;
    }
    let same = new["spec"]["clusterIP"].is_null() || new["spec"]["clusterIP"] == old["spec"]["clusterIP"];
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let missing = new["spec"].get(field).is_none_or(Value::is_null);
        if let (true, true, Some(value)) = (same, missing, old["spec"].get(field)) {
            new["spec"][field] = value.clone();
        }
    }
}

fn ip_key(ip: IpAddr) -> String {
    format!("{IPS}{ip}")
}

fn port_key(port: u16) -> String {
    format!("{PORTS}{port}")
}

/// How many addresses of a range can be given away: neither the network's nor (for IPv4) the broadcast address.
fn usable(cidr: &IpNet) -> u64 {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(62);
    let all = 1_u64 << bits;
    match cidr {
        IpNet::V4(_) => all.saturating_sub(2).max(1),
        IpNet::V6(_) => all.saturating_sub(1).max(1),
    }
}

/// The address at a place of a range, counted from the first usable one.
pub fn nth(cidr: &IpNet, n: u64) -> Option<IpAddr> {
    match cidr {
        IpNet::V4(net) => {
            let base = u32::from(net.network());
            Some(Ipv4Addr::from(base.checked_add(u32::try_from(n + 1).ok()?)?).into())
        }
        IpNet::V6(net) => {
            let base = u128::from(net.network());
            Some(Ipv6Addr::from(base.checked_add(u128::from(n) + 1)?).into())
        }
    }
}
