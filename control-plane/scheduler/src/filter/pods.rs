//! Required affinity and anti-affinity between pods.

use k8s_openapi::api::core::v1::PodAffinityTerm;

use super::{Refusal, Search};
use crate::model::{NodeInfo, Placed};
use crate::selector::labels_fit;

pub fn refuse(search: &Search<'_>, node: &NodeInfo) -> Vec<Refusal> {
    let affinity = search.pod.spec.as_ref().and_then(|s| s.affinity.as_ref());
    let near = affinity.and_then(|a| a.pod_affinity.as_ref());
    let near = near
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    if !near.iter().all(|term| is_near(search, node, term)) {
        return vec![Refusal::fixed("node(s) didn't match pod affinity rules")];
    }
    if search
        .placed
        .keeps_away
        .iter()
        .any(|term| in_domain(search, node, term, &search.placed.namespace, None))
    {
        return vec![Refusal::preemptible("node(s) didn't match pod anti-affinity rules")];
    }
    if kept_away(search, node) {
        return vec![Refusal::preemptible("node(s) didn't satisfy existing pods anti-affinity rules")];
    }
    Vec::new()
}

/// A term holds where a matching pod runs; the first pod of a group that matches its own term may go anywhere.
fn is_near(search: &Search<'_>, node: &NodeInfo, term: &PodAffinityTerm) -> bool {
    if !node.labels.contains_key(&term.topology_key) {
        return false;
    }
    if in_domain(search, node, term, &search.placed.namespace, None) {
        return true;
    }
    let anywhere = search
        .nodes
        .values()
        .any(|n| n.pods.values().any(|p| selects(search, term, &search.placed.namespace, p)));
    !anywhere && selects(search, term, &search.placed.namespace, search.placed)
}

/// Whether a pod that the term selects (or `who`) runs in the node's domain.
fn in_domain(
    search: &Search<'_>,
    node: &NodeInfo,
    term: &PodAffinityTerm,
    namespace: &str,
    who: Option<&Placed>,
) -> bool {
    let Some(value) = node.labels.get(&term.topology_key) else { return false };
    let same = search.nodes.values().filter(|n| n.labels.get(&term.topology_key) == Some(value));
    let mut pods = same.flat_map(|n| n.pods.values());
    match who {
        Some(one) => pods.any(|p| p.uid == one.uid),
        None => pods.any(|p| selects(search, term, namespace, p)),
    }
}

/// Whether a pod in the node's domain keeps pods like this one away.
fn kept_away(search: &Search<'_>, node: &NodeInfo) -> bool {
    search.nodes.values().flat_map(|n| n.pods.values()).filter(|p| !p.keeps_away.is_empty()).any(|other| {
        let terms =
            other.keeps_away.iter().filter(|term| selects(search, term, &other.namespace, search.placed));
        terms.into_iter().any(|term| in_domain(search, node, term, &other.namespace, Some(other)))
    })
}

/// Whether a term of a pod in `namespace` selects a pod.
fn selects(search: &Search<'_>, term: &PodAffinityTerm, namespace: &str, pod: &Placed) -> bool {
    let named = term.namespaces.as_deref().unwrap_or_default();
    let by_label = term.namespace_selector.as_ref().is_some_and(|selector| {
        search.namespaces.get(&pod.namespace).is_some_and(|labels| labels_fit(Some(selector), labels))
    });
    let own = named.is_empty() && term.namespace_selector.is_none() && pod.namespace == namespace;
    (own || by_label || named.contains(&pod.namespace))
        && labels_fit(term.label_selector.as_ref(), &pod.labels)
}
