//! Taints that a pod does not tolerate keep it away.

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use super::{Refusal, Search};
use crate::model::NodeInfo;

/// Whether one toleration covers a taint.
fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let (key, effect) = (toleration.key.as_deref().unwrap_or(""), toleration.effect.as_deref().unwrap_or(""));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        "" | "Equal" => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or("")
        }
        _ => false,
    }
}

/// Whether a pod tolerates a taint.
pub fn tolerated(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    tolerations.iter().any(|t| covers(t, taint))
}

pub fn refuse(search: &Search<'_>, node: &NodeInfo) -> Vec<Refusal> {
    let hard = |taint: &&Taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
    if node.taints.iter().filter(hard).any(|taint| !tolerated(search.pod, taint)) {
        return vec![Refusal::fixed("node(s) had untolerated taint(s)")];
    }
    Vec::new()
}
