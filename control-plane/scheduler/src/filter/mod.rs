//! Filters: whether a node can take a pod at all. One file each, one line here.

mod affinity;
mod fit;
mod name;
mod pods;
mod ports;
mod spread;
pub(crate) mod taints;
mod unschedulable;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::model::{NodeInfo, Placed};

/// A pod that looks for a node, and the nodes it chooses from.
pub struct Search<'a> {
    pub pod: &'a Pod,
    pub placed: &'a Placed,
    pub nodes: &'a BTreeMap<String, NodeInfo>,
    /// Labels of namespaces, for terms that select namespaces by label.
    pub namespaces: &'a BTreeMap<String, BTreeMap<String, String>>,
}

/// Why a node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In upstream's words.
    pub reason: String,
    /// Whether the removal of other pods could help.
    pub preemptible: bool,
}

impl Refusal {
    pub(crate) fn fixed(reason: impl Into<String>) -> Refusal {
        Refusal { reason: reason.into(), preemptible: false }
    }
    pub(crate) fn preemptible(reason: impl Into<String>) -> Refusal {
        Refusal { reason: reason.into(), preemptible: true }
    }
}

type Filter = fn(&Search<'_>, &NodeInfo) -> Vec<Refusal>;

/// In upstream's order; the first that refuses a node is the one that is reported for it.
pub const FILTERS: &[(&str, Filter)] = &[
    ("NodeUnschedulable", unschedulable::refuse),
    ("NodeName", name::refuse),
    ("TaintToleration", taints::refuse),
    ("NodeAffinity", affinity::refuse),
    ("NodePorts", ports::refuse),
    ("NodeResourcesFit", fit::refuse),
    ("PodTopologySpread", spread::refuse),
    ("InterPodAffinity", pods::refuse),
];

/// What keeps a pod from a node; empty when it fits.
pub fn refuse(search: &Search<'_>, node: &NodeInfo) -> Vec<Refusal> {
    FILTERS
        .iter()
        .map(|(_, filter)| filter(search, node))
        .find(|refusals| !refusals.is_empty())
        .unwrap_or_default()
}
