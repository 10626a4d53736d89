//! A patched object as upstream's refusal quotes it. Upstream's patch library works on the object's JSON: what it opened
//! comes out as a map, with sorted keys; what it left alone as it was encoded, with fields in the order of Go's structs.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{LazyLock, Mutex, PoisonError},
};

use serde_json::{Map, Value};

use super::json::operations;
use crate::{
    proto::{self, Type},
    schema::{Schema, Shape},
};

static ORDER: LazyLock<HashMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    let lines = include_str!("../../tables/order.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(name, fields)| (name, fields.split(',').collect()))
        .collect()
});

/// The JSON names of a message's fields in the order of the Go struct's: that of the tags, where the table does not say
/// otherwise. Structs that JSON has inline stand where they are.
pub fn order(message: &'static str) -> &'static [&'static str] {
    static KNOWN: LazyLock<Mutex<HashMap<&str, &'static [&'static str]>>> = LazyLock::new(Mutex::default);
    if let Some(order) = ORDER.get(message) {
        return order;
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(message).or_insert_with(|| Vec::leak(by_tag(message)))
}

/// The same of the internal type: the table has what is not as in v1.
pub fn internal_order(message: &'static str) -> &'static [&'static str] {
    match message.strip_prefix("api.").and_then(|name| ORDER.get(format!("internal.{name}").as_str())) {
        Some(order) => order,
        None => order(message),
    }
}

fn by_tag(message: &str) -> Vec<&'static str> {
    let fields = proto::message(message).map_or(&[][..], |message| &message.fields);
    let mut out = Vec::with_capacity(fields.len());
    for field in fields {
        match field.kind {
            Type::Message(inner) if field.name == "~" => match ORDER.get(inner) {
                Some(order) => out.extend(order),
                None => out.extend(by_tag(inner)),
            },
            _ => out.push(field.name),
        }
    }
    out
}

/// The message of a schema's type.
pub fn message(schema: &Schema) -> Option<&'static str> {
    proto::message(schema.resolve().name.strip_prefix("io.k8s.")?).map(|message| message.name)
}

/// What a merge patch opens is what it says itself.
pub fn merged(schema: &Schema, patched: &Value, patch: &Value) -> String {
    encoded(schema, patched, patch)
}

/// What a JSON patch opens are the parents of what its operations name.
pub fn changed(schema: &Schema, patched: &Value, patch: &[u8]) -> String {
    let mut opened = Value::Object(Map::new());
    for operation in operations(patch).unwrap_or_default() {
        for pointer in ["path", "from"].iter().filter_map(|key| operation[key].as_str()) {
            let mut place = &mut opened;
            for step in pointer.split('/').skip(1) {
                let Value::Object(map) = place else { break };
                let step = step.replace("~1", "/").replace("~0", "~");
                place = map.entry(step).or_insert(Value::Null);
                if place.is_null() {
                    *place = Value::Object(Map::new());
                }
            }
        }
    }
    encoded(schema, patched, &close(opened))
}

/// The last steps are no parents.
fn close(opened: Value) -> Value {
    match opened {
        Value::Object(map) if map.is_empty() => Value::Null,
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, close(value))).collect(),
        other => other,
    }
}

fn encoded(schema: &Schema, patched: &Value, opened: &Value) -> String {
    let mut out = String::new();
    write(&mut out, Some(schema), patched, Some(opened));
    // As Go's encoder does for the sake of browsers. These characters occur in strings only.
    out.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn write(out: &mut String, schema: Option<&Schema>, value: &Value, opened: Option<&Value>) {
    let child = |key: &str| schema.and_then(|schema| schema.property(key));
    match (value, opened) {
        (Value::Object(map), Some(Value::Object(opened))) => {
            let fields = map.iter().map(|(key, value)| (key, value, child(key), opened.get(key)));
            object(out, fields);
        }
        (Value::Array(list), Some(Value::Object(opened))) => {
            let at = |i: usize| opened.get(&i.to_string());
            array(out, schema, list, at);
        }
        // The patch's own value.
        (value, Some(_)) => {
            let _ = write!(out, "{value}");
        }
        (Value::Object(map), None) => {
            let order =
                schema.filter(|s| matches!(s.resolve().shape, Shape::Object(_))).and_then(message).map(order);
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            if let Some(order) = order {
                // Types that no message has come first: `kind`, `apiVersion`.
                fields.sort_by_key(|(key, _)| {
                    let place = order.iter().position(|name| name == key);
                    (place.map_or(0, |place| place + 1), std::cmp::Reverse(*key))
                });
            }
            object(out, fields.into_iter().map(|(key, value)| (key, value, child(key), None)));
        }
        (Value::Array(list), None) => array(out, schema, list, |_| None),
        (value, None) => {
            let _ = write!(out, "{value}");
        }
    }
}

type Member<'a> = (&'a String, &'a Value, Option<&'a Schema>, Option<&'a Value>);

fn object<'a>(out: &mut String, fields: impl Iterator<Item = Member<'a>>) {
    out.push('{');
    for (i, (key, value, schema, opened)) in fields.enumerate() {
        if i > 0 {
            out.push(',');
        }
        let _ = write!(out, "{}:", Value::from(key.as_str()));
        write(out, schema, value, opened);
    }
    out.push('}');
}

fn array<'a>(
    out: &mut String,
    schema: Option<&Schema>,
    list: &[Value],
    opened: impl Fn(usize) -> Option<&'a Value>,
) {
    out.push('[');
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(out, schema.and_then(Schema::items), item, opened(i));
    }
    out.push(']');
}
