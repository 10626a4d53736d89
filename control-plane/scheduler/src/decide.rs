//! One decision: the nodes that fit, the best of them, or why there is none. Pure.

use std::collections::BTreeMap;

use crate::filter::{Refusal, Search, refuse};
use crate::model::NodeInfo;
use crate::score;

/// What came of looking for a node.
pub enum Decision<'a> {
    /// The best nodes, equally good.
    Fits(Vec<&'a NodeInfo>),
    /// What each node said.
    None(BTreeMap<&'a str, Vec<Refusal>>),
}

/// Filters, then scores.
pub fn decide<'a>(search: &Search<'a>) -> Decision<'a> {
    let mut refused = BTreeMap::new();
    let mut fitting = Vec::new();
    for (name, node) in search.nodes {
        let refusals = refuse(search, node);
        if refusals.is_empty() {
            fitting.push(node);
        } else {
            refused.insert(name.as_str(), refusals);
        }
    }
    if fitting.is_empty() { Decision::None(refused) } else { Decision::Fits(score::best(search, &fitting)) }
}

/// Why no node fits, in upstream's words: reasons counted over nodes, then what preemption could do.
pub fn explain(refused: &BTreeMap<&str, Vec<Refusal>>, never_preempts: bool) -> String {
    let count = refused.len();
    if count == 0 {
        return "no nodes available to schedule pods".into();
    }
    let reasons = histogram(refused.values().flatten().map(|r| r.reason.as_str()));
    let preemption = if never_preempts {
        "not eligible due to preemptionPolicy=Never.".into()
    } else {
        let helpless = |refusals: &Vec<Refusal>| refusals.iter().any(|r| !r.preemptible);
        let words = refused.values().map(|refusals| {
            if helpless(refusals) {
                "Preemption is not helpful for scheduling"
            } else {
                "No preemption victims found for incoming pod"
            }
        });
        format!("0/{count} nodes are available: {}.", histogram(words))
    };
    format!("0/{count} nodes are available: {reasons}. no new claims to deallocate, preemption: {preemption}")
}

fn histogram<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    let mut lines: Vec<String> = counts.iter().map(|(word, n)| format!("{n} {word}")).collect();
    lines.sort();
    lines.join(", ")
}
