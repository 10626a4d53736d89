//! Rolling update of a DaemonSet: which pods are replaced next. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::place::Eligible;
use super::{ByNode, HASH_LABEL, Work};
use crate::deployment::plan::resolve;
use crate::pod;
use crate::pod::Pod;

/// How many of `desired` pods may be unavailable, and how many nodes may run two at once.
pub fn limits(set: &DaemonSet, desired: i32) -> (i32, i32) {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
    let unavailable = unavailable.map_or(1, |value| resolve(value, desired, true));
    let surge = surge.map_or(0, |value| resolve(value, desired, true));
    (unavailable.max(i32::from(surge == 0)), surge)
}

/// The next replacements; nothing for strategy OnDelete.
pub fn next(
    set: &DaemonSet,
    hash: &str,
    eligible: &[(Arc<Node>, Eligible)],
    by_node: &ByNode,
    now: Timestamp,
) -> Work {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
        return Work::default();
    }
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    let wanted = || eligible.iter().filter(|(_, eligible)| eligible.runs);
    let (max_unavailable, max_surge) = limits(set, i32::try_from(wanted().count()).unwrap_or(i32::MAX));
    let nodes = wanted().map(|(node, _)| {
        let name = node.name_any();
        let pods = by_node.get(&name).map(Vec::as_slice).unwrap_or_default();
        Pair::of(name, pods, hash, min_ready, now)
    });
    let nodes: Vec<Pair> = nodes.collect();
    if max_surge > 0 { surge(&nodes, max_surge) } else { replace(&nodes, max_unavailable) }
}

/// The newest pod of the current revision on a node and the one of an older revision.
struct Pair {
    node: String,
    new: Option<(Arc<Pod>, bool)>,
    old: Option<(Arc<Pod>, bool)>,
}

impl Pair {
    fn of(node: String, pods: &[Arc<Pod>], hash: &str, min_ready: i32, now: Timestamp) -> Self {
        let is_new = |pod: &Arc<Pod>| pod.labels().get(HASH_LABEL).is_some_and(|known| known == hash);
        let with = |pod: &Arc<Pod>| {
            (pod.clone(), pod::is_available(pod, min_ready, now) && !pod::is_terminating(pod))
        };
        Self {
            node,
            new: pods.iter().find(|pod| is_new(pod)).map(with),
            old: pods.iter().find(|pod| !is_new(pod)).map(with),
        }
    }
}

fn replace(nodes: &[Pair], max_unavailable: i32) -> Work {
    let mut unavailable = 0;
    let mut broken = Vec::new();
    let mut healthy = Vec::new();
    for pair in nodes {
        match (&pair.new, &pair.old) {
            (Some((_, available)), _) => unavailable += i32::from(!available),
            (None, None) => unavailable += 1,
            (None, Some((pod, true))) => healthy.push(pod.clone()),
            (None, Some((pod, false))) => {
                unavailable += 1;
                if !pod::is_terminating(pod) {
                    broken.push(pod.clone());
                }
            }
        }
    }
    // What serves nobody costs nothing to replace.
    let room = usize::try_from(max_unavailable - unavailable).unwrap_or_default();
    broken.extend(healthy.into_iter().take(room));
    Work { delete: broken, create: Vec::new() }
}

fn surge(nodes: &[Pair], max_surge: i32) -> Work {
    let mut work = Work::default();
    let mut surging = 0;
    let mut waiting = Vec::new();
    for pair in nodes {
        match (&pair.new, &pair.old) {
            (Some((_, true)), Some((old, _))) if !pod::is_terminating(old) => work.delete.push(old.clone()),
            (Some((_, false)), Some(_)) => surging += 1,
            (None, Some((_, false))) => work.create.push(pair.node.clone()),
            (None, Some((_, true))) => waiting.push(pair.node.clone()),
            _ => {}
        }
    }
    let room = usize::try_from(max_surge - surging).unwrap_or_default();
    work.create.extend(waiting.into_iter().take(room));
    work
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let value = json!({"metadata": {"name": name, "labels": {HASH_LABEL: hash}},
            "status": {"conditions": [{"type": "Ready", "status": status}]}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[track_caller]
    fn check(strategy: Value, nodes: &[&[Arc<Pod>]], delete: &[&str], create: &[&str]) {
        let set: DaemonSet = serde_json::from_value(json!({"metadata": {"name": "d"},
            "spec": {"selector": {}, "template": {}, "updateStrategy": strategy}}))
        .unwrap();
        let mut by_node = ByNode::new();
        let mut eligible = Vec::new();
        for (index, pods) in nodes.iter().enumerate() {
            let name = format!("n{index}");
            let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            eligible.push((Arc::new(node), Eligible { runs: true, stays: true }));
            by_node.insert(name, pods.to_vec());
        }
        let work = next(&set, "new", &eligible, &by_node, Timestamp::UNIX_EPOCH);
        assert_eq!(work.delete.iter().map(|pod| pod.name_any()).collect::<Vec<_>>(), delete);
        assert_eq!(work.create, create);
    }

    #[test]
    fn one_pod_at_a_time_is_replaced() {
        let rolling = || json!({"type": "RollingUpdate"});
        let (old, new) = (|name| pod(name, "old", true), |name| pod(name, "new", true));
        check(rolling(), &[&[old("a")], &[old("b")]], &["a"], &[]);
        check(rolling(), &[&[new("a")], &[old("b")]], &["b"], &[]);
        check(rolling(), &[&[pod("a", "new", false)], &[old("b")]], &[], &[]);
        check(rolling(), &[&[pod("a", "old", false)], &[old("b")]], &["a"], &[]);
        check(rolling(), &[&[], &[old("b")]], &[], &[]);
        check(json!({"type": "OnDelete"}), &[&[old("a")]], &[], &[]);
        let two = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}});
        check(two, &[&[old("a")], &[old("b")]], &["a", "b"], &[]);
    }

    #[test]
    fn with_surge_the_new_pod_comes_before_the_old_one_goes() {
        let strategy =
            || json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
        let (old, new) = (|name| pod(name, "old", true), |name| pod(name, "new", true));
        check(strategy(), &[&[old("a")], &[old("b")]], &[], &["n0"]);
        check(strategy(), &[&[old("a"), pod("a2", "new", false)], &[old("b")]], &[], &[]);
        check(strategy(), &[&[old("a"), new("a2")], &[old("b")]], &["a"], &["n1"]);
    }
}
