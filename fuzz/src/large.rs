//! Every list and every map that an object may have, made as long as a body allows.

use std::{collections::HashSet, sync::LazyLock};

use fairlead_api::{
    kind::Kind,
    kinds,
    schema::{self, Schema, Shape},
};
use serde_json::{Map, Value, json};

/// A list or a map within a kind.
pub struct Place {
    pub kind: &'static Kind,
    /// The fields that lead there; `[]` goes into a list, `{}` into a map.
    pub path: Vec<&'static str>,
    leaf: &'static Schema,
}

/// Each list and map of each type once, in the first kind that has it, and again in the kinds with rules of their own
/// about it: those that have it nearest to their root.
pub static PLACES: LazyLock<Vec<Place>> = LazyLock::new(|| {
    let mut places = Vec::new();
    for kind in kinds::REGISTRY {
        let Some(schema) = schema::of(kind.schema) else { continue };
        walk(kind, schema, &mut Vec::new(), &mut HashSet::new(), &mut places);
    }
    places
});

/// Deeper places are those of types that other kinds have as well.
const DEPTH: usize = 9;

fn walk(
    kind: &'static Kind,
    schema: &'static Schema,
    path: &mut Vec<&'static str>,
    seen: &mut HashSet<String>,
    places: &mut Vec<Place>,
) {
    if path.len() > DEPTH {
        return;
    }
    let node = schema.resolve();
    match &node.shape {
        Shape::Object(properties) => {
            if !seen.insert(node.name.to_string()) {
                return;
            }
            for property in properties.iter().filter(|property| property.name != "status") {
                let Some(field) = node.field(&property.name) else { continue };
                path.push(field.name.as_ref());
                walk(kind, &field.schema, path, seen, places);
                path.pop();
            }
        }
        Shape::Array(items) | Shape::Map(items) => {
            // Metadata is the same everywhere.
            if path.first() != Some(&"metadata") || kind.kind == "ConfigMap" {
                places.push(Place { kind, path: path.clone(), leaf: schema });
            }
            path.push(if matches!(node.shape, Shape::Array(_)) { "[]" } else { "{}" });
            walk(kind, items, path, seen, places);
            path.pop();
        }
        _ => {}
    }
}

impl Place {
    /// An object that has `count` elements in this place: all alike, or all different.
    pub fn object(&self, count: usize, alike: bool) -> Value {
        let mut value = match &self.leaf.resolve().shape {
            Shape::Array(items) => (0..count).map(|i| element(items, if alike { 0 } else { i })).collect(),
            Shape::Map(values) => {
                Value::Object((0..count).map(|i| (format!("k{i}"), element(values, i))).collect())
            }
            _ => Value::Null,
        };
        for step in self.path.iter().rev() {
            value = match *step {
                "[]" => json!([value]),
                "{}" => json!({"k": value}),
                field => json!({field: value}),
            };
            if let Some(fields) = value.as_object_mut()
                && !fields.contains_key("name")
                && fields.contains_key("ports")
            {
                fields.insert("name".into(), "x".into());
            }
        }
        if !value["metadata"].is_object() {
            value["metadata"] = json!({});
        }
        value["metadata"]["name"] = "a".into();
        value["apiVersion"] = self.kind.api_version().into();
        value["kind"] = self.kind.kind.into();
        value
    }
}

fn element(schema: &Schema, i: usize) -> Value {
    match &schema.resolve().shape {
        Shape::Object(properties) => {
            let mut map = Map::new();
            for property in properties {
                let simple = !matches!(
                    property.schema.resolve().shape,
                    Shape::Object(_) | Shape::Array(_) | Shape::Map(_) | Shape::Any(_) | Shape::Opaque
                );
                let telling =
                    ["name", "key", "ip", "port", "containerPort", "mountPath", "type", "uid", "path"];
                if simple && (property.required || telling.contains(&property.name.as_ref())) {
                    map.insert(property.name.to_string(), element(&property.schema, i));
                }
            }
            Value::Object(map)
        }
        Shape::Array(_) => json!([]),
        Shape::Map(_) => json!({}),
        Shape::Int32 | Shape::Int64 | Shape::Number => (i % 60_000 + 1).into(),
        Shape::Boolean => true.into(),
        Shape::Quantity => format!("{i}").into(),
        Shape::Bytes => "AAAA".into(),
        Shape::Time | Shape::MicroTime => "2026-01-01T00:00:00Z".into(),
        _ => format!("x{i}").into(),
    }
}
