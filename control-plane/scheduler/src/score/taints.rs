//! Fewer `PreferNoSchedule` taints that the pod does not tolerate.

use crate::filter::{Search, taints::tolerated};
use crate::model::NodeInfo;

pub fn score(search: &Search<'_>, node: &NodeInfo) -> i64 {
    let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    i64::try_from(soft.filter(|taint| !tolerated(search.pod, taint)).count()).unwrap_or(i64::MAX / 1000)
}
