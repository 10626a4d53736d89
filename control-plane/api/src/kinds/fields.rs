//! Values of field selectors.

use serde_json::Value;

/// A scalar as field selectors compare it: texts as they are, numbers and booleans in decimal and words.
pub fn label(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A number, `0` when absent.
pub fn number(v: &Value) -> String {
    v.as_i64().unwrap_or_default().to_string()
}

/// A flag, `false` when absent.
pub fn flag(v: &Value) -> String {
    v.as_bool().unwrap_or_default().to_string()
}
