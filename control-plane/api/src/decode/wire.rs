//! Protobuf bodies into the JSON tree.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Number, Value};

use super::{DecodeError, Decoded, MAX_DEPTH};
use crate::proto::{self, Field, Label, MAGIC, Message, Type};

type Result<T> = std::result::Result<T, DecodeError>;

fn bad(words: impl Into<String>) -> DecodeError {
    DecodeError::Protobuf(words.into())
}

/// A body with the `k8s\0` prefix and the `Unknown` envelope, which names the kind.
pub fn protobuf(bytes: &[u8]) -> Result<Decoded> {
    let Some(body) = bytes.strip_prefix(MAGIC) else {
        return Err(bad(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        ));
    };
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    let mut reader = Reader { bytes: body };
    while let Some((tag, value)) = reader.field()? {
        match (tag, value) {
            (1, Wire::Bytes(meta)) => (api_version, kind) = type_meta(meta)?,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(bad("content encoding is not supported"));
            }
            _ => {}
        }
    }
    let Some(message) = proto::message_of(&api_version, &kind) else {
        return Err(bad(format!("no kind {kind:?} is registered for version {api_version:?}")));
    };
    let mut value = object(message, raw, 0)?;
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".into(), api_version.into());
        map.insert("kind".into(), kind.into());
    }
    Ok(Decoded { value, strict: Vec::new() })
}

/// One message without an envelope, as JSON. For tests and for embedded objects.
fn object(message: &Message, bytes: &[u8], depth: usize) -> Result<Value> {
    if depth > MAX_DEPTH {
        return Err(bad("exceeded max depth"));
    }
    if let Some(value) = special(message.name, bytes, depth)? {
        return Ok(value);
    }
    let mut map = Map::new();
    let mut reader = Reader { bytes };
    while let Some((tag, wire)) = reader.field()? {
        if let Some(field) = message.by_tag(tag) {
            store(&mut map, field, wire, depth)?;
        }
    }
    Ok(Value::Object(map))
}

fn store(map: &mut Map<String, Value>, field: &Field, wire: Wire<'_>, depth: usize) -> Result<()> {
    if field.label == Label::Map {
        let Wire::Bytes(entry) = wire else { return Err(bad("proto: wrong wireType for a map")) };
        let (key, value) = map_entry(field, entry, depth)?;
        if let Some(target) = container(map, field.name, || Value::Object(Map::new())).as_object_mut() {
            target.insert(key, value);
        }
        return Ok(());
    }
    // Numbers may come packed.
    if let (Label::Repeated, Type::Varint | Type::Bool, Wire::Bytes(packed)) =
        (field.label, field.kind, &wire)
    {
        let mut reader = Reader { bytes: packed };
        while !reader.bytes.is_empty() {
            let n = reader.varint()?;
            push(map, field.name, scalar(field.kind, Wire::Varint(n), depth)?);
        }
        return Ok(());
    }
    let value = scalar(field.kind, wire, depth)?;
    match (field.label, field.name, value) {
        (Label::Repeated, name, value) => push(map, name, value),
        (_, "~", Value::Object(inner)) => map.extend(inner),
        (_, "~", _) => {}
        (_, name, value) => match (map.get_mut(name), value) {
            // A message that comes in two pieces is one message.
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (_, value) => {
                map.insert(name.into(), value);
            }
        },
    }
    Ok(())
}

fn container<'m>(map: &'m mut Map<String, Value>, name: &str, empty: fn() -> Value) -> &'m mut Value {
    map.entry(name).or_insert_with(empty)
}

fn push(map: &mut Map<String, Value>, name: &str, value: Value) {
    if let Some(list) = container(map, name, || Value::Array(Vec::new())).as_array_mut() {
        list.push(value);
    }
}

fn map_entry(field: &Field, bytes: &[u8], depth: usize) -> Result<(String, Value)> {
    let mut reader = Reader { bytes };
    let mut key = String::new();
    let mut value = None;
    while let Some((tag, wire)) = reader.field()? {
        match (tag, wire) {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => value = Some(scalar(field.kind, wire, depth)?),
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        None => match field.kind {
            Type::Message(name) => match proto::message(name) {
                Some(message) => object(message, &[], depth + 1)?,
                None => Value::Null,
            },
            Type::Varint | Type::Double => 0.into(),
            Type::Bool => false.into(),
            Type::String | Type::Bytes => "".into(),
        },
    };
    Ok((key, value))
}

fn scalar(kind: Type, wire: Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match (kind, wire) {
        (Type::Bool, Wire::Varint(n)) => (n != 0).into(),
        // Negative numbers are sent as their 64-bit two's complement.
        (Type::Varint, Wire::Varint(n)) => n.cast_signed().into(),
        (Type::Double, Wire::Fixed64(bits)) => {
            Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
        }
        (Type::String, Wire::Bytes(bytes)) => utf8(bytes)?.into(),
        (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Type::Message(name), Wire::Bytes(bytes)) => {
            let message = proto::message(name).ok_or_else(|| bad(format!("unknown message {name}")))?;
            object(message, bytes, depth + 1)?
        }
        _ => return Err(bad("proto: wrong wireType")),
    })
}

fn utf8(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| bad("proto: string field contains invalid UTF-8"))
}

fn type_meta(bytes: &[u8]) -> Result<(String, String)> {
    let (mut api_version, mut kind) = (String::new(), String::new());
    let mut reader = Reader { bytes };
    while let Some((tag, wire)) = reader.field()? {
        match (tag, wire) {
            (1, Wire::Bytes(text)) => api_version = utf8(text)?,
            (2, Wire::Bytes(text)) => kind = utf8(text)?,
            _ => {}
        }
    }
    Ok((api_version, kind))
}

