//! Topology spread constraints with `DoNotSchedule` (KEP-895).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{Refusal, Search, affinity, taints};
use crate::model::NodeInfo;
use crate::selector::labels_fit;

pub fn refuse(search: &Search<'_>, node: &NodeInfo) -> Vec<Refusal> {
    let constraints =
        search.pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref()).unwrap_or_default();
    for constraint in constraints.iter().filter(|c| c.when_unsatisfiable == "DoNotSchedule") {
        let Some(value) = node.labels.get(&constraint.topology_key) else {
            return vec![Refusal::fixed(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            )];
        };
        let counts = counts(search, constraint);
        let domains = i32::try_from(counts.len()).unwrap_or(i32::MAX);
        let least = if domains < constraint.min_domains.unwrap_or(1) {
            0
        } else {
            counts.values().copied().min().unwrap_or(0)
        };
        let own = i32::from(labels_fit(constraint.label_selector.as_ref(), &search.placed.labels));
        if counts.get(value).copied().unwrap_or(0) + own - least > constraint.max_skew {
            return vec![Refusal::preemptible("node(s) didn't match pod topology spread constraints")];
        }
    }
    Vec::new()
}

/// Matching pods by domain, over the nodes that the constraint counts.
fn counts(search: &Search<'_>, constraint: &TopologySpreadConstraint) -> BTreeMap<String, i32> {
    let honours_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    let mut counts = BTreeMap::new();
    for node in search.nodes.values() {
        let Some(value) = node.labels.get(&constraint.topology_key) else { continue };
        if honours_affinity && !affinity::refuse(search, node).is_empty()
            || honours_taints && !taints::refuse(search, node).is_empty()
        {
            continue;
        }
        let matching = node.pods.values().filter(|pod| {
            !pod.terminating
                && pod.namespace == search.placed.namespace
                && labels_fit(constraint.label_selector.as_ref(), &pod.labels)
        });
        let count = i32::try_from(matching.count()).unwrap_or(i32::MAX);
        let sum = counts.entry(value.clone()).or_insert(0_i32);
        *sum = sum.saturating_add(count);
    }
    counts
}
