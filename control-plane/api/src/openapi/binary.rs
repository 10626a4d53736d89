//! The v2 document as protobuf: gnostic's `openapi.v2.Document`, which older clients ask for alone.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::encode::{bytes_field, varint_field};

/// The messages as `name: field tag type`, with the document's JSON names. Types: `s` text, `S` list of texts, `b` bool,
/// `i` integer, `a` any value (as YAML), `A` list of any values, `m:X` message, `M:X` list of messages, `n:X` the named
/// messages of a map. A field `*` is all that no other field takes, `x-` the extensions; `(X)` is what the function of
/// that name chooses.
const MESSAGES: &str = "
Document: swagger 1 s, info 2 m:Info, host 3 s, basePath 4 s, schemes 5 S, consumes 6 S, produces 7 S, paths 8 m:Paths, definitions 9 m:Schemas, securityDefinitions 13 m:SecurityDefinitions, x- 16
Info: title 1 s, version 2 s, description 3 s, x- 7
Paths: x- 1, * 2 n:PathItem
Schemas: * 1 n:Schema
SecurityDefinitions: * 1 n:SecurityItem
SecurityItem: (apiKey) 2 m:ApiKey
ApiKey: type 1 s, name 2 s, in 3 s, description 4 s, x- 5
PathItem: get 2 m:Operation, put 3 m:Operation, post 4 m:Operation, delete 5 m:Operation, options 6 m:Operation, head 7 m:Operation, patch 8 m:Operation, parameters 9 M:ParametersItem, x- 10
Operation: tags 1 S, summary 2 s, description 3 s, operationId 5 s, produces 6 S, consumes 7 S, parameters 8 M:ParametersItem, responses 9 m:Responses, schemes 10 S, deprecated 11 b, x- 13
ParametersItem: (reference) 2 m:Reference, (else) 1 m:Parameter
Parameter: (body) 1 m:BodyParameter, (else) 2 m:OtherParameter
OtherParameter: (header) 1 m:HeaderParameter, (query) 3 m:QueryParameter, (path) 4 m:HeaderParameter
BodyParameter: description 1 s, name 2 s, in 3 s, required 4 b, schema 5 m:Schema, x- 6
HeaderParameter: required 1 b, in 2 s, description 3 s, name 4 s, type 5 s, format 6 s, default 9 a, pattern 16 s, uniqueItems 19 b, enum 20 A, x- 22
QueryParameter: required 1 b, in 2 s, description 3 s, name 4 s, type 6 s, format 7 s, default 10 a, pattern 17 s, uniqueItems 20 b, enum 21 A, x- 23
Responses: x- 2, * 1 n:ResponseValue
ResponseValue: (reference) 2 m:Reference, (else) 1 m:Response
Response: description 1 s, schema 2 m:SchemaItem, x- 5
SchemaItem: (else) 1 m:Schema
Reference: $ref 1 s, description 2 s
Schema: $ref 1 s, format 2 s, title 3 s, description 4 s, default 5 a, maxLength 11 i, minLength 12 i, pattern 13 s, maxItems 14 i, minItems 15 i, uniqueItems 16 b, maxProperties 17 i, minProperties 18 i, required 19 S, enum 20 A, additionalProperties 21 m:AdditionalItem, type 22 m:TypeItem, items 23 m:SchemaItem, allOf 24 M:Schema, properties 25 m:Schemas, readOnly 27 b, example 30 a, x- 31
AdditionalItem: (boolean) 2 b, (else) 1 m:Schema
TypeItem: (else) 1 S
";

struct Field {
    name: &'static str,
    tag: u32,
    shape: &'static str,
}

static TABLE: LazyLock<HashMap<&'static str, Vec<Field>>> =
    LazyLock::new(|| MESSAGES.lines().filter_map(message).collect());

fn message(line: &'static str) -> Option<(&'static str, Vec<Field>)> {
    let (name, fields) = line.split_once(": ")?;
    let field = |text: &'static str| {
        let mut parts = text.split(' ');
        let (name, tag) = (parts.next()?, parts.next()?.parse().ok()?);
        Some(Field { name, tag, shape: parts.next().unwrap_or_default() })
    };
    Some((name, fields.split(", ").filter_map(field).collect()))
}

/// The bytes of the document that [`super::v2`] makes.
pub fn v2(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write("Document", document, &mut out);
    out
}

/// Whether the choice of this name is the one for a value.
fn chosen(choice: &str, value: &Value) -> bool {
    let is = |field: &str, text: &str| value.get(field).and_then(Value::as_str) == Some(text);
    match choice {
        "apiKey" => is("type", "apiKey"),
        "reference" => value.get("$ref").is_some(),
        "boolean" => value.is_boolean(),
        "else" => true,
        place => is("in", place),
    }
}

