//! The weights of the preferred node affinity terms that a node fits.

use crate::filter::Search;
use crate::model::NodeInfo;
use crate::selector::term_fits;

pub fn score(search: &Search<'_>, node: &NodeInfo) -> i64 {
    let affinity =
        search.pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let terms = affinity
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    terms.iter().filter(|t| term_fits(&t.preference, node)).map(|t| i64::from(t.weight)).sum()
}
