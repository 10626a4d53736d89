//! The share of the pod's images that the node has, by size.

use super::MOST;
use crate::filter::Search;
use crate::model::NodeInfo;

const MIB: i64 = 1024 * 1024;
/// Below this much a pull costs nothing; above that much it costs all.
const BOUNDS: (i64, i64) = (23 * MIB, 1000 * MIB);

pub fn score(search: &Search<'_>, node: &NodeInfo) -> i64 {
    let containers = search.pod.spec.iter().flat_map(|s| &s.containers);
    let (mut count, mut sum) = (0_i64, 0_i64);
    for container in containers {
        count += 1;
        let image = container.image.as_deref().unwrap_or("");
        let size = node.images.get(image).or_else(|| node.images.get(&format!("{image}:latest")));
        sum = sum.saturating_add(size.copied().unwrap_or(0));
    }
    let (low, high) = (BOUNDS.0, BOUNDS.1 * count.max(1));
    MOST * (sum.clamp(low, high) - low) / (high - low).max(1)
}
