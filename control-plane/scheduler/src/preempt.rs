//! Preemption: the node on which the removal of less important pods makes room at the least cost. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::filter::{Refusal, Search, refuse};
use crate::model::{NodeInfo, Placed};

/// Pods to remove from a node so that the searching pod fits there.
pub struct Victims {
    pub node: String,
    pub pods: Vec<Arc<Placed>>,
}

/// Finds the cheapest victims over the nodes whose refusals preemption can lift: the least important most important
/// victim first, then the fewest victims.
pub fn find(search: &Search<'_>, refused: &BTreeMap<&str, Vec<Refusal>>) -> Option<Victims> {
    let candidates = refused.iter().filter(|(_, refusals)| refusals.iter().all(|r| r.preemptible));
    let found = candidates.filter_map(|(name, _)| on_node(search, search.nodes.get(*name)?));
    found.min_by_key(|v| (v.pods.iter().map(|p| p.priority).max(), v.pods.len(), v.node.clone()))
}

fn on_node(search: &Search<'_>, node: &NodeInfo) -> Option<Victims> {
    let mut lesser: Vec<Arc<Placed>> =
        node.pods.values().filter(|p| p.priority < search.placed.priority).cloned().collect();
    let mut without = node.clone();
    for pod in &lesser {
        without.take(&pod.uid);
    }
    if !fits(search, &without) {
        return None;
    }
    // The most important ones are given back first, as long as the pod still fits.
    lesser.sort_by(|a, b| (b.priority, &a.uid).cmp(&(a.priority, &b.uid)));
    let mut victims = Vec::new();
    for pod in lesser {
        without.add(pod.clone());
        if !fits(search, &without) {
            without.take(&pod.uid);
            victims.push(pod);
        }
    }
    // Pods that already go make room by themselves.
    if victims.is_empty() || victims.iter().any(|pod| pod.terminating) {
        return None;
    }
    Some(Victims { node: node.name.clone(), pods: victims })
}

fn fits(search: &Search<'_>, node: &NodeInfo) -> bool {
    let mut nodes = search.nodes.clone();
    nodes.insert(node.name.clone(), node.clone());
    let inner = Search { nodes: &nodes, ..*search };
    refuse(&inner, node).is_empty()
}
