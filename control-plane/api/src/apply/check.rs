//! What is wrong with an object that somebody applies, in upstream's words
//! (sigs.k8s.io/structured-merge-diff `typed/validate.go`).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{set::shown, typed::element_of};
use crate::{
    patch::go_text,
    schema::{ListType, Schema, Shape},
    status::quoted,
};

/// How many things are said at most.
const MAX_SAID: usize = 100;

/// Checks the types, the declared fields and the keys of lists.
pub fn validate(schema: &Schema, value: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    check(schema, value, "", &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn say(errors: &mut Vec<String>, path: &str, words: &str) {
    if errors.len() < MAX_SAID {
        errors.push(if path.is_empty() { words.into() } else { format!("{path}: {words}") });
    }
}

/// Go's `%#v` of a decoded value.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::String(text) => quoted(text),
        Value::Array(list) => {
            format!("[]interface {{}}{{{}}}", list.iter().map(go_syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(map) => {
            let fields: Vec<String> =
                map.iter().map(|(k, v)| format!("{}:{}", quoted(k), go_syntax(v))).collect();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

/// Go's `%T` of a decoded value.
fn go_type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn check(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<String>) {
    if value.is_null() || errors.len() >= MAX_SAID {
        return;
    }
    // The value stands inside the library's wrapper, a pointer to a struct of one field.
    let plain = || format!("&{{{}}}", go_text(value));
    let words = match (&schema.resolve().shape, value) {
        (Shape::Object(_), Value::Object(map)) => return check_struct(schema, map, path, errors),
        (Shape::Map(values), Value::Object(map)) => {
            return map
                .iter()
                .for_each(|(key, value)| check(values, value, &format!("{path}.{key}"), errors));
        }
        (Shape::Array(_), Value::Array(list)) => return check_list(schema, list, path, errors),
        (Shape::Object(_) | Shape::Map(_), _) => format!("expected map, got {}", plain()),
        (Shape::Array(_), _) => format!("expected list, got {}", plain()),
        (Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime, Value::String(_)) => return,
        (Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime, _) => {
            format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(value))
        }
        (Shape::Int32 | Shape::Int64 | Shape::Number, Value::Number(_)) => return,
        (Shape::Int32 | Shape::Int64 | Shape::Number, _) => {
            format!("expected numeric (int or float), got {}", go_type_of(value))
        }
        (Shape::Boolean, Value::Bool(_)) => return,
        (Shape::Boolean, _) => format!("expected boolean, got {}", plain()),
        (Shape::Quantity | Shape::IntOrString, Value::Array(_) | Value::Object(_)) => {
            format!("expected any scalar, got {}", plain())
        }
        _ => return,
    };
    say(errors, path, &words);
}

fn check_struct(schema: &Schema, map: &Map<String, Value>, path: &str, errors: &mut Vec<String>) {
    for (key, value) in map {
        let path = format!("{path}.{key}");
        match schema.field(key) {
            Some(property) => check(&property.schema, value, &path, errors),
            // The first unknown field ends the look at a struct.
            None => return say(errors, &path, "field not declared in schema"),
        }
    }
}

fn check_list(schema: &Schema, list: &[Value], path: &str, errors: &mut Vec<String>) {
    let Some(items) = schema.items() else { return };
    let known = match &schema.merge.list {
        Some(list @ (ListType::Set | ListType::Map(_))) => Some(list),
        _ => None,
    };
    let mut seen = HashSet::new();
    for (i, item) in list.iter().enumerate() {
        let step = match known.map(|list| element_of(items, list, item)) {
            Some(Ok(element)) => {
                let step = shown(&element);
                if !seen.insert(element) {
                    say(errors, path, &format!("duplicate entries for key {step}"));
                }
                step
            }
            // The first element that cannot be told apart ends the look at a list.
            Some(Err(words)) => return say(errors, path, &format!("element {i}: {words}")),
            None => format!("[{i}]"),
        };
        check(items, item, &format!("{path}{step}"), errors);
    }
}
