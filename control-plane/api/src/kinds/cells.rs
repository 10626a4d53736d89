//! Cells that many rows share.

use serde_json::{Value, json};

use crate::{kind::Printing, table, validate::selector};

/// `metadata.name`.
pub fn name(o: &Value) -> Value {
    o["metadata"]["name"].clone()
}

/// Time since creation.
pub fn age(o: &Value, p: &Printing) -> Value {
    json!(table::age(&o["metadata"]["creationTimestamp"], p))
}

/// The creation time itself, for kinds without a printer of their own.
pub fn created_at(o: &Value) -> Value {
    o["metadata"]["creationTimestamp"].clone()
}

/// The rows of kinds that print their name and the time they were created at.
pub fn name_and_created(o: &Value, _: &Printing) -> Vec<Value> {
    vec![name(o), created_at(o)]
}

/// A number, zero when absent.
pub fn int(v: &Value) -> Value {
    json!(v.as_i64().unwrap_or_default())
}

/// A text, empty when absent.
pub fn text(v: &Value) -> Value {
    json!(v.as_str().unwrap_or_default())
}

/// A text, or `fallback` when absent or empty.
pub fn text_or(v: &Value, fallback: &str) -> Value {
    match v.as_str() {
        Some(s) if !s.is_empty() => json!(s),
        _ => json!(fallback),
    }
}

/// A map of labels: `a=b,c=d` or `<none>`.
pub fn labels(v: &Value) -> Value {
    json!(selector::printed_labels(v))
}

/// A label selector.
pub fn selector(v: &Value) -> Value {
    json!(selector::printed(v))
}

/// Names of a template's containers, and their images.
pub fn containers(template: &Value) -> [Value; 2] {
    let list = template["spec"]["containers"].as_array().map_or(&[][..], Vec::as_slice);
    let join = |key: &str| {
        let words: Vec<&str> = list.iter().map(|c| c[key].as_str().unwrap_or_default()).collect();
        json!(words.join(","))
    };
    [join("name"), join("image")]
}

/// A list of texts, joined.
pub fn joined(v: &Value, by: &str) -> String {
    let words: Vec<&str> = v.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    words.join(by)
}
