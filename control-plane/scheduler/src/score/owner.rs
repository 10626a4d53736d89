//! Fewer pods of the same controller, so that replicas stand on different nodes.

use crate::filter::Search;
use crate::model::NodeInfo;

pub fn score(search: &Search<'_>, node: &NodeInfo) -> i64 {
    let Some(owner) = &search.placed.owner else { return 0 };
    let same = node.pods.values().filter(|pod| pod.owner.as_ref() == Some(owner) && !pod.terminating);
    i64::try_from(same.count()).unwrap_or(i64::MAX / 1000)
}
