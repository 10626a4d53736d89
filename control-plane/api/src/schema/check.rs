//! Wrong JSON types, in the words of Go's decoder.

use serde_json::{Number, Value};

use super::{Property, Schema, Shape, go_type, quantity};
use crate::{decode::json_type, status::quoted};

/// The first value whose type does not fit.
pub fn check(schema: &Schema, v: &Value) -> Result<(), String> {
    Walk { owner: "", fields: Vec::new(), converted: false }.node(schema, v)
}

/// The same in the words of upstream's converter, which makes objects of what strategic merge patches leave.
pub fn check_converted(schema: &Schema, v: &Value) -> Result<(), String> {
    Walk { owner: "", fields: Vec::new(), converted: true }.node(schema, v)
}

/// Where the walk is: the struct it is in and the fields that led here (list indices and map keys do not count).
struct Walk<'s> {
    owner: &'s str,
    fields: Vec<&'s str>,
    /// Speaks as the converter does.
    converted: bool,
}

impl<'s> Walk<'s> {
    fn mismatch(&self, what: &str, schema: &Schema, v: &Value) -> String {
        if self.converted {
            return unconverted(schema, v);
        }
        let wanted = go_type(schema);
        if self.fields.is_empty() {
            return format!("json: cannot unmarshal {what} into Go value of type {wanted}");
        }
        let path = self.fields.join(".");
        format!("json: cannot unmarshal {what} into Go struct field {}.{path} of type {wanted}", self.owner)
    }

    fn node(&mut self, schema: &'s Schema, v: &Value) -> Result<(), String> {
        if v.is_null() {
            return Ok(());
        }
        let refuse = |walk: &Self| Err(walk.mismatch(json_type(v), schema, v));
        match (&schema.shape, v) {
            (Shape::Any(_), _) => match schema.alternative(v) {
                Some(node) => self.node(node, v),
                None if schema.is_schema_or_bool() && !v.is_boolean() => {
                    Err("boolean or JSON schema expected".into())
                }
                None => Ok(()),
            },
            (Shape::Opaque, _) => Ok(()),
            (Shape::Ref(_), _) => match schema.resolve() {
                node if matches!(node.shape, Shape::Ref(_)) => Ok(()),
                node if v.is_object() => self.node(node, v),
                _ => refuse(self),
            },
            (Shape::Object(properties), Value::Object(_)) => self.object(schema, properties, v),
            (Shape::Map(values), Value::Object(map)) => {
                map.values().try_for_each(|value| self.node(values, value))
            }
            (Shape::Array(items), Value::Array(list)) => {
                list.iter().try_for_each(|item| self.node(items, item))
            }
            (Shape::String, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) => Ok(()),
            (Shape::Number, Value::Number(_)) => Ok(()),
            (Shape::Int32 | Shape::Int64, Value::Number(n)) if fits(&schema.shape, n) => Ok(()),
            (Shape::Int32 | Shape::Int64, Value::Number(n)) => {
                Err(self.mismatch(&format!("number {n}"), schema, v))
            }
            (Shape::Bytes, Value::String(text)) if self.converted => {
                base64(text).map_err(|words| format!("error decoding from json: {words}"))
            }
            (Shape::Bytes, Value::String(text)) => base64(text),
            (Shape::Quantity, _) => quantity_value(v),
            (Shape::Time, _) => time(v, "2006-01-02T15:04:05Z07:00"),
            (Shape::MicroTime, _) => time(v, "2006-01-02T15:04:05.000000Z07:00"),
            (Shape::IntOrString, _) => int_or_string(v),
            _ => refuse(self),
        }
    }

    fn object(&mut self, schema: &'s Schema, properties: &'s [Property], v: &Value) -> Result<(), String> {
        let outer = self.owner;
        let name: &'s str = &schema.name;
        for property in properties {
            let Some(value) = v.get(property.name.as_ref()) else { continue };
            self.owner = name.rsplit('.').next().unwrap_or(name);
            self.fields.push(&property.name);
            self.node(&property.schema, value)?;
            self.fields.pop();
        }
        self.owner = outer;
        Ok(())
    }
}

/// What the converter says: containers it cannot restore, scalars it does not know how to make of others. Go turns whole
/// numbers into texts and into each other; the converter knows, and refuses.
fn unconverted(schema: &Schema, v: &Value) -> String {
    let from = match v {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    };
    match (&schema.resolve().shape, v) {
        (Shape::Object(_) | Shape::Ref(_), _) => format!("cannot restore struct from: {from}"),
        (Shape::Map(_), _) => format!("cannot restore map from {from}"),
        (Shape::Array(_) | Shape::Bytes, _) => format!("cannot restore slice from {from}"),
        (Shape::String, Value::Number(n)) if !n.is_f64() => "cannot convert int64 to string".into(),
        (Shape::Int32 | Shape::Int64, Value::Number(_)) => {
            format!("cannot convert {from} to {}", go_type(schema))
        }
        _ => format!("unrecognized type: {}", go_type(schema)),
    }
}

fn fits(shape: &Shape, n: &Number) -> bool {
    match (shape, n.as_i64()) {
        (_, None) => false,
        (Shape::Int32, Some(i)) => i32::try_from(i).is_ok(),
        (_, Some(_)) => true,
    }
}

fn base64(text: &str) -> Result<(), String> {
    use base64::{DecodeError, Engine as _, engine::general_purpose::STANDARD};
    let clean: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    match STANDARD.decode(clean.as_bytes()) {
        Ok(_) => Ok(()),
        Err(DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _)) => {
            Err(format!("illegal base64 data at input byte {at}"))
        }
        Err(_) => {
            // Go names the start of the incomplete group.
            let solid = clean.trim_end_matches('=').len();
            Err(format!("illegal base64 data at input byte {}", solid - solid % 4))
        }
    }
}

fn quantity_value(v: &Value) -> Result<(), String> {
    let text = match v {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    quantity::canonical(&text).map(|_| ()).ok_or_else(|| quantity::FORMAT.into())
}

fn time(v: &Value, layout: &str) -> Result<(), String> {
    let Some(text) = v.as_str() else {
        return Err(format!("json: cannot unmarshal {} into Go value of type string", json_type(v)));
    };
    match super::normalize::timestamp(text) {
        Some(_) => Ok(()),
        None => {
            let stamp = quoted(text);
            Err(format!("parsing time {stamp} as {}: cannot parse {stamp} as \"2006\"", quoted(layout)))
        }
    }
}

fn int_or_string(v: &Value) -> Result<(), String> {
    match v {
        Value::String(_) => Ok(()),
        Value::Number(n) if fits(&Shape::Int32, n) => Ok(()),
        Value::Number(n) => Err(format!("json: cannot unmarshal number {n} into Go value of type int32")),
        other => Err(format!("json: cannot unmarshal {} into Go value of type int32", json_type(other))),
    }
}
