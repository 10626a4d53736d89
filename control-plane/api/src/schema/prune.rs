//! Fields that a type does not have.

use serde_json::Value;

use super::{Schema, Shape};
use crate::{decode::path_text, status::quoted};

/// How many unknown fields are named; all are dropped.
const MAX_NAMED: usize = 100;

/// Drops unknown fields and says which: `unknown field "spec.foo"`.
pub fn prune(schema: &Schema, v: &mut Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(schema, v, &mut Vec::new(), &mut found);
    found
}

fn walk(schema: &Schema, v: &mut Value, path: &mut Vec<String>, found: &mut Vec<String>) {
    let schema = schema.alternative(v).unwrap_or(schema).resolve();
    match (&schema.shape, v) {
        (Shape::Object(_), Value::Object(map)) => {
            map.retain(|key, value| match schema.field(key) {
                Some(property) => {
                    path.push(key.clone());
                    walk(&property.schema, value, path, found);
                    path.pop();
                    true
                }
                None => {
                    if found.len() < MAX_NAMED {
                        found.push(format!("unknown field {}", quoted(&path_text(path, key))));
                    }
                    false
                }
            });
        }
        (Shape::Map(values), Value::Object(map)) if has_fields(values) => {
            for (key, value) in map {
                path.push(key.clone());
                walk(values, value, path, found);
                path.pop();
            }
        }
        (Shape::Array(items), Value::Array(list)) if has_fields(items) => {
            for (i, item) in list.iter_mut().enumerate() {
                path.push(format!("[{i}]"));
                walk(items, item, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

fn has_fields(schema: &Schema) -> bool {
    matches!(schema.shape, Shape::Ref(_) | Shape::Object(_) | Shape::Map(_) | Shape::Array(_) | Shape::Any(_))
}
