//! What an object looks like after a round trip through Go's types: empty fields gone or written out, quantities and
//! times in canonical form.

use serde_json::{Map, Value};

use super::{Emit, Property, Schema, Shape, is_zero, quantity};

/// Brings `v` into the form that upstream stores and answers with.
pub fn normalize(schema: &Schema, v: &mut Value) {
    Walk { keep: false, kept: false }.node(schema, v);
}

/// Brings `v` into the form that defaults look at: as [`normalize`] does, but that lists and maps that a client sends
/// empty stay, because an empty one is not an absent one there. Says whether there are any: then `normalize` has to
/// follow the defaults.
pub fn decoded(schema: &Schema, v: &mut Value) -> bool {
    let mut walk = Walk { keep: true, kept: false };
    walk.node(schema, v);
    walk.kept
}

struct Walk {
    /// Empty lists and maps stay.
    keep: bool,
    /// One did.
    kept: bool,
}

impl Walk {
    fn node(&mut self, schema: &Schema, v: &mut Value) {
        let node = schema.alternative(v).unwrap_or(schema).resolve();
        match (&node.shape, &mut *v) {
            (Shape::Object(properties), Value::Object(map)) => {
                for property in properties {
                    self.field(property, map);
                }
            }
            (Shape::Map(values), Value::Object(map)) => {
                for value in map.values_mut() {
                    self.element(values, value);
                }
            }
            (Shape::Array(items), Value::Array(list)) => {
                for item in list.iter_mut() {
                    self.element(items, item);
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
            // What is neither a schema nor what else may stand here is read as nothing.
            (Shape::Any(_), value) if node.takes_schema() && !value.is_boolean() => *value = Value::Null,
            _ => {}
        }
    }

    /// An element of a list or map: null becomes the zero value. Bytes that are nothing come back from upstream's store as
    /// empty ones, since protobuf knows no difference.
    fn element(&mut self, schema: &Schema, value: &mut Value) {
        if value.is_null() {
            let bytes = matches!(schema.resolve().shape, Shape::Bytes);
            *value = if bytes { "".into() } else { zero(schema) };
        }
        self.node(schema, value);
    }

    fn field(&mut self, property: &Property, map: &mut Map<String, Value>) {
        let name = property.name.as_ref();
        if matches!(map.get(name), Some(Value::Null)) {
            map.remove(name);
        }
        let schema = &property.schema;
        match (property.emit, map.get_mut(name)) {
            (_, Some(value)) => {
                self.node(schema, value);
                if value.is_null() {
                    map.remove(name);
                    return;
                }
                let collection = matches!(schema.shape, Shape::Array(_) | Shape::Map(_) | Shape::Bytes);
                let omitted = property.emit == Emit::Omit || (property.emit == Emit::Pointer && collection);
                if omitted && is_zero(value) {
                    if self.keep && matches!(value, Value::Array(_) | Value::Object(_)) {
                        self.kept = true;
                    } else {
                        map.remove(name);
                    }
                }
            }
            (Emit::Always, None) => {
                let mut value = zero(schema);
                self.node(schema, &mut value);
                map.insert(name.into(), value);
            }
            (Emit::Null, None) => {
                map.insert(name.into(), Value::Null);
            }
            (Emit::Omit | Emit::Pointer, None) => {}
        }
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
    // Before 1970 the fraction counts down.
    let nanos = stamp.subsec_nanosecond().rem_euclid(1_000_000_000);
    format!("{}.{:06}Z", stamp.strftime("%Y-%m-%dT%H:%M:%S"), nanos / 1000)
}
