//! Least allocated, and evenly allocated, counting the pod as placed.

use super::MOST;
use crate::filter::Search;
use crate::model::NodeInfo;

/// A container that asks for nothing counts as this much, so that such pods spread too.
const ASSUMED: [(&str, i128); 2] = [("cpu", 100_000_000), ("memory", 200 * 1024 * 1024 * 1_000_000_000)];

/// Used share of each resource in thousandths, with the pod.
fn shares(search: &Search<'_>, node: &NodeInfo) -> Vec<i64> {
    let share = |(name, assumed): &(&str, i128)| {
        let whole = node.allocatable.get(*name).copied().filter(|whole| *whole > 0)?;
        let of = |requests: &crate::model::Amounts| {
            requests.get(*name).copied().filter(|r| *r > 0).unwrap_or(*assumed)
        };
        let used: i128 =
            node.pods.values().map(|pod| of(&pod.requests)).sum::<i128>() + of(&search.placed.requests);
        i64::try_from((used * 1000 / whole).min(1000)).ok()
    };
    ASSUMED.iter().filter_map(share).collect()
}

pub fn least(search: &Search<'_>, node: &NodeInfo) -> i64 {
    let shares = shares(search, node);
    let count = i64::try_from(shares.len()).unwrap_or(1).max(1);
    shares.iter().map(|share| (1000 - share) * MOST / 1000).sum::<i64>() / count
}

pub fn balanced(search: &Search<'_>, node: &NodeInfo) -> i64 {
    match shares(search, node).as_slice() {
        // The standard deviation of two numbers is half their distance.
        [a, b] => MOST - (a - b).abs() * MOST / 2000,
        _ => MOST,
    }
}
