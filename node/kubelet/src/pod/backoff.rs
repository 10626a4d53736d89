//! How long a container that ended waits for its next start: 10 s, doubling to 5 minutes, forgotten after 10 minutes
//! of running. The wait is a label of the instance, so a restarted kubelet goes on where the last one was.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::docker::state::Instance;

/// The first wait.
pub const FIRST_SECONDS: u32 = 10;
/// The longest wait.
pub const MAX_SECONDS: u32 = 300;
/// A container that ran this long starts afresh.
const FORGIVEN_SECONDS: i64 = 600;

fn forgiven(instance: &Instance) -> bool {
    instance.ran_for() >= SignedDuration::from_secs(FORGIVEN_SECONDS)
}

/// Seconds that the successor of `previous` will wait after its own end.
#[must_use]
pub fn next_seconds(previous: Option<&Instance>) -> u32 {
    match previous {
        None => 0,
        Some(previous) if forgiven(previous) => FIRST_SECONDS,
        Some(previous) => previous.backoff_seconds.saturating_mul(2).clamp(FIRST_SECONDS, MAX_SECONDS),
    }
}

/// Until when an ended container waits; `None` when it may start now.
#[must_use]
pub fn waits_until(ended: &Instance, now: Timestamp) -> Option<Timestamp> {
    if forgiven(ended) || ended.backoff_seconds == 0 {
        return None;
    }
    let wait = SignedDuration::from_secs(i64::from(ended.backoff_seconds));
    let until = ended.finished?.checked_add(wait).ok()?;
    (until > now).then_some(until)
}

/// A wait as Go prints it: `10s`, `2m40s`, `5m0s`.
#[must_use]
pub fn shown(seconds: u32) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

/// Waits in memory for things that have no instance: image pulls, sandboxes, volumes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Retry {
    /// Failures in a row.
    pub failures: u32,
    /// When the next try is due.
    pub due: Option<Timestamp>,
}

impl Retry {
    /// Notes a failure; the wait is `first` seconds, doubling to `most`.
    pub fn failed(&mut self, now: Timestamp, first: u32, most: u32) {
        let wait = first.saturating_mul(1 << self.failures.min(16)).min(most);
        self.failures += 1;
        self.due = now.checked_add(SignedDuration::from_secs(i64::from(wait))).ok();
    }

    /// Until when to wait; `None` when a try is due.
    #[must_use]
    pub fn waits_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.due.filter(|due| *due > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::state::tests::{at, exited};

    #[test]
    fn waits_double_and_are_forgiven() {
        let mut last: Option<Instance> = None;
        let mut seen = Vec::new();
        for count in 0..8 {
            let backoff_seconds = next_seconds(last.as_ref());
            seen.push(backoff_seconds);
            last = Some(Instance { backoff_seconds, ..exited("c", count, 1, i64::from(count) + 1) });
        }
        assert_eq!(seen, [0, 10, 20, 40, 80, 160, 300, 300]);
        let long = Instance { backoff_seconds: 300, ..exited("c", 0, 1, 700) };
        assert_eq!(next_seconds(Some(&long)), 10);
        assert_eq!(waits_until(&long, at(700)), None);
    }

    #[test]
    fn an_ended_container_waits_from_its_end() {
        let ended = Instance { backoff_seconds: 10, ..exited("c", 1, 1, 5) };
        assert_eq!(waits_until(&ended, at(5)), Some(at(15)));
        assert_eq!(waits_until(&ended, at(14)), Some(at(15)));
        assert_eq!(waits_until(&ended, at(15)), None);
        assert_eq!(waits_until(&exited("c", 0, 1, 5), at(5)), None);
    }

    #[test]
    fn waits_are_shown_as_upstream_shows_them() {
        for (seconds, expected) in [(10, "10s"), (40, "40s"), (80, "1m20s"), (160, "2m40s"), (300, "5m0s")] {
            assert_eq!(shown(seconds), expected);
        }
    }

    #[test]
    fn retries_double_up_to_the_most() {
        let mut retry = Retry::default();
        let waits: Vec<_> = (0..5)
            .map(|_| {
                retry.failed(at(0), 10, 60);
                retry.due.unwrap().as_second() - at(0).as_second()
            })
            .collect();
        assert_eq!(waits, [10, 20, 40, 60, 60]);
    }
}
