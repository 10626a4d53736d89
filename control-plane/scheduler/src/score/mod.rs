//! Scores: which of the nodes that fit is best. One file each, one line here; each gives 0 to 100.

mod affinity;
mod allocation;
mod image;
mod owner;
mod taints;

use crate::filter::Search;
use crate::model::NodeInfo;

/// The best score of one scorer.
pub const MOST: i64 = 100;

type Score = fn(&Search<'_>, &NodeInfo) -> i64;

/// How a scorer's raw numbers become 0 to 100 over the candidates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// Already 0 to 100.
    Plain,
    /// The greatest becomes 100.
    MoreIsBetter,
    /// The greatest becomes 0.
    LessIsBetter,
}

/// Name, scorer, scale, weight.
const SCORES: &[(&str, Score, Scale, i64)] = &[
    ("TaintToleration", taints::score, Scale::LessIsBetter, 3),
    ("NodeAffinity", affinity::score, Scale::MoreIsBetter, 2),
    ("OwnerSpread", owner::score, Scale::LessIsBetter, 2),
    ("NodeResourcesFit", allocation::least, Scale::Plain, 1),
    ("NodeResourcesBalancedAllocation", allocation::balanced, Scale::Plain, 1),
    ("ImageLocality", image::score, Scale::Plain, 1),
];

/// The candidates with the best weighted sum.
pub fn best<'a>(search: &Search<'_>, candidates: &[&'a NodeInfo]) -> Vec<&'a NodeInfo> {
    let mut sums = vec![0_i64; candidates.len()];
    for (_, score, scale, weight) in SCORES {
        let raw: Vec<i64> = candidates.iter().map(|node| score(search, node)).collect();
        let most = raw.iter().copied().max().unwrap_or(0);
        for (sum, raw) in sums.iter_mut().zip(raw) {
            let scaled = match scale {
                Scale::Plain => raw,
                Scale::MoreIsBetter => {
                    if most == 0 {
                        0
                    } else {
                        raw * MOST / most
                    }
                }
                Scale::LessIsBetter => {
                    if most == 0 {
                        MOST
                    } else {
                        MOST - raw * MOST / most
                    }
                }
            };
            *sum += scaled * weight;
        }
    }
    let top = sums.iter().copied().max().unwrap_or(0);
    candidates.iter().zip(&sums).filter(|(_, sum)| **sum == top).map(|(node, _)| *node).collect()
}
