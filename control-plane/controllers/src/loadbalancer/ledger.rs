//! Who holds which address: what the Services' status says, and what was written and is not told of yet. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use jiff::Timestamp;

use crate::informer::Key;

/// A Service in order of age: the older one keeps an address that two name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// When it was created.
    pub created: Timestamp,
    /// Tells Services of one second apart.
    pub uid: String,
    /// Its name.
    pub key: Key,
}

/// Addresses written for a Service that the informer may not show yet.
struct Promise {
    addresses: Vec<IpAddr>,
    /// The version that the write made.
    version: Option<u64>,
}

/// What the informer shows of a Service.
struct Seen {
    holder: Holder,
    addresses: Vec<IpAddr>,
    version: Option<u64>,
}

/// The book of addresses.
#[derive(Default)]
pub struct Ledger {
    holders: BTreeMap<IpAddr, BTreeSet<Holder>>,
    seen: HashMap<Key, Seen>,
    promised: HashMap<Key, (Holder, Promise)>,
}

impl Ledger {
    /// Notes what a Service's status says at `version`; returns whether an address became free.
    pub fn see(&mut self, holder: Holder, addresses: Vec<IpAddr>, version: Option<u64>) -> bool {
        let key = holder.key.clone();
        let mut before = self.forget_seen(&key);
        if let Some((_, promise)) = self.promised.get(&key) {
            if covers(version, promise.version) {
                before.extend(self.forget_promise(&key));
            }
        }
        for ip in &addresses {
            self.holders.entry(*ip).or_default().insert(holder.clone());
        }
        // Most Services have no such address and need no room here.
        if !addresses.is_empty() || self.promised.contains_key(&key) {
            self.seen.insert(key, Seen { holder, addresses, version });
        }
        before.iter().any(|ip| !self.holders.contains_key(ip))
    }

    /// Notes that a Service is gone; returns whether an address became free.
    pub fn gone(&mut self, key: &Key) -> bool {
        let mut before = self.forget_seen(key);
        before.extend(self.forget_promise(key));
        before.iter().any(|ip| !self.holders.contains_key(ip))
    }

    /// Notes what is about to be written for a Service.
    pub fn promise(&mut self, holder: Holder, addresses: Vec<IpAddr>) {
        self.forget_promise(&holder.key);
        for ip in &addresses {
            self.holders.entry(*ip).or_default().insert(holder.clone());
        }
        self.promised.insert(holder.key.clone(), (holder, Promise { addresses, version: Some(u64::MAX) }));
    }

    /// The write of a promise made this version, which the informer may have shown already.
    pub fn written(&mut self, key: &Key, version: Option<u64>) {
        let shown = self.seen.get(key).and_then(|seen| seen.version);
        if covers(shown, version) {
            self.forget_promise(key);
        } else if let Some((_, promise)) = self.promised.get_mut(key) {
            promise.version = version;
        }
    }

    /// The write of a promise failed; returns whether an address became free.
    pub fn failed(&mut self, key: &Key) -> bool {
        let promised = self.forget_promise(key);
        promised.iter().any(|ip| !self.holders.contains_key(ip))
    }

    /// Whether something was written for a Service that the informer does not show yet.
    #[must_use]
    pub fn is_promised(&self, key: &Key) -> bool {
        self.promised.contains_key(key)
    }

    /// The oldest Service that holds an address.
    #[must_use]
    pub fn owner(&self, ip: IpAddr) -> Option<&Holder> {
        self.holders.get(&ip)?.first()
    }

    /// Taken addresses between two, in order.
    pub fn taken(&self, (first, last): (IpAddr, IpAddr)) -> impl Iterator<Item = IpAddr> {
        self.holders.range(first..=last).map(|(ip, _)| *ip)
    }

    /// Services that hold an address beside this one.
    #[must_use]
    pub fn rivals(&self, key: &Key, addresses: &[IpAddr]) -> Vec<Key> {
        let holders = addresses.iter().filter_map(|ip| self.holders.get(ip)).flatten();
        holders.filter(|holder| holder.key != *key).map(|holder| holder.key.clone()).collect()
    }

    fn forget_seen(&mut self, key: &Key) -> Vec<IpAddr> {
        let Some(Seen { holder, addresses, .. }) = self.seen.remove(key) else { return Vec::new() };
        let promised = self.promised.get(key).map(|(_, promise)| promise.addresses.clone());
        self.let_go(&holder, &addresses, &promised.unwrap_or_default());
        addresses
    }

