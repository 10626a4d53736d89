//! Which nodes a DaemonSet wants, and the pod for one of them. Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};
use kube::ResourceExt;

use super::{ByNode, HASH_LABEL};
use crate::{affinity, pod, replica, toleration};

/// Whether a node gets a pod, and whether one that is there stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eligible {
    /// A pod is started there.
    pub runs: bool,
    /// A pod that runs there already may stay.
    pub stays: bool,
}

/// Taints that daemons live with: they keep nodes alive that others have to leave.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// And this one when they need no pod network.
const TOLERATED_ON_HOST: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

fn with_tolerations(spec: &mut PodSpec) {
    let on_host = spec.host_network == Some(true);
    let extra = TOLERATED.iter().chain(on_host.then_some(&TOLERATED_ON_HOST));
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in extra {
        let wanted = Toleration {
            key: Some((*key).to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some((*effect).to_owned()),
            ..Default::default()
        };
        if !tolerations.contains(&wanted) {
            tolerations.push(wanted);
        }
    }
}

/// Whether `set` wants a pod on `node`.
pub fn eligible(set: &DaemonSet, node: &Node) -> Eligible {
    let template = set.spec.as_ref().and_then(|spec| spec.template.spec.clone());
    let mut spec = template.unwrap_or_default();
    with_tolerations(&mut spec);
    let named = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some_and(|name| name != node.name_any()) || !affinity::required(&spec, node) {
        return Eligible { runs: false, stays: false };
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let refused = |effect: &str| {
        let of_effect = |taint: &&Taint| taint.effect == effect;
        taints.iter().filter(of_effect).any(|taint| !toleration::tolerated(spec.tolerations.as_ref(), taint))
    };
    let stays = !refused("NoExecute");
    Eligible { runs: stays && !refused("NoSchedule"), stays }
}

/// Whether two forms of a node are equal in all that DaemonSets ask about.
pub fn same(old: &Node, new: &Node) -> bool {
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.labels() == new.labels() && taints(old) == taints(new)
}

/// The pods by the node they are bound to or meant for.
pub fn by_node(pods: &[Arc<pod::Pod>]) -> ByNode {
    let mut found = ByNode::new();
    for pod in pods {
        let meant = || affinity::named_node(pod.spec.as_ref()?.affinity.as_deref()?);
        if let Some(node) = pod::node_of(pod).or_else(meant) {
            found.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    found
}

/// The pod for one node. The scheduler binds it: the required affinity leaves it no choice.
pub fn compose(set: &DaemonSet, hash: &str, node: &str) -> Pod {
    let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = replica::compose(set, &template);
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    if let Some(generation) = set.annotations().get("deprecated.daemonset.template.generation") {
        labels.insert("pod-template-generation".to_owned(), generation.clone());
    }
    if let Some(spec) = &mut pod.spec {
        with_tolerations(spec);
        let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
        // Other required terms were checked when the node was chosen; terms are alternatives, so they must go.
        affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
            node_selector_terms: vec![NodeSelectorTerm {
                match_fields: Some(vec![NodeSelectorRequirement {
                    key: affinity::NAME_FIELD.to_owned(),
                    operator: "In".to_owned(),
                    values: Some(vec![node.to_owned()]),
                }]),
                match_expressions: None,
            }],
        });
    }
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(template: Value, node: Value, runs: bool, stays: bool) {
        let set: DaemonSet = serde_json::from_value(
            json!({"metadata": {"name": "d"}, "spec": {"selector": {}, "template": {"spec": template}}}),
        )
        .unwrap();
        let mut full = json!({"metadata": {"name": "n1"}});
        json_patch::merge(&mut full, &node);
        assert_eq!(eligible(&set, &serde_json::from_value(full).unwrap()), Eligible { runs, stays });
    }

    #[test]
    fn nodes_are_wanted_by_labels_and_taints() {
        let plain = || json!({"containers": []});
        let taint = |key: &str, effect: &str| json!({"spec": {"taints": [{"key": key, "effect": effect}]}});
        check(plain(), json!({}), true, true);
        check(json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), json!({}), false, false);
        check(json!({"containers": [], "nodeName": "n2"}), json!({}), false, false);
        check(plain(), taint("dedicated", "NoSchedule"), false, true);
        check(plain(), taint("dedicated", "NoExecute"), false, false);
        check(plain(), taint("node.kubernetes.io/not-ready", "NoExecute"), true, true);
        check(plain(), taint("node.kubernetes.io/unschedulable", "NoSchedule"), true, true);
        check(plain(), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), false, true);
        let host = json!({"containers": [], "hostNetwork": true});
        check(host, taint("node.kubernetes.io/network-unavailable", "NoSchedule"), true, true);
    }

    #[test]
    fn a_daemon_pod_is_meant_for_its_node_only() {
        let set = DaemonSet { spec: Some(Default::default()), ..Default::default() };
        let pod: pod::Pod =
            serde_json::from_value(serde_json::to_value(compose(&set, "abc", "n7")).unwrap()).unwrap();
        assert_eq!(by_node(&[Arc::new(pod)]).keys().collect::<Vec<_>>(), ["n7"]);
    }
}
