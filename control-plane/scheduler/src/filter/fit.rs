//! Resources: what is asked for must be left.

use super::{Refusal, Search};
use crate::model::NodeInfo;

const ONE: i128 = 1_000_000_000;

pub fn refuse(search: &Search<'_>, node: &NodeInfo) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let most = node.allocatable.get("pods").copied().unwrap_or(0);
    if (node.pods.len() as i128 + 1) * ONE > most {
        refusals.push(Refusal::preemptible("Too many pods"));
    }
    for (name, asked) in search.placed.requests.iter().filter(|(_, asked)| **asked > 0) {
        let whole = node.allocatable.get(name).copied().unwrap_or(0);
        let used = node.requested.get(name).copied().unwrap_or(0);
        if asked + used > whole {
            // What exceeds the empty node no preemption can give.
            let reason = format!("Insufficient {name}");
            refusals.push(if *asked > whole { Refusal::fixed(reason) } else { Refusal::preemptible(reason) });
        }
    }
    refusals
}
