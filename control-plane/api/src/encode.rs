//! Objects as Kubernetes protobuf, from the same tag table that bodies are decoded with.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::proto::{self, Field, Label, MAGIC, Message, Type};

/// A whole response body: `k8s\0`, then the envelope with the object in it. `None` when `message` is unknown.
pub fn protobuf(message: &str, api_version: &str, kind: &str, v: &Value) -> Option<Vec<u8>> {
    let mut raw = Vec::new();
    object(proto::message(message)?, v, &mut raw);
    let mut meta = Vec::new();
    bytes_field(&mut meta, 1, api_version.as_bytes());
    bytes_field(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + meta.len() + 32);
    out.extend_from_slice(MAGIC);
    bytes_field(&mut out, 1, &meta);
    bytes_field(&mut out, 2, &raw);
    bytes_field(&mut out, 3, b"");
    bytes_field(&mut out, 4, b"");
    Some(out)
}

/// One frame of a protobuf watch stream: its length in four bytes, then a WatchEvent that holds `object`, a whole body
/// as `protobuf` makes it.
pub fn watch_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 16);
    bytes_field(&mut raw, 1, object);
    let mut event = Vec::with_capacity(raw.len() + 32);
    bytes_field(&mut event, 1, kind.as_bytes());
    bytes_field(&mut event, 2, &raw);
    let mut out = Vec::with_capacity(event.len() + 4);
    out.extend_from_slice(&u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.append(&mut event);
    out
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn key(out: &mut Vec<u8>, tag: u32, wire: u64) {
    varint(out, u64::from(tag) << 3 | wire);
}

pub(crate) fn bytes_field(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    key(out, tag, 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn varint_field(out: &mut Vec<u8>, tag: u32, n: i64) {
    key(out, tag, 0);
    varint(out, n.cast_unsigned());
}

fn object(message: &Message, v: &Value, out: &mut Vec<u8>) {
    if special(message.name, v, out) {
        return;
    }
    for field in &message.fields {
        if field.name == "~" {
            scalar(field, v, out);
            continue;
        }
        let Some(value) = v.get(field.name).filter(|v| !v.is_null()) else { continue };
        match (field.label, value) {
            (Label::One, value) => scalar(field, value, out),
            (Label::Repeated, Value::Array(items)) => items.iter().for_each(|item| scalar(field, item, out)),
            (Label::Map, Value::Object(map)) => {
                for (name, value) in map {
                    let mut entry = Vec::new();
                    bytes_field(&mut entry, 1, name.as_bytes());
                    let of_entry = Field { tag: 2, label: Label::One, ..field.clone() };
                    scalar(&of_entry, value, &mut entry);
                    bytes_field(out, field.tag, &entry);
                }
            }
            _ => {}
        }
    }
}

fn scalar(field: &Field, value: &Value, out: &mut Vec<u8>) {
    match (field.kind, value) {
        (Type::Bool, Value::Bool(b)) => varint_field(out, field.tag, i64::from(*b)),
        (Type::Varint, Value::Number(n)) => varint_field(out, field.tag, n.as_i64().unwrap_or_default()),
        (Type::Double, Value::Number(n)) => {
            key(out, field.tag, 1);
            out.extend_from_slice(&n.as_f64().unwrap_or_default().to_le_bytes());
        }
        (Type::String, Value::String(text)) => bytes_field(out, field.tag, text.as_bytes()),
        (Type::Bytes, Value::String(text)) => {
            bytes_field(out, field.tag, &STANDARD.decode(text).unwrap_or_default());
        }
        (Type::Message(name), value) => {
            let Some(message) = proto::message(name) else { return };
            let mut inner = Vec::new();
            object(message, value, &mut inner);
            // What JSON has inline is a struct by value: an empty one says nothing.
            if field.name != "~" || !inner.is_empty() {
                bytes_field(out, field.tag, &inner);
            }
        }
        _ => {}
    }
}

/// Messages whose JSON form is not a struct. False for the ordinary ones.
fn special(name: &str, v: &Value, out: &mut Vec<u8>) -> bool {
    match (name.rsplit('.').next().unwrap_or(name), v) {
        ("Quantity", Value::String(text)) => bytes_field(out, 1, text.as_bytes()),
        ("FieldsV1" | "RawExtension" | "JSON", v) => bytes_field(out, 1, v.to_string().as_bytes()),
        ("ExtraValue" | "Verbs", Value::Array(items)) => {
            for item in items.iter().filter_map(Value::as_str) {
                bytes_field(out, 1, item.as_bytes());
            }
        }
        ("Time" | "MicroTime", Value::String(text)) => {
            if let Some(stamp) = crate::schema::timestamp(text) {
                // The fraction counts up, also before 1970.
                let nanos = stamp.subsec_nanosecond();
                varint_field(out, 1, stamp.as_second() - i64::from(nanos < 0));
                varint_field(out, 2, i64::from(nanos).rem_euclid(1_000_000_000));
            }
        }
        ("IntOrString", Value::String(text)) => {
            varint_field(out, 1, 1);
            varint_field(out, 2, 0);
            bytes_field(out, 3, text.as_bytes());
        }
        ("IntOrString", Value::Number(n)) => {
            varint_field(out, 1, 0);
            varint_field(out, 2, n.as_i64().unwrap_or_default());
            bytes_field(out, 3, b"");
        }
        ("JSONSchemaPropsOrArray" | "JSONSchemaPropsOrBool" | "JSONSchemaPropsOrStringArray", v) => {
            schema_or(name, v, out);
        }
        _ => return false,
    }
    true
}

fn schema_or(name: &str, v: &Value, out: &mut Vec<u8>) {
    let Some(schema) = proto::message("apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
    else {
        return;
    };
    let or_bool = name.ends_with("OrBool");
    let mut nested = |tag: u32, v: &Value| {
        let mut inner = Vec::new();
        object(schema, v, &mut inner);
        bytes_field(out, tag, &inner);
    };
    match v {
        Value::Object(_) if or_bool => {
            nested(2, v);
            varint_field(out, 1, 1);
        }
        Value::Object(_) => nested(1, v),
        Value::Array(items) if name.ends_with("OrArray") => items.iter().for_each(|item| nested(2, item)),
        Value::Array(items) => {
            for item in items.iter().filter_map(Value::as_str) {
                bytes_field(out, 2, item.as_bytes());
            }
        }
        Value::Bool(b) => varint_field(out, 1, i64::from(*b)),
        _ => {}
    }
}
