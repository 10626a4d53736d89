//! Objects under a schema: which paths they set, how two differ, how one is merged into another
//! (sigs.k8s.io/structured-merge-diff `typed`).

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::set::{Element, Set, field, shown};
use crate::schema::{Emit, ListType, Schema, Shape};

/// How a node is walked.
enum View<'s> {
    /// A scalar, or something that is only ever replaced as a whole.
    Leaf,
    /// A struct or map whose fields are told apart.
    Fields,
    /// A list whose elements are told apart.
    List(&'s Schema, &'s ListType),
}

fn view(schema: &Schema) -> View<'_> {
    match &schema.resolve().shape {
        Shape::Object(_) | Shape::Map(_) if schema.is_atomic() => View::Leaf,
        Shape::Object(_) | Shape::Map(_) => View::Fields,
        Shape::Array(items) => match &schema.merge.list {
            Some(list @ (ListType::Set | ListType::Map(_))) => View::List(items, list),
            _ => View::Leaf,
        },
        _ => View::Leaf,
    }
}

/// The node that a step leads to; the second is whether the step is a declared field of a struct.
fn child<'s>(schema: &'s Schema, element: &str) -> (Option<&'s Schema>, bool) {
    match element.split_once(':') {
        Some(("f", name)) => (schema.property(name), schema.field(name).is_some()),
        _ => (schema.items(), false),
    }
}

/// The step that leads to a list's element. An element without its keys has none.
fn element_of(items: &Schema, list: &ListType, item: &Value) -> Result<Element, String> {
    let ListType::Map(keys) = list else { return Ok(format!("v:{item}")) };
    let Some(map) = item.as_object() else {
        return Err("associative list with keys may not have non-map elements".into());
    };
    let mut found = Map::new();
    for key in keys {
        let value = match map.get(key.as_ref()) {
            Some(value) => value.clone(),
            None => default_key(items, key).ok_or_else(|| {
                format!(
                    "associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
                )
            })?,
        };
        found.insert(key.to_string(), value);
    }
    Ok(format!("k:{}", Value::Object(found)))
}

/// What an absent key stands for.
fn default_key(items: &Schema, key: &str) -> Option<Value> {
    if key == "protocol" {
        return Some("TCP".into());
    }
    let property = items.field(key)?;
    match (property.emit, &property.schema.shape) {
        (Emit::Always, Shape::String) => Some("".into()),
        (Emit::Always, Shape::Int32 | Shape::Int64) => Some(0.into()),
        _ => None,
    }
}

