//! A pod that names its node goes there only.

use super::{Refusal, Search};
use crate::model::NodeInfo;

pub fn refuse(search: &Search<'_>, node: &NodeInfo) -> Vec<Refusal> {
    match search.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) {
        Some(name) if !name.is_empty() && name != node.name => {
            vec![Refusal::fixed("node(s) didn't match the requested node name")]
        }
        _ => Vec::new(),
    }
}
