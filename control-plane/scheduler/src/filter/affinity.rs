//! `nodeSelector` and required node affinity.

use super::{Refusal, Search};
use crate::model::NodeInfo;
use crate::selector::node_fits;

pub fn refuse(search: &Search<'_>, node: &NodeInfo) -> Vec<Refusal> {
    let Some(spec) = &search.pod.spec else { return Vec::new() };
    let simple = spec.node_selector.iter().flatten().all(|(k, v)| node.labels.get(k) == Some(v));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    if simple && required.is_none_or(|selector| node_fits(selector, node)) {
        return Vec::new();
    }
    vec![Refusal::fixed("node(s) didn't match Pod's node affinity/selector")]
}