/// What is wrong with an object that somebody applies, in upstream's words.
pub fn validate(schema: &Schema, value: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    check(schema, value, "", &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

/// Go's `%#v` of a decoded value inside the library's wrapper.
fn go_value(value: &Value) -> String {
    let inner = match value {
        Value::Object(_) => format!("map[string]interface {{}}{value}"),
        Value::Array(_) => format!("[]interface {{}}{value}"),
        other => other.to_string(),
    };
    format!("&value.valueUnstructured{{Value:{inner}}}")
}

fn check(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let mut expected = |what: &str| errors.push(format!("{path}: expected {what}, got {}", go_value(value)));
    match (&schema.resolve().shape, value) {
        (Shape::Object(_), Value::Object(map)) => {
            for (key, value) in map {
                match schema.field(key) {
                    Some(property) => check(&property.schema, value, &format!("{path}.{key}"), errors),
                    None => errors.push(format!("{path}.{key}: field not declared in schema")),
                }
            }
        }
        (Shape::Map(values), Value::Object(map)) => {
            map.iter().for_each(|(key, value)| check(values, value, &format!("{path}.{key}"), errors));
        }
        (Shape::Object(_) | Shape::Map(_), _) => expected("map"),
        (Shape::Array(_), Value::Array(list)) => check_list(schema, list, path, errors),
        (Shape::Array(_), _) => expected("list"),
        (Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime, Value::String(_)) => {}
        (Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime, _) => expected("string"),
        (Shape::Int32 | Shape::Int64 | Shape::Number, Value::Number(_)) => {}
        (Shape::Int32 | Shape::Int64 | Shape::Number, _) => expected("numeric (int or float)"),
        (Shape::Boolean, Value::Bool(_)) => {}
        (Shape::Boolean, _) => expected("boolean"),
        _ => {}
    }
}

fn check_list(schema: &Schema, list: &[Value], path: &str, errors: &mut Vec<String>) {
    let Some(items) = schema.items() else { return };
    let known = match view(schema) {
        View::List(_, list) => Some(list),
        _ => None,
    };
    let mut seen = HashSet::new();
    for (i, item) in list.iter().enumerate() {
        let step = match known.map(|list| element_of(items, list, item)) {
            Some(Ok(element)) => {
                let step = shown(&element);
                if !seen.insert(element) {
                    errors.push(format!("{path}: duplicate entries for key {step}"));
                }
                step
            }
            Some(Err(words)) => {
                errors.push(format!("{path}: element {i}: {words}"));
                continue;
            }
            None => format!("[{i}]"),
        };
        check(items, item, &format!("{path}{step}"), errors);
    }
}

/// The paths that an applied object sets.
pub fn to_set(schema: &Schema, value: &Value) -> Set {
    let mut set = Set::default();
    collect(schema, value, &mut Vec::new(), &mut set);
    set
}

fn collect(schema: &Schema, value: &Value, path: &mut Vec<Element>, set: &mut Set) {
    match (view(schema), value) {
        (View::Leaf, _) => set.insert(path),
        (View::Fields, Value::Object(map)) => {
            for (key, value) in map {
                path.push(field(key));
                let (node, declared) = match schema.property(key) {
                    Some(node) => (node, schema.field(key).is_some()),
                    None => {
                        set.insert(path);
                        path.pop();
                        continue;
                    }
                };
                collect(node, value, path, set);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || !declared {
                    set.insert(path);
                }
                path.pop();
            }
        }
        (View::List(items, list), Value::Array(values)) => {
            for value in values {
                let Ok(element) = element_of(items, list, value) else { continue };
                path.push(element);
                collect(items, value, path, set);
                set.insert(path);
                path.pop();
            }
        }
        (View::Fields | View::List(..), _) => {}
    }
}

/// How two objects differ.
#[derive(Default, Debug)]
pub struct Difference {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Difference {
    /// Without what lies under these paths.
    pub fn without(self, reset: &Set) -> Self {
        Difference {
            added: self.added.without_trees(reset),
            modified: self.modified.without_trees(reset),
            removed: self.removed.without_trees(reset),
        }
    }
}

/// From `old` to `new`.
pub fn compare(schema: &Schema, old: &Value, new: &Value) -> Difference {
    let mut difference = Difference::default();
    differ(schema, Some(old), Some(new), &mut Vec::new(), &mut difference);
    difference
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

fn differ(
    schema: &Schema,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<Element>,
    out: &mut Difference,
) {
    let leaf = matches!(view(schema), View::Leaf) || (is_empty(old) && is_empty(new));
    match (old, new) {
        (None, None) => return,
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        (Some(old), Some(new)) if leaf && old != new => out.modified.insert(path),
        _ => {}
    }
    if leaf {
        return;
    }
    match view(schema) {
        View::Leaf => {}
        View::Fields => {
            let map = |v: Option<&Value>| v.and_then(Value::as_object).cloned().unwrap_or_default();
            let (old, new) = (map(old), map(new));
            let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let Some(node) = schema.property(key) else { continue };
                path.push(field(key));
                differ(node, old.get(key), new.get(key), path, out);
                path.pop();
            }
        }
        View::List(items, list) => {
            let (old, new) = (index(items, list, old), index(items, list, new));
            for (element, value) in &old {
                path.push(element.clone());
                differ(items, Some(value), find(&new, element), path, out);
                path.pop();
            }
            for (element, value) in new.iter().filter(|(e, _)| find(&old, e).is_none()) {
                path.push(element.clone());
                differ(items, None, Some(value), path, out);
                path.pop();
            }
        }
    }
}

/// A list's elements by their steps. Elements without keys are left out; of equal ones the first counts.
fn index(items: &Schema, list: &ListType, value: Option<&Value>) -> Vec<(Element, Value)> {
    let mut seen = HashSet::new();
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|item| element_of(items, list, item).ok().map(|element| (element, item.clone())))
        .filter(|(element, _)| seen.insert(element.clone()))
        .collect()
}

fn find<'v>(list: &'v [(Element, Value)], element: &str) -> Option<&'v Value> {
    list.iter().find(|(e, _)| e == element).map(|(_, value)| value)
}

