//! Node IPAM: cuts a pod range for every node out of the cluster's range.

use std::collections::HashSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use parking_lot::Mutex;
use serde_json::json;

use crate::event::Recorder;
use crate::informer::{Informer, Key};
use crate::queue::{Outcome, Queue, work};
use crate::{Context, write};

struct Controller {
    context: Context,
    recorder: Recorder,
    nodes: Informer<Node>,
    queue: Queue<Key>,
    /// Ranges that were written and that the informer may not show yet.
    promised: Mutex<Vec<(Key, Vec<IpNet>)>>,
}

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let controller = Arc::new(Controller {
        recorder: context.recorder.of("cidrAllocator"),
        nodes: context.nodes(),
        queue: Queue::default(),
        promised: Mutex::default(),
        context: context.clone(),
    });
    let listener = controller.clone();
    controller.nodes.on_change(move |change| {
        let Some(node) = change.latest() else { return };
        let key = Key::of(&**node);
        if change.new.is_none() || !ranges_of(node).is_empty() {
            listener.promised.lock().retain(|(known, _)| *known != key);
        }
        if change.new.is_none() {
            // A range became free: those that found none may have it.
            let waiting = listener.nodes.list().into_iter().filter(|node| ranges_of(node).is_empty());
            listener.queue.add_all(waiting.map(|node| Key::of(&*node)));
        } else if ranges_of(node).is_empty() {
            listener.queue.add(key);
        }
    });
    async move {
        controller.nodes.synced().await;
        let queue = controller.queue.clone();
        let shutdown = controller.context.shutdown.clone();
        // One worker: two nodes must not be given the same range.
        work("nodeipam", &queue, 1, &shutdown, |key| controller.sync(key)).await;
    }
    .boxed()
}

impl Controller {
    async fn sync(&self, key: Key) -> Outcome {
        let Some(node) = self.nodes.get(&key) else { return Ok(None) };
        let promised = self.promised.lock().iter().any(|(known, _)| *known == key);
        if promised || !ranges_of(&node).is_empty() || node.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut used: HashSet<IpNet> = self.nodes.list().iter().flat_map(|node| ranges_of(node)).collect();
        used.extend(self.promised.lock().iter().flat_map(|(_, ranges)| ranges.iter().copied()));
        let options = &self.context.options;
        // Part of the cluster's range may be the Services': no node gets that.
        used.extend(options.service_cidr.iter().copied());
        let ranges: Option<Vec<IpNet>> =
            options.cluster_cidr.iter().map(|cidr| first_free(*cidr, options.node_masks, &used)).collect();
        let Some(ranges) = ranges else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.normal(&*node, "CIDRNotAvailable", message);
            return Ok(None);
        };
        let Some(first) = ranges.first() else { return Ok(None) };
        let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let patch = json!({"spec": {"podCIDR": first.to_string(), "podCIDRs": texts}});
        let api: Api<Node> = Api::all(self.context.client.clone());
        self.promised.lock().push((key.clone(), ranges.clone()));
        let written = write::guarded(&api, &*node, patch, "give the node its pod range").await;
        if written.is_err() {
            self.promised.lock().retain(|(known, _)| *known != key);
        }
        written.map(|_| None)
    }
}

/// The ranges a node has, as far as they can be read.
fn ranges_of(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let texts = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// The lowest range of the node's size that overlaps none of `used`.
fn first_free(cluster: IpNet, masks: (u8, u8), used: &HashSet<IpNet>) -> Option<IpNet> {
    let mask = if cluster.addr().is_ipv4() { masks.0 } else { masks.1 };
    let same = |range: &&IpNet| range.prefix_len() == mask;
    // Ranges of another size (an administrator's own) are compared one by one; there are few.
    let odd: Vec<&IpNet> = used.iter().filter(|range| !same(range)).collect();
    let overlaps = |range: &IpNet| {
        used.contains(range) || odd.iter().any(|other| other.contains(range) || range.contains(*other))
    };
    cluster.subnets(mask).ok()?.find(|range| !overlaps(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cluster: &str, masks: (u8, u8), used: &[&str], expected: Option<&str>) {
        let used = used.iter().map(|text| text.parse().unwrap()).collect();
        let free = first_free(cluster.parse().unwrap(), masks, &used);
        assert_eq!(free, expected.map(|text| text.parse().unwrap()));
    }

    #[test]
    fn the_lowest_free_range_is_given() {
        check("10.244.0.0/16", (24, 64), &[], Some("10.244.0.0/24"));
        check("10.244.0.0/16", (24, 64), &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24"));
        check("10.244.0.0/16", (24, 64), &["10.244.0.0/23"], Some("10.244.2.0/24"));
        check("10.244.0.0/23", (24, 64), &["10.244.0.0/24", "10.244.1.0/24"], None);
        check("fd00::/56", (24, 64), &["fd00::/64"], Some("fd00:0:0:1::/64"));
        check("fd00::/112", (24, 120), &["fd00::/120"], Some("fd00::100/120"));
        // The range of Services, which lies in the cluster's.
        check("10.0.0.0/8", (24, 64), &["10.0.0.0/16"], Some("10.1.0.0/24"));
        check("fd00::/63", (24, 64), &["fd00::/64", "fd00:0:0:1::/112"], None);
    }
}
