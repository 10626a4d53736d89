//! Which addresses a Service should have. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use kube::ResourceExt;

use super::ledger::Ledger;
use super::pool::Span;
use crate::informer::Key;

/// The class of this controller; Services without a class are its own, too.
pub const CLASS: &str = "fairlead.io/pool";
/// Upstream's finalizer: a Service stays until its addresses are given back.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Annotations that ask for addresses, one of a family, with commas between: our own, and those of two other
/// implementations, so that manifests written for them go on to work.
const REQUESTS: &[&str] =
    &["fairlead.io/load-balancer-ips", "lbipam.cilium.io/ips", "metallb.io/loadBalancerIPs"];

/// What is to be done with one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it is somebody else's, or as it should be.
    Leave,
    /// Take away its addresses and the finalizer.
    Clean,
    /// It should have these addresses.
    Assign {
        /// One of each family, the primary one first.
        addresses: Vec<IpAddr>,
        /// Why they are less than it asks for.
        shortage: Option<String>,
        /// Whether they are all that it could have.
        complete: bool,
    },
}

fn is_balancer(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
}

/// Whether the Service asks for addresses of our pools.
fn is_ours(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    is_balancer(service) && class.is_none_or(|class| class == CLASS)
}

/// What the status says.
#[must_use]
pub fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

/// The addresses of the status that count as taken: not those of another class's load balancer.
#[must_use]
pub fn held(service: &Service) -> Vec<IpAddr> {
    if is_balancer(service) && !is_ours(service) {
        return Vec::new();
    }
    ingress(service).iter().filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

/// Whether the status must be written for the Service to have exactly these addresses.
#[must_use]
pub fn differs(service: &Service, addresses: &[IpAddr]) -> bool {
    let fits = |known: &LoadBalancerIngress, ip: &IpAddr| {
        known.ip.as_deref() == Some(ip.to_string().as_str())
            && known.ip_mode.as_deref() == Some("VIP")
            && known.hostname.is_none()
    };
    let list = ingress(service);
    list.len() != addresses.len() || !list.iter().zip(addresses).all(|(known, ip)| fits(known, ip))
}

/// Decides over one Service. `spans` are the pools; `trouble` says why they are not those that were asked for.
#[must_use]
pub fn decide(service: &Service, spans: &[Span], trouble: Option<&str>, ledger: &Ledger) -> Decision {
    let finalized = service.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let deleted = service.metadata.deletion_timestamp.is_some();
    if is_balancer(service) && !is_ours(service) {
        return Decision::Leave;
    }
    if deleted || !is_balancer(service) {
        let stale = !deleted && !ingress(service).is_empty();
        return if finalized || stale { Decision::Clean } else { Decision::Leave };
    }
    let (addresses, shortage) = assign(service, spans, trouble, ledger);
    let complete = shortage.is_none() && addresses.len() == crate::endpoint::families(service).len();
    if finalized && complete && !differs(service, &addresses) {
        return Decision::Leave;
    }
    Decision::Assign { addresses, shortage, complete }
}

struct Search<'a> {
    key: Key,
    spans: &'a [Span],
    trouble: Option<&'a str>,
    ledger: &'a Ledger,
}

fn assign(
    service: &Service,
    spans: &[Span],
    trouble: Option<&str>,
    ledger: &Ledger,
) -> (Vec<IpAddr>, Option<String>) {
    let search = Search { key: Key::of(service), spans, trouble, ledger };
    let families = crate::endpoint::families(service);
    let policy = service.spec.as_ref().and_then(|spec| spec.ip_family_policy.as_deref());
    // What it has and nobody older has: pools that changed since take no address away from a Service that runs.
    let mut kept: Vec<IpAddr> = held(service);
    kept.retain(|ip| search.is_free(*ip) && families.contains(&family(*ip)));
    let requested = match requests(service, &families) {
        Ok(requested) => requested,
        Err(words) => return (in_order(&families, kept), Some(words)),
    };
    let (mut addresses, mut shortages) = (Vec::new(), Vec::new());
    for family in &families {
        let is = |ip: &&IpAddr| self::family(**ip) == *family;
        let known = kept.iter().find(is).copied();
        let wanted = requested.iter().find(is).copied();
        let chosen = match (wanted, known) {
            (Some(wanted), known) if known == Some(wanted) => Ok(wanted),
            (Some(wanted), _) => search.named(wanted),
            (None, Some(known)) => Ok(known),
            (None, None) => search.lowest(family),
        };
        match chosen {
            Ok(ip) => addresses.push(ip),
            Err(words) => {
                addresses.extend(known);
                // One of two families is enough for a Service that only prefers both, unless it names the address.
                shortages.push((words, wanted.is_some()));
            }
        }
    }
    let all = policy != Some("PreferDualStack") || addresses.is_empty();
    let shortage = shortages.into_iter().find(|(_, named)| all || *named).map(|(words, _)| words);
    if shortage.is_some() && policy == Some("RequireDualStack") {
        // Not half of what is required: only what it has already.
        addresses.retain(|ip| kept.contains(ip));
    }
    (addresses, shortage)
}