/// `applied` laid over `live`.
pub fn merge(schema: &Schema, live: &Value, applied: &Value) -> Value {
    match (view(schema), live, applied) {
        (View::Fields, Value::Object(live), Value::Object(applied)) => {
            let mut out = live.clone();
            for (key, value) in applied {
                let merged = match (schema.property(key), live.get(key)) {
                    (Some(node), Some(old)) => merge(node, old, value),
                    _ => value.clone(),
                };
                out.insert(key.clone(), merged);
            }
            Value::Object(out)
        }
        (View::List(items, list), Value::Array(_), Value::Array(_)) => {
            Value::Array(merge_list(items, list, live, applied))
        }
        // Null says nothing about a list or struct that has content.
        (View::Fields | View::List(..), live, Value::Null) if !is_empty(Some(live)) => live.clone(),
        _ => applied.clone(),
    }
}

/// Elements that only `live` has keep their place; the others stand in the order of `applied`.
fn merge_list(items: &Schema, list: &ListType, live: &Value, applied: &Value) -> Vec<Value> {
    let (left, right) = (index(items, list, Some(live)), index(items, list, Some(applied)));
    let mut shared = right.iter().map(|(e, _)| e).filter(|e| find(&left, e).is_some());
    let mut next_shared = shared.next();
    let mut done: HashSet<&Element> = HashSet::new();
    let mut out = Vec::with_capacity(left.len().max(right.len()));
    let (mut l, mut r) = (0, 0);
    let join = |element: &Element, value: &Value| match find(&left, element) {
        Some(old) => merge(items, old, value),
        None => value.clone(),
    };
    while l < left.len() || r < right.len() {
        if let (Some((element, _)), Some((other, value))) = (left.get(l), right.get(r)) {
            if element == other {
                done.insert(other);
                out.push(join(other, value));
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if find(&right, element).is_some() && next_shared.is_some_and(|next| next != element) {
                // Shared, but its turn has not come.
                l += 1;
                continue;
            }
        }
        if let Some((element, value)) = left.get(l) {
            if find(&right, element).is_none() {
                out.push(value.clone());
                l += 1;
                continue;
            }
            if done.contains(element) {
                l += 1;
            }
        }
        if let Some((element, value)) = right.get(r) {
            done.insert(element);
            out.push(join(element, value));
            r += 1;
            if next_shared == Some(element) {
                next_shared = shared.next();
            }
        }
    }
    out
}

/// `value` without the paths of `set`. Containers that lose everything become null.
pub fn remove(schema: &Schema, value: &Value, set: &Set) -> Value {
    match (view(schema), value) {
        (View::Fields, Value::Object(map)) if !map.is_empty() => {
            let mut out = Map::new();
            for (key, value) in map {
                let element = field(key);
                if set.has(&element) {
                    continue;
                }
                let value = match (set.below(&element), schema.property(key)) {
                    (Some(below), Some(node)) => remove(node, value, below),
                    _ => value.clone(),
                };
                out.insert(key.clone(), value);
            }
            if out.is_empty() { Value::Null } else { Value::Object(out) }
        }
        (View::List(items, list), Value::Array(values)) if !values.is_empty() => {
            let mut out = Vec::new();
            for value in values {
                let Ok(element) = element_of(items, list, value) else {
                    out.push(value.clone());
                    continue;
                };
                if set.has(&element) {
                    continue;
                }
                out.push(match set.below(&element) {
                    Some(below) => remove(items, value, below),
                    None => value.clone(),
                });
            }
            if out.is_empty() { Value::Null } else { Value::Array(out) }
        }
        _ => value.clone(),
    }
}

/// `set` with every declared field that it reaches through as a member of its own.
pub fn named_members(schema: &Schema, set: &Set) -> Set {
    set.with_members(Some(schema), &|at: Option<&Schema>, element: &str| match at {
        Some(schema) => {
            let (node, declared) = child(schema, element);
            (declared, node)
        }
        None => (false, None),
    })
}