    fn forget_promise(&mut self, key: &Key) -> Vec<IpAddr> {
        let Some((holder, promise)) = self.promised.remove(key) else { return Vec::new() };
        let shown = self.seen.get(key).map(|seen| seen.addresses.clone());
        self.let_go(&holder, &promise.addresses, &shown.unwrap_or_default());
        promise.addresses
    }

    fn let_go(&mut self, holder: &Holder, addresses: &[IpAddr], kept: &[IpAddr]) {
        for ip in addresses.iter().filter(|ip| !kept.contains(ip)) {
            if let Some(holders) = self.holders.get_mut(ip) {
                holders.remove(holder);
                if holders.is_empty() {
                    self.holders.remove(ip);
                }
            }
        }
    }
}

/// Whether what is shown is of after a write. Versions that cannot be compared say yes: what is shown is all there is
/// to go by.
fn covers(shown: Option<u64>, written: Option<u64>) -> bool {
    match (shown, written) {
        (Some(shown), Some(written)) => shown >= written,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(name: &str, age: i64) -> Holder {
        Holder {
            created: Timestamp::from_second(age).unwrap(),
            uid: name.to_owned(),
            key: Key::new("n", name),
        }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_older_of_two_holders_owns_an_address() {
        let mut ledger = Ledger::default();
        ledger.see(holder("young", 2), ips(&["192.0.2.1"]), Some(1));
        ledger.see(holder("old", 1), ips(&["192.0.2.1"]), Some(2));
        assert_eq!(ledger.owner(ips(&["192.0.2.1"])[0]), Some(&holder("old", 1)));
        assert_eq!(ledger.rivals(&Key::new("n", "old"), &ips(&["192.0.2.1"])), [Key::new("n", "young")]);
        assert!(!ledger.gone(&Key::new("n", "old")), "the young one holds it still");
        assert!(ledger.gone(&Key::new("n", "young")));
        assert_eq!(ledger.owner(ips(&["192.0.2.1"])[0]), None);
    }

    #[test]
    fn what_was_written_stays_taken_until_a_version_of_after_the_write_is_shown() {
        let (mut ledger, key, ip) = (Ledger::default(), Key::new("n", "a"), ips(&["192.0.2.1"]));
        ledger.see(holder("a", 1), vec![], Some(5));
        ledger.promise(holder("a", 1), ip.clone());
        // An older form of the Service arrives while the write is under way, and after it.
        assert!(!ledger.see(holder("a", 1), vec![], Some(6)));
        ledger.written(&key, Some(9));
        assert!(!ledger.see(holder("a", 1), vec![], Some(7)));
        assert!(ledger.is_promised(&key));
        assert_eq!(ledger.owner(ip[0]), Some(&holder("a", 1)));
        assert!(!ledger.see(holder("a", 1), ip.clone(), Some(9)));
        assert!(!ledger.is_promised(&key));
        assert!(ledger.see(holder("a", 1), vec![], Some(10)), "given back");
        assert_eq!(ledger.owner(ip[0]), None);
    }

    #[test]
    fn a_write_that_is_shown_before_it_answers_is_no_promise_any_more() {
        let (mut ledger, key, ip) = (Ledger::default(), Key::new("n", "a"), ips(&["192.0.2.1"]));
        ledger.promise(holder("a", 1), ip.clone());
        ledger.see(holder("a", 1), ip.clone(), Some(9));
        ledger.written(&key, Some(9));
        assert!(!ledger.is_promised(&key));
        assert_eq!(ledger.owner(ip[0]), Some(&holder("a", 1)));
    }

    #[test]
    fn a_failed_write_keeps_what_the_status_says() {
        let (mut ledger, key) = (Ledger::default(), Key::new("n", "a"));
        ledger.see(holder("a", 1), ips(&["192.0.2.1"]), Some(1));
        ledger.promise(holder("a", 1), ips(&["192.0.2.1", "192.0.2.2"]));
        assert!(ledger.failed(&key), "the second address is free again");
        let both = ips(&["192.0.2.0", "192.0.2.9"]);
        assert_eq!(ledger.taken((both[0], both[1])).collect::<Vec<_>>(), ips(&["192.0.2.1"]));
    }
}
