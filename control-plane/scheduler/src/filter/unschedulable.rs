//! Cordoned nodes take only pods that tolerate it.

use k8s_openapi::api::core::v1::Taint;

use super::{Refusal, Search, taints};
use crate::model::NodeInfo;

pub fn refuse(search: &Search<'_>, node: &NodeInfo) -> Vec<Refusal> {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    if node.unschedulable && !taints::tolerated(search.pod, &cordon) {
        return vec![Refusal::fixed("node(s) were unschedulable")];
    }
    Vec::new()
}