fn write(message: &str, value: &Value, out: &mut Vec<u8>) {
    let fields = TABLE.get(message).map(Vec::as_slice).unwrap_or_default();
    for field in fields {
        if let Some(choice) = field.name.strip_prefix('(').and_then(|name| name.strip_suffix(')')) {
            if chosen(choice, value) {
                one(field, value, out);
                return;
            }
            continue;
        }
        match (field.name, value.as_object()) {
            ("x-", Some(map)) => extensions(field.tag, map, out),
            ("*", Some(map)) => {
                let rest = map.iter().filter(|(key, _)| !key.starts_with("x-"));
                let inner = field.shape.strip_prefix("n:").unwrap_or_default();
                for (key, value) in rest {
                    named(field.tag, key, out, |out| write(inner, value, out));
                }
            }
            (name, Some(map)) => {
                if let Some(value) = map.get(name) {
                    one(field, value, out);
                }
            }
            _ => {}
        }
    }
}

/// An entry of a map: its key, and what `content` writes.
fn named(tag: u32, key: &str, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let (mut entry, mut inner) = (Vec::new(), Vec::new());
    content(&mut inner);
    bytes_field(&mut entry, 1, key.as_bytes());
    bytes_field(&mut entry, 2, &inner);
    bytes_field(out, tag, &entry);
}

fn extensions(tag: u32, map: &Map<String, Value>, out: &mut Vec<u8>) {
    for (key, value) in map.iter().filter(|(key, _)| key.starts_with("x-")) {
        named(tag, key, out, |out| any(value, out));
    }
}

/// Any value stands as YAML, which JSON is.
fn any(value: &Value, out: &mut Vec<u8>) {
    bytes_field(out, 2, format!("{value}\n").as_bytes());
}

fn one(field: &Field, value: &Value, out: &mut Vec<u8>) {
    let nested = |value: &Value, out: &mut Vec<u8>, content: &dyn Fn(&Value, &mut Vec<u8>)| {
        let mut inner = Vec::new();
        content(value, &mut inner);
        bytes_field(out, field.tag, &inner);
    };
    match (field.shape, value) {
        ("s" | "S", Value::String(text)) => bytes_field(out, field.tag, text.as_bytes()),
        ("b", Value::Bool(true)) => varint_field(out, field.tag, 1),
        // In a choice, false says something.
        ("b", Value::Bool(false)) if field.name.starts_with('(') => varint_field(out, field.tag, 0),
        ("i", Value::Number(n)) => varint_field(out, field.tag, n.as_i64().unwrap_or_default()),
        ("S", Value::Array(items)) => {
            items
                .iter()
                .filter_map(Value::as_str)
                .for_each(|item| bytes_field(out, field.tag, item.as_bytes()));
        }
        ("a", value) => nested(value, out, &any),
        ("A", Value::Array(items)) => items.iter().for_each(|item| nested(item, out, &any)),
        (shape, value) => match (shape.split_once(':'), value) {
            (Some(("m", name)), value) => nested(value, out, &|v, out| write(name, v, out)),
            (Some(("M", name)), Value::Array(items)) => {
                items.iter().for_each(|item| nested(item, out, &|v, out| write(name, v, out)));
            }
            _ => {}
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_has_the_bytes_of_the_message() {
        let document = json!({
            "swagger": "2.0",
            "definitions": {"T": {"type": "string", "x-k": {"a": "b"}}},
        });
        let schema = b"\xb2\x01\x08\x0a\x06string\xfa\x01\x13\x0a\x03x-k\x12\x0c\x12\x0a{\"a\":\"b\"}\n";
        let mut named = b"\x0a\x01T\x12".to_vec();
        named.push(schema.len() as u8);
        named.extend_from_slice(schema);
        let mut want = b"\x0a\x032.0\x4a".to_vec();
        want.push(named.len() as u8 + 2);
        want.extend_from_slice(&[0x0a, named.len() as u8]);
        want.extend_from_slice(&named);
        assert_eq!(v2(&document), want);
    }

    #[test]
    fn choices_follow_the_value() {
        let mut out = Vec::new();
        write("ParametersItem", &json!({"in": "query", "name": "q", "type": "string"}), &mut out);
        assert_eq!(out, b"\x0a\x16\x12\x14\x1a\x12\x12\x05query\x22\x01q\x32\x06string");
        let mut out = Vec::new();
        write("Responses", &json!({"401": {"description": "no"}}), &mut out);
        assert_eq!(out, b"\x0a\x0d\x0a\x03401\x12\x06\x0a\x04\x0a\x02no");
    }
}
