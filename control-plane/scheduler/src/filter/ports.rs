//! Ports of the node that are taken.

use super::{Refusal, Search};
use crate::model::{HostPort, NodeInfo};

/// Two pods clash over a port when neither bound it to an address of its own.
fn clash(a: &HostPort, b: &HostPort) -> bool {
    let any = |ip: &str| ip == "0.0.0.0" || ip == "::";
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || any(&a.0) || any(&b.0))
}

pub fn refuse(search: &Search<'_>, node: &NodeInfo) -> Vec<Refusal> {
    let taken = || node.pods.values().flat_map(|pod| &pod.ports);
    if search.placed.ports.iter().any(|port| taken().any(|other| clash(port, other))) {
        return vec![Refusal::preemptible("node(s) didn't have free ports for the requested pod ports")];
    }
    Vec::new()
}
