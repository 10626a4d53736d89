//! Numbers or percentages (`intstr`).

use serde_json::Value;

use super::{Field, NON_NEGATIVE, names};
use crate::field::ErrorList;

/// The number of percent, when the text is one.
fn percent(v: &Value) -> Option<i64> {
    v.as_str().filter(|s| names::percent(s).is_empty()).and_then(|s| s.strip_suffix('%')?.parse().ok())
}

/// A percentage, or a number that is not negative. Absent is fine.
pub fn non_negative(f: &Field, errors: &mut ErrorList) {
    match f.value {
        Value::String(s) => f.all(errors, names::percent(s)),
        _ if f.num() < 0 => f.invalid(errors, NON_NEGATIVE),
        _ => {}
    }
}

/// No percentage above 100.
pub fn at_most_all(f: &Field, errors: &mut ErrorList) {
    if percent(f.value).is_some_and(|p| p > 100) {
        f.invalid(errors, "must not be greater than 100%");
    }
}

/// Zero, or zero percent, or absent.
pub fn is_zero(v: &Value) -> bool {
    match v {
        Value::String(_) => percent(v).unwrap_or_default() == 0,
        _ => v.as_i64().unwrap_or_default() == 0,
    }
}
