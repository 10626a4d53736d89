//! Which endpoints a frontend sends to: readiness, traffic policies and topology hints, as kube-proxy decides
//! (KEP-1669, KEP-2433, KEP-3015). Pure.

use std::{collections::BTreeSet, net::IpAddr};

use crate::model::Endpoint;

/// Where this node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub node: String,
    /// Its zone; empty when it has none.
    pub zone: String,
}

/// An endpoint with the number of the port in question.
pub type Candidate<'a> = (&'a Endpoint, u16);

/// Whether an address can be a backend: loopback, link-local, multicast and unspecified ones are each host's own, and
/// the API server refuses them in EndpointSlices, too.
#[must_use]
pub fn is_backend(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !link_local
}

/// Addresses and ports that take new connections. With `local`, only endpoints of this node count.
#[must_use]
pub fn reachable(candidates: &[Candidate<'_>], local: bool, place: &Place) -> BTreeSet<(IpAddr, u16)> {
    let here = |candidate: &&Candidate<'_>| !local || candidate.0.node == place.node;
    let ready: Vec<&Candidate<'_>> = candidates.iter().filter(here).filter(|(e, _)| e.ready).collect();
    let chosen: Vec<&Candidate<'_>> = if ready.is_empty() {
        // Those that still serve while they terminate are better than nobody.
        candidates.iter().filter(here).filter(|(e, _)| e.serving && e.terminating).collect()
    } else if local {
        ready
    } else {
        near(ready, place)
    };
    chosen
        .into_iter()
        .flat_map(|(endpoint, port)| endpoint.addresses.iter().map(move |address| (*address, *port)))
        .filter(|(address, _)| is_backend(*address))
        .collect()
}

/// Keeps to the node, or else to the zone, if every endpoint is hinted at somebody and some at us; otherwise hints are
/// not complete enough to be followed.
fn near<'a>(ready: Vec<&'a Candidate<'a>>, place: &Place) -> Vec<&'a Candidate<'a>> {
    type Hints = fn(&Endpoint) -> &[String];
    let nodes: Hints = |endpoint| &endpoint.for_nodes;
    let zones: Hints = |endpoint| &endpoint.for_zones;
    for (hint, own) in [(nodes, &place.node), (zones, &place.zone)] {
        let for_us = |candidate: &&&Candidate<'_>| hint(candidate.0).contains(own);
        if ready.iter().all(|(endpoint, _)| !hint(endpoint).is_empty()) && ready.iter().any(|c| for_us(&c)) {
            return ready.iter().filter(for_us).copied().collect();
        }
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(last: u8, node: &str) -> Endpoint {
        Endpoint {
            addresses: vec![IpAddr::from([10, 244, 0, last])],
            node: node.to_owned(),
            ready: true,
            serving: true,
            ..Endpoint::default()
        }
    }

    fn hinted(last: u8, zones: &[&str], nodes: &[&str]) -> Endpoint {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Endpoint { for_zones: names(zones), for_nodes: names(nodes), ..endpoint(last, "x") }
    }

    #[track_caller]
    fn check(endpoints: &[Endpoint], local: bool, expected: &[u8]) {
        let place = Place { node: "a".to_owned(), zone: "z1".to_owned() };
        let candidates: Vec<Candidate<'_>> = endpoints.iter().map(|endpoint| (endpoint, 80)).collect();
        let seen: Vec<String> =
            reachable(&candidates, local, &place).iter().map(|(address, _)| address.to_string()).collect();
        let expected: Vec<String> = expected.iter().map(|last| format!("10.244.0.{last}")).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn hints_are_followed_when_all_have_them_and_some_are_ours() {
        let (ours, theirs, both) =
            (hinted(1, &["z1"], &[]), hinted(2, &["z2"], &[]), hinted(3, &["z1", "z2"], &[]));
        check(&[ours.clone(), theirs.clone(), both], false, &[1, 3]);
        check(&[ours.clone(), theirs.clone(), endpoint(4, "b")], false, &[1, 2, 4]);
        check(std::slice::from_ref(&theirs), false, &[2]);
        let gone = Endpoint { ready: false, ..endpoint(5, "b") };
        check(&[ours, theirs, gone], false, &[1]);
    }

    #[test]
    fn the_node_goes_before_the_zone() {
        let (here, near) = (hinted(1, &["z1"], &["a"]), hinted(2, &["z1"], &["b"]));
        let far = hinted(3, &["z2"], &["c"]);
        check(&[here, near.clone(), far.clone()], false, &[1]);
        check(&[near, far], false, &[2]);
    }

    #[test]
    fn local_means_this_node_ready_or_else_still_serving() {
        let leaving = Endpoint { ready: false, terminating: true, ..endpoint(1, "a") };
        check(&[leaving.clone(), endpoint(2, "b")], true, &[1]);
        check(&[leaving.clone(), endpoint(2, "b")], false, &[2]);
        check(&[leaving, endpoint(3, "a")], true, &[3]);
        check(&[endpoint(2, "b")], true, &[]);
    }

    #[test]
    fn addresses_that_mean_each_host_are_no_backends() {
        for text in ["127.0.0.1", "169.254.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "ff02::1", "::"] {
            assert!(!is_backend(text.parse().expect("an address")), "{text}");
        }
        assert!(
            is_backend("192.0.2.1".parse().expect("an address")),
            "a node's address is a hostNetwork pod's"
        );
    }
}
