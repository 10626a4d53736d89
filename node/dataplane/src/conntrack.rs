//! Thins out the maps of flows: the programs take an expired entry as absent, and this removes it, so that how full the
//! maps are says something.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    engine::monotonic_millis,
    maps::{
        Fill, MapError, Observed,
        table::{Table, Wire},
    },
    status::Status,
};

/// How often.
const INTERVAL: Duration = Duration::from_secs(30);

/// From this part on (in percent), a map is said to be under pressure: the kernel begins to give up old flows.
const PRESSURE: u64 = 90;

/// Removes expired flows every half minute until `shutdown` is cancelled.
pub async fn collect(status: Arc<Status>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let swept = status.clone();
        let outcome = tokio::task::spawn_blocking(move || swept.observed().map(sweep)).await;
        match outcome {
            Ok(Some(Ok(fill))) => {
                for full in fill.iter().filter(|fill| fill.entries * 100 >= fill.capacity * PRESSURE) {
                    tracing::warn!(
                        map = full.map,
                        entries = full.entries,
                        capacity = full.capacity,
                        "the map is almost full"
                    );
                }
                status.flows(fill);
            }
            Ok(Some(Err(error))) => tracing::warn!(%error, "expired flows could not be removed"),
            Ok(None) | Err(_) => {}
        }
    }
}

/// Removes what has expired; gives how full the maps are then.
fn sweep(observed: &Observed) -> Result<Vec<Fill>, MapError> {
    let now = (monotonic_millis() / 1000) as u32;
    Ok(vec![
        sweep_table(&observed.conntrack, now, |entry| entry.expires)?,
        sweep_table(&observed.nat, now, |entry| entry.expires)?,
    ])
}

fn sweep_table<K: Wire, V: Wire>(
    table: &Table<K, V>,
    now: u32,
    expires: fn(&V) -> u32,
) -> Result<Fill, MapError> {
    let (mut entries, mut expired) = (0_u64, Vec::new());
    table.for_each(|key, value| {
        entries += 1;
        if expires(&value) < now {
            expired.push(key);
        }
    })?;
    for key in &expired {
        // A packet may have brought the flow back meanwhile.
        if table.get(key)?.is_some_and(|value| expires(&value) < now) {
            table.remove(key)?;
            entries -= 1;
        }
    }
    Ok(Fill { map: table.name(), entries, capacity: u64::from(table.capacity()) })
}
