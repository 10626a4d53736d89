//! The one place that reads the wall clock. Decisions take `now` as an argument, so tests choose their own.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

/// The time of day, in UTC.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The steady clock, for time-outs.
#[must_use]
pub fn instant() -> Instant {
    Instant::now()
}

/// `now` as the API writes it in conditions: whole seconds.
#[must_use]
pub fn stamp(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// `now` as the API writes it in leases and events: microseconds.
#[must_use]
pub fn micro_stamp(now: Timestamp) -> MicroTime {
    MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
}

/// Time from `earlier` until `now`; zero when `earlier` is still to come.
#[must_use]
pub fn since(earlier: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(earlier)).unwrap_or_default()
}