/// Messages whose JSON form is not a struct. `None` for the ordinary ones.
fn special(name: &str, bytes: &[u8], depth: usize) -> Result<Option<Value>> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let Some(shape) = SPECIAL.iter().find(|(n, _)| *n == last).map(|(_, shape)| *shape) else {
        return Ok(None);
    };
    let mut reader = Reader { bytes };
    let mut one: Option<Wire<'_>> = None;
    let (mut first, mut second, mut third) = (0u64, 0u64, &[][..]);
    let mut items = Vec::new();
    while let Some((tag, wire)) = reader.field()? {
        match (tag, &wire) {
            (1, Wire::Varint(n)) => first = *n,
            (2, Wire::Varint(n)) => second = *n,
            (1, Wire::Bytes(bytes)) if shape == Special::Items => items.push(utf8(bytes)?.into()),
            (3, Wire::Bytes(bytes)) => third = bytes,
            (1, _) => one = Some(wire),
            _ => {}
        }
    }
    let text = match one {
        Some(Wire::Bytes(bytes)) => bytes,
        _ => &[],
    };
    Ok(Some(match shape {
        Special::Text if text.is_empty() => "0".into(),
        Special::Text => utf8(text)?.into(),
        Special::Raw if text.is_empty() => Value::Null,
        Special::Raw => super::json(text)?.value,
        Special::Items => Value::Array(items),
        Special::Seconds | Special::Micros => time(first, second, shape),
        Special::IntOrString if first == 1 => utf8(third)?.into(),
        Special::IntOrString => second.cast_signed().into(),
        Special::Duration => duration(first.cast_signed()).into(),
        Special::SchemaOr => schema_or(name, bytes, depth)?,
    }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Special {
    Text,
    Raw,
    Items,
    Seconds,
    Micros,
    IntOrString,
    Duration,
    SchemaOr,
}

const SPECIAL: &[(&str, Special)] = &[
    ("Quantity", Special::Text),
    ("FieldsV1", Special::Raw),
    ("RawExtension", Special::Raw),
    ("JSON", Special::Raw),
    ("ExtraValue", Special::Items),
    ("Verbs", Special::Items),
    ("Time", Special::Seconds),
    ("MicroTime", Special::Micros),
    ("IntOrString", Special::IntOrString),
    ("Duration", Special::Duration),
    ("JSONSchemaPropsOrArray", Special::SchemaOr),
    ("JSONSchemaPropsOrBool", Special::SchemaOr),
    ("JSONSchemaPropsOrStringArray", Special::SchemaOr),
];

fn time(seconds: u64, nanos: u64, shape: Special) -> Value {
    if seconds == 0 && nanos == 0 {
        return Value::Null;
    }
    let nanos = i32::try_from(nanos).unwrap_or(0);
    match jiff::Timestamp::new(seconds.cast_signed(), nanos) {
        Ok(stamp) if shape == Special::Micros => crate::schema::micros(stamp).into(),
        Ok(stamp) => crate::schema::seconds(stamp).into(),
        Err(_) => Value::Null,
    }
}

/// Go's `time.Duration` text for whole seconds, else in nanoseconds.
fn duration(nanos: i64) -> String {
    if nanos % 1_000_000_000 == 0 { format!("{}s", nanos / 1_000_000_000) } else { format!("{nanos}ns") }
}

/// A schema, or the other thing that may stand in its place.
fn schema_or(name: &str, bytes: &[u8], depth: usize) -> Result<Value> {
    let mut reader = Reader { bytes };
    let (mut schema, mut other, mut many) = (None, None, Vec::new());
    while let Some((tag, wire)) = reader.field()? {
        let is_schema = match name.rsplit('.').next().unwrap_or(name) {
            "JSONSchemaPropsOrBool" => tag == 2,
            _ => tag == 1,
        };
        match wire {
            Wire::Bytes(bytes) if is_schema || name.ends_with("OrArray") => {
                let message =
                    proto::message("apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps");
                let Some(message) = message else { continue };
                let value = object(message, bytes, depth + 1)?;
                if is_schema { schema = Some(value) } else { many.push(value) }
            }
            Wire::Bytes(bytes) => many.push(utf8(bytes)?.into()),
            Wire::Varint(n) => other = Some(Value::Bool(n != 0)),
            Wire::Fixed64(_) | Wire::Fixed32 => {}
        }
    }
    Ok(match (schema, many.is_empty(), other) {
        (Some(schema), _, _) => schema,
        (None, false, _) => Value::Array(many),
        (None, true, Some(other)) => other,
        (None, true, None) => Value::Null,
    })
}

enum Wire<'b> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'b [u8]),
}

/// Reads one message's fields. Never past its end.
struct Reader<'b> {
    bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.bytes.split_first().ok_or_else(|| bad("unexpected EOF"))?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(bad("proto: integer overflow"))
    }

    fn take(&mut self, length: u64) -> Result<&'b [u8]> {
        let length = usize::try_from(length).map_err(|_| bad("unexpected EOF"))?;
        let (head, rest) = self.bytes.split_at_checked(length).ok_or_else(|| bad("unexpected EOF"))?;
        self.bytes = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<Option<(u32, Wire<'b>)>> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| bad("proto: illegal tag"))?;
        if tag == 0 {
            return Err(bad("proto: illegal tag 0"));
        }
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let mut bits = [0u8; 8];
                bits.copy_from_slice(self.take(8)?);
                Wire::Fixed64(u64::from_le_bytes(bits))
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            other => return Err(bad(format!("proto: illegal wireType {other}"))),
        };
        Ok(Some((tag, wire)))
    }
}
