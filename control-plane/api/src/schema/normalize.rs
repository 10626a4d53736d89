//! What an object looks like after a round trip through Go's types: empty fields gone or written out, quantities and
//! times in canonical form.

use serde_json::{Map, Value};

use super::{Emit, Property, Schema, Shape, is_zero, quantity};

/// Brings `v` into the form that upstream stores and answers with.
pub fn normalize(schema: &Schema, v: &mut Value) {
    let node = schema.resolve();
    match (&node.shape, &mut *v) {
        (Shape::Object(properties), Value::Object(map)) => {
            for property in properties {
                field(property, map);
            }
        }
        (Shape::Map(values), Value::Object(map)) => {
            for value in map.values_mut() {
                element(values, value);
            }
        }
        (Shape::Array(items), Value::Array(list)) => {
            for item in list.iter_mut() {
                element(items, item);
            }
        }
        (Shape::Quantity, value) => {
            let text = match &*value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            if let Some(canonical) = quantity::canonical(&text) {
                *value = Value::String(canonical);
            }
        }
        (Shape::Time, Value::String(text)) => {
            if let Some(stamp) = timestamp(text) {
                *text = seconds(stamp);
            }
        }
        (Shape::MicroTime, Value::String(text)) => {
            if let Some(stamp) = timestamp(text) {
                *text = micros(stamp);
            }
        }
        _ => {}
    }
}

/// An element of a list or map: null becomes the zero value.
fn element(schema: &Schema, value: &mut Value) {
    if value.is_null() {
        *value = zero(schema);
    }
    normalize(schema, value);
}

fn field(property: &Property, map: &mut Map<String, Value>) {
    let name = property.name.as_ref();
    if matches!(map.get(name), Some(Value::Null)) {
        map.remove(name);
    }
    let schema = &property.schema;
    match (property.emit, map.get_mut(name)) {
        (_, Some(value)) => {
            normalize(schema, value);
            let collection = matches!(schema.shape, Shape::Array(_) | Shape::Map(_) | Shape::Bytes);
            if (property.emit == Emit::Omit || (property.emit == Emit::Pointer && collection))
                && is_zero(value)
            {
                map.remove(name);
            }
        }
        (Emit::Always, None) => {
            let mut value = zero(schema);
            normalize(schema, &mut value);
            map.insert(name.into(), value);
        }
        (Emit::Null, None) => {
            map.insert(name.into(), Value::Null);
        }
        (Emit::Omit | Emit::Pointer, None) => {}
    }
}

/// The value that Go writes for a field that nobody set.
fn zero(schema: &Schema) -> Value {
    match schema.resolve().shape {
        Shape::Object(_) | Shape::Ref(_) => Value::Object(Map::new()),
        Shape::String => "".into(),
        Shape::Int32 | Shape::Int64 | Shape::Number | Shape::IntOrString => 0.into(),
        Shape::Boolean => false.into(),
        Shape::Quantity => "0".into(),
        _ => Value::Null,
    }
}

/// An RFC 3339 time. Leap seconds and missing zones are refused, as Go does.
pub fn timestamp(text: &str) -> Option<jiff::Timestamp> {
    let b = text.as_bytes();
    let shaped = b.len() >= 20
        && b.get(10) == Some(&b'T')
        && (b.last() == Some(&b'Z') || b.get(b.len() - 6).is_some_and(|c| matches!(c, b'+' | b'-')));
    if shaped { text.parse().ok() } else { None }
}

/// `2026-01-02T03:04:05Z`
pub fn seconds(stamp: jiff::Timestamp) -> String {
    stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.000000Z`
pub fn micros(stamp: jiff::Timestamp) -> String {
    format!("{}.{:06}Z", stamp.strftime("%Y-%m-%dT%H:%M:%S"), stamp.subsec_nanosecond() / 1000)
}
