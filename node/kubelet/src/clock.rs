//! The one place that reads the wall clock; everything that decides is given the time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// The present moment.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The present moment as the API writes it (seconds).
#[must_use]
pub fn api_now() -> Time {
    Time(now())
}

/// Seconds from `from` to `to`; zero when `to` is earlier.
#[must_use]
pub fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    (to.duration_since(from).as_secs_f64()).max(0.0)
}
