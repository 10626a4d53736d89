//! Which node has an address: rendezvous hashing, so that a node that leaves moves only its own addresses. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use sha2::{Digest, Sha256};

/// Place of node `own` among `candidates` for an address: 0 has it, 1 is next. None when it is no candidate.
#[must_use]
pub fn rank<'a>(address: IpAddr, own: &str, candidates: impl Iterator<Item = &'a str>) -> Option<usize> {
    let weigh = |node: &str| {
        let digest = Sha256::digest(format!("{address} {node}").as_bytes());
        u64::from_be_bytes(std::array::from_fn(|index| digest[index]))
    };
    let candidates: BTreeSet<&str> = candidates.collect();
    if !candidates.contains(own) {
        return None;
    }
    let ours = (weigh(own), own);
    Some(candidates.into_iter().filter(|node| (weigh(node), *node) > ours).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [&str; 4] = ["a", "b", "c", "d"];

    fn addresses() -> impl Iterator<Item = IpAddr> {
        (1..=200).map(|last| IpAddr::from([198, 51, 100, last]))
    }

    #[test]
    fn every_address_has_one_first_node_and_shares_are_fair() {
        let mut shares = [0; 4];
        for address in addresses() {
            let ranks: Vec<usize> =
                NODES.iter().map(|own| rank(address, own, NODES.into_iter()).expect("a place")).collect();
            let mut sorted = ranks.clone();
            sorted.sort();
            assert_eq!(sorted, [0, 1, 2, 3], "{address}");
            shares[ranks.iter().position(|rank| *rank == 0).expect("a first")] += 1;
        }
        assert!(shares.iter().all(|share| (30..=70).contains(share)), "{shares:?}");
    }

    #[test]
    fn a_node_that_leaves_moves_only_what_it_had() {
        let first = |address, nodes: &[&str]| {
            nodes
                .iter()
                .find(|own| rank(address, own, nodes.iter().copied()) == Some(0))
                .map(ToString::to_string)
        };
        for address in addresses() {
            let before = first(address, &NODES);
            if before.as_deref() != Some("d") {
                assert_eq!(first(address, &NODES[..3]), before);
            }
        }
        assert_eq!(rank("192.0.2.1".parse().expect("an address"), "x", NODES.into_iter()), None);
    }
}