fn in_order(families: &[&str], kept: Vec<IpAddr>) -> Vec<IpAddr> {
    families.iter().filter_map(|wanted| kept.iter().find(|ip| family(**ip) == *wanted).copied()).collect()
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The addresses that the Service asks for by name.
fn requests(service: &Service, families: &[&str]) -> Result<Vec<IpAddr>, String> {
    let annotations = service.annotations();
    let annotated = REQUESTS.iter().find_map(|name| Some((*name, annotations.get(*name)?.as_str())));
    let spec = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref());
    let field = spec.filter(|ip| !ip.is_empty()).map(|ip| ("spec.loadBalancerIP", ip));
    let Some((source, text)) = annotated.or(field) else { return Ok(Vec::new()) };
    let mut requested: Vec<IpAddr> = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let ip: IpAddr = word.parse().map_err(|_| format!("{source}: {word:?} is not an IP address"))?;
        if !families.contains(&family(ip)) {
            return Err(format!("{source}: {ip} is of a family that the Service does not have"));
        }
        if requested.iter().any(|known| family(*known) == family(ip)) {
            return Err(format!("{source}: more than one {} address", family(ip)));
        }
        requested.push(ip);
    }
    Ok(requested)
}

impl Search<'_> {
    /// Nobody has it, or this Service does and nobody older.
    fn is_free(&self, ip: IpAddr) -> bool {
        self.ledger.owner(ip).is_none_or(|owner| owner.key == self.key)
    }

    fn named(&self, ip: IpAddr) -> Result<IpAddr, String> {
        if !self.spans.iter().any(|span| span.contains(ip)) {
            return Err(self.explain(format!("requested address {ip} is in no pool")));
        }
        match self.ledger.owner(ip) {
            Some(owner) if owner.key != self.key => {
                Err(format!("requested address {ip} is held by Service {}", owner.key))
            }
            _ => Ok(ip),
        }
    }

    fn lowest(&self, family: &str) -> Result<IpAddr, String> {
        let mut any = false;
        for span in self.spans.iter().filter(|span| span.is_ipv4() == (family == "IPv4")) {
            any = true;
            if let Some(ip) = span.first_free(self.ledger.taken(span.ends())) {
                return Ok(ip);
            }
        }
        Err(self.explain(if any {
            format!("every {family} address of the pools is taken")
        } else {
            format!("there is no pool of {family} addresses")
        }))
    }

    fn explain(&self, words: String) -> String {
        match self.trouble {
            Some(trouble) => format!("{words} ({trouble})"),
            None => words,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::ledger::Holder;
    use super::super::pool;
    use super::*;

    fn service(name: &str, spec: Value, ips: &[&str]) -> Service {
        let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
        let mut spec = spec;
        for (field, value) in [("type", json!("LoadBalancer")), ("ipFamilies", json!(["IPv4"]))] {
            if spec[field].is_null() {
                spec[field] = value;
            }
        }
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "finalizers": [FINALIZER],
                "annotations": spec["annotations"].take()},
            "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}
        }))
        .unwrap()
    }

    fn book(others: &[(&str, i64, &str)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (name, age, ip) in others {
            let created = jiff::Timestamp::from_second(*age).unwrap();
            let holder = Holder { created, uid: (*name).to_owned(), key: Key::new("n", name) };
            ledger.see(holder, vec![ip.parse().unwrap()], Some(1));
        }
        ledger
    }

    const POOLS: &str = "192.0.2.1-192.0.2.2, fd00:1b::/126";

    #[track_caller]
    fn check(
        service: &Service,
        pools: &str,
        others: &[(&str, i64, &str)],
        expected: Result<&[&str], (&[&str], &str)>,
    ) {
        let spans = pool::parse(pools).unwrap();
        let mut ledger = book(others);
        let holder = Holder {
            created: jiff::Timestamp::from_second(50).unwrap(),
            uid: service.name_any(),
            key: Key::of(service),
        };
        ledger.see(holder, held(service), Some(1));
        let (ips, shortage) = assign(service, &spans, None, &ledger);
        let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
        let (wanted, words) = match expected {
            Ok(ips) => (ips, None),
            Err((ips, words)) => (ips, Some(words)),
        };
        assert_eq!(ips, wanted, "{shortage:?}");
        match (&shortage, words) {
            (None, None) => {}
            (Some(seen), Some(words)) => assert!(seen.contains(words), "{seen}"),
            _ => panic!("{shortage:?}"),
        }
    }

    #[test]
    fn the_lowest_free_address_of_each_family_is_given() {
        let both = |policy: &str| json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": policy});
        check(&service("a", json!({}), &[]), POOLS, &[], Ok(&["192.0.2.1"]));
        check(&service("a", json!({}), &[]), POOLS, &[("b", 1, "192.0.2.1")], Ok(&["192.0.2.2"]));
        let full = [("b", 1, "192.0.2.1"), ("c", 1, "192.0.2.2")];
        check(
            &service("a", json!({}), &[]),
            POOLS,
            &full,
            Err((&[], "every IPv4 address of the pools is taken")),
        );
        check(&service("a", json!({}), &[]), "", &[], Err((&[], "there is no pool of IPv4 addresses")));
        check(&service("a", both("RequireDualStack"), &[]), POOLS, &[], Ok(&["fd00:1b::", "192.0.2.1"]));
        check(&service("a", both("PreferDualStack"), &[]), POOLS, &full, Ok(&["fd00:1b::"]));
        check(&service("a", both("RequireDualStack"), &[]), POOLS, &full, Err((&[], "every IPv4")));
        check(
            &service("a", both("RequireDualStack"), &["192.0.2.9"]),
            "192.0.2.0/29",
            &[],
            Err((&["192.0.2.9"], "IPv6")),
        );
    }

    #[test]
    fn a_service_keeps_what_it_has_unless_an_older_one_has_it() {
        check(&service("a", json!({}), &["192.0.2.2"]), POOLS, &[], Ok(&["192.0.2.2"]));
        check(&service("a", json!({}), &["198.51.100.7"]), POOLS, &[], Ok(&["198.51.100.7"]));
        check(
            &service("a", json!({}), &["192.0.2.2"]),
            POOLS,
            &[("old", 1, "192.0.2.2")],
            Ok(&["192.0.2.1"]),
        );
        check(
            &service("a", json!({}), &["192.0.2.2"]),
            POOLS,
            &[("young", 99, "192.0.2.2")],
            Ok(&["192.0.2.2"]),
        );
        // A second address of one family, and one of a family that it no longer has, go.
        check(
            &service("a", json!({}), &["192.0.2.2", "192.0.2.1", "fd00:1b::1"]),
            POOLS,
            &[],
            Ok(&["192.0.2.2"]),
        );
    }

    #[test]
    fn requests_are_honoured_if_they_are_free_and_in_a_pool() {
        let ask = |ip: &str| json!({"loadBalancerIP": ip});
        let note = |ips: &str| json!({"annotations": {"fairlead.io/load-balancer-ips": ips}, "ipFamilies": ["IPv4", "IPv6"]});
        check(&service("a", ask("192.0.2.2"), &[]), POOLS, &[], Ok(&["192.0.2.2"]));
        check(&service("a", ask("192.0.2.2"), &["192.0.2.1"]), POOLS, &[], Ok(&["192.0.2.2"]));
        check(
            &service("a", ask("192.0.2.2"), &[]),
            POOLS,
            &[("b", 99, "192.0.2.2")],
            Err((&[], "held by Service n/b")),
        );
        check(
            &service("a", ask("192.0.2.2"), &["192.0.2.1"]),
            POOLS,
            &[("b", 1, "192.0.2.2")],
            Err((&["192.0.2.1"], "held by")),
        );
        check(&service("a", ask("192.0.2.77"), &[]), POOLS, &[], Err((&[], "in no pool")));
        check(
            &service("a", ask("fd00:1b::1"), &[]),
            POOLS,
            &[],
            Err((&[], "family that the Service does not have")),
        );
        check(&service("a", ask("there"), &[]), POOLS, &[], Err((&[], "not an IP address")));
        check(
            &service("a", note("fd00:1b::2, 192.0.2.2"), &[]),
            POOLS,
            &[],
            Ok(&["192.0.2.2", "fd00:1b::2"]),
        );
        check(&service("a", note("192.0.2.2,192.0.2.1"), &[]), POOLS, &[], Err((&[], "more than one IPv4")));
    }

    #[test]
    fn decisions_follow_type_class_and_deletion() {
        let spans = pool::parse(POOLS).unwrap();
        let mut deleted = service("a", json!({}), &["192.0.2.1"]);
        deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let mut gone = deleted.clone();
        gone.metadata.finalizers = None;
        let mut fresh = service("a", json!({}), &["192.0.2.1"]);
        fresh.metadata.finalizers = None;
        let assigned = Decision::Assign {
            addresses: vec!["192.0.2.1".parse().unwrap()],
            shortage: None,
            complete: true,
        };
        let mut plain = service("a", json!({"type": "ClusterIP"}), &[]);
        plain.metadata.finalizers = None;
        for (service, expected) in [
            (service("a", json!({}), &[]), assigned.clone()),
            (service("a", json!({}), &["192.0.2.1"]), Decision::Leave),
            (service("a", json!({"loadBalancerClass": CLASS}), &["192.0.2.1"]), Decision::Leave),
            (service("a", json!({"loadBalancerClass": CLASS}), &[]), assigned.clone()),
            (service("a", json!({"loadBalancerClass": "x.io/y"}), &[]), Decision::Leave),
            (service("a", json!({"loadBalancerClass": "x.io/y"}), &["8.8.8.8"]), Decision::Leave),
            (service("a", json!({"type": "ClusterIP"}), &[]), Decision::Clean),
            (service("a", json!({"type": "NodePort"}), &["192.0.2.1"]), Decision::Clean),
            (plain, Decision::Leave),
            (fresh, assigned),
            (deleted, Decision::Clean),
            (gone, Decision::Leave),
        ] {
            assert_eq!(decide(&service, &spans, None, &Ledger::default()), expected, "{service:?}");
        }
    }
}
