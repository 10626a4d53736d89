//! Printed columns and rows (`meta.k8s.io` Table).

use serde_json::{Value, json};

use crate::kind::Printing;

/// The row of a kind that prints its name and age only.
pub fn name_and_age(object: &Value, printing: &Printing) -> Vec<Value> {
    vec![object["metadata"]["name"].clone(), json!(age(&object["metadata"]["creationTimestamp"], printing))]
}

/// Time since `stamp` (RFC 3339) in upstream's short human form, `<unknown>` without one.
pub fn age(stamp: &Value, printing: &Printing) -> String {
    let Some(then) = stamp.as_str().and_then(|s| s.parse::<jiff::Timestamp>().ok()) else {
        return "<unknown>".into();
    };
    human_duration((printing.now - then.as_second()).max(0))
}

/// `k8s.io/apimachinery/pkg/util/duration.HumanDuration`, for whole seconds.
pub fn human_duration(seconds: i64) -> String {
    let (m, h, d) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |a: i64, au: &str, b: i64, bu: &str| {
        if b == 0 { format!("{a}{au}") } else { format!("{a}{au}{b}{bu}") }
    };
    match seconds {
        s if s < 120 => format!("{s}s"),
        s if s < 600 => pair(m, "m", s % 60, "s"),
        s if s < 3 * 3600 => format!("{m}m"),
        s if s < 8 * 3600 => pair(h, "h", m % 60, "m"),
        s if s < 48 * 3600 => format!("{h}h"),
        s if s < 8 * 86400 => pair(d, "d", h % 24, "h"),
        s if s < 2 * 365 * 86400 => format!("{d}d"),
        s if s < 8 * 365 * 86400 => pair(d / 365, "y", d % 365, "d"),
        _ => format!("{}y", d / 365),
    }
}
