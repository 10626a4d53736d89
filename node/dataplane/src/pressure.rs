//! Maps that fill up are said: in the log and as an Event on the Node, once each time, before anything is refused.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio_util::sync::CancellationToken;

use crate::{maps::Fill, status::Status};

/// How often.
const INTERVAL: Duration = Duration::from_secs(15);

/// From this part on (in percent) a map is said to fill up.
pub const FULL: u64 = 80;

/// Below this part (in percent) it may be said again.
const EASED: u64 = 70;

/// Which maps have been said to fill up.
#[derive(Debug, Default)]
struct Pressure(BTreeSet<&'static str>);

impl Pressure {
    /// Maps that fill up and have not been said to.
    fn risen(&mut self, fill: &[Fill]) -> Vec<Fill> {
        let percent = |fill: &Fill| fill.entries * 100 / fill.capacity.max(1);
        for eased in fill.iter().filter(|fill| percent(fill) < EASED) {
            self.0.remove(eased.map);
        }
        fill.iter().filter(|fill| percent(fill) >= FULL && self.0.insert(fill.map)).copied().collect()
    }
}

/// Watches the maps until `shutdown` is cancelled.
pub async fn watch(client: kube::Client, node: String, status: Arc<Status>, shutdown: CancellationToken) {
    let reporter = Reporter { controller: "fairlead-dataplane".to_owned(), instance: Some(node.clone()) };
    let recorder = Recorder::new(client, reporter);
    // Events of nodes name the node as uid, as kubelets write them: `kubectl describe node` looks for that.
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node.clone()),
        uid: Some(node),
        ..ObjectReference::default()
    };
    let mut pressure = Pressure::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        for Fill { map, entries, capacity } in pressure.risen(&status.fill()) {
            tracing::warn!(map, entries, capacity, "a map fills up");
            let event = Event {
                type_: EventType::Warning,
                reason: "NetworkMapFillsUp".to_owned(),
                note: Some(format!(
                    "{map} has {entries} of {capacity} entries; what does not fit is refused or evicted"
                )),
                action: "Write".to_owned(),
                secondary: None,
            };
            if let Err(error) = recorder.publish(&event, &reference).await {
                tracing::warn!(%error, "an Event could not be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_said_to_fill_up_once_until_it_has_eased() {
        let mut pressure = Pressure::default();
        let mut at = |entries| pressure.risen(&[Fill { map: "RULES", entries, capacity: 100 }]).len();
        assert_eq!([at(79), at(80), at(95), at(75), at(85), at(69), at(81)], [0, 1, 0, 0, 0, 0, 1]);
    }
}
