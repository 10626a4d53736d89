//! Objects under a schema: which paths they set, how two differ, how one is merged into another
//! (sigs.k8s.io/structured-merge-diff `typed`).

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::set::{Element, Set, field};
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

/// The step that leads to a list's element.
pub(super) fn element_of(items: &Schema, list: &ListType, item: &Value) -> Result<Element, String> {
    let ListType::Map(keys) = list else {
        let kind = match item {
            Value::Object(_) => "associative list without keys has an element that's a map type",
            Value::Array(_) => "not supported: associative list with lists as elements",
            Value::Null => "associative list without keys has an element that's an explicit null",
            _ => return Ok(format!("v:{item}")),
        };
        return Err(kind.into());
    };
    let map = match item {
        Value::Object(map) => map,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let mut found = Map::new();
    for key in keys {
        // An element without one of its keys is another one than those that have it.
        if let Some(value) = map.get(key.as_ref()).cloned().or_else(|| default_key(items, key)) {
            found.insert(key.to_string(), value);
        }
    }
    if found.is_empty() {
        let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            keys.join(" ")
        ));
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

/// Equal as values: numbers by what they count, whatever they are written like.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((k, v), (l, w))| k == l && equal(v, w))
        }
        (a, b) => a == b,
    }
}

/// The paths that an object sets.
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
                if let Some(node) = schema.property(key) {
                    collect(node, value, path, set);
                }
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || schema.field(key).is_none() {
                    set.insert(path);
                }
                path.pop();
            }
        }
        (View::List(items, list), Value::Array(values)) => {
            let elements: Vec<Option<Element>> =
                values.iter().map(|value| element_of(items, list, value).ok()).collect();
            let mut times: HashMap<&Element, usize> = HashMap::new();
            elements.iter().flatten().for_each(|element| *times.entry(element).or_default() += 1);
            for (value, element) in values.iter().zip(&elements) {
                let Some(element) = element else { continue };
                path.push(element.clone());
                // Of an element that comes twice, only that it is there can be owned.
                if times.get(element) == Some(&1) {
                    collect(items, value, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        (View::Fields | View::List(..), _) => {}
    }
}

/// How two objects differ.
#[derive(Clone, Default, Debug)]
pub struct Difference {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Difference {
    /// Each part through a filter.
    pub fn map(self, filter: impl Fn(&Set) -> Set) -> Self {
        Difference {
            added: filter(&self.added),
            modified: filter(&self.modified),
            removed: filter(&self.removed),
        }
    }

    /// What the newer object sets.
    pub fn taken(&self) -> Set {
        self.added.union(&self.modified)
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
    let view = view(schema);
    let leaf = matches!(view, View::Leaf) || (is_empty(old) && is_empty(new));
    match (old, new) {
        (None, None) => return,
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        (Some(old), Some(new)) if leaf && !equal(old, new) => out.modified.insert(path),
        _ => {}
    }
    if leaf {
        return;
    }
    match view {
        View::Leaf => {}
        View::Fields => {
            let empty = Map::new();
            let old = old.and_then(Value::as_object).unwrap_or(&empty);
            let new = new.and_then(Value::as_object).unwrap_or(&empty);
            let only_new = new.keys().filter(|key| !old.contains_key(*key));
            for key in old.keys().chain(only_new) {
                let Some(node) = schema.property(key) else { continue };
                path.push(field(key));
                differ(node, old.get(key), new.get(key), path, out);
                path.pop();
            }
        }
        View::List(items, list) => {
            let (order, old, new) = pair(items, list, old, new);
            for element in order {
                let side = |map: &HashMap<Element, Vec<&Value>>| map.get(&element).map_or(0, Vec::len);
                let (before, after) = (side(&old), side(&new));
                let (old, new) = (old.get(&element), new.get(&element));
                path.push(element);
                match (before, after) {
                    (0 | 1, 0 | 1) => differ(items, first(old), first(new), path, out),
                    (2.., 2..) if old != new => out.modified.insert(path),
                    (2.., 2..) => {}
                    (2.., _) => {
                        differ(items, None, first(new), path, out);
                        out.removed.insert(path);
                    }
                    (_, _) => {
                        differ(items, first(old), None, path, out);
                        out.added.insert(path);
                    }
                }
                path.pop();
            }
        }
    }
}

fn first<'v>(side: Option<&Vec<&'v Value>>) -> Option<&'v Value> {
    side.and_then(|list| list.first().copied())
}

type Grouped<'v> = HashMap<Element, Vec<&'v Value>>;

/// The elements of two lists by their steps, and every step once.
fn pair<'v>(
    items: &Schema,
    list: &ListType,
    old: Option<&'v Value>,
    new: Option<&'v Value>,
) -> (Vec<Element>, Grouped<'v>, Grouped<'v>) {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    let mut group = |side: Option<&'v Value>| {
        let mut grouped: Grouped<'v> = HashMap::new();
        for value in side.and_then(Value::as_array).into_iter().flatten() {
            let Ok(element) = element_of(items, list, value) else { continue };
            if seen.insert(element.clone()) {
                order.push(element.clone());
            }
            grouped.entry(element).or_default().push(value);
        }
        grouped
    };
    let (old, new) = (group(old), group(new));
    (order, old, new)
}

/// `applied` laid over `live`.
pub fn merge(schema: &Schema, live: &Value, applied: &Value) -> Value {
    match (view(schema), live, applied) {
        (View::Fields, Value::Object(live), Value::Object(applied)) => {
            let mut out = Map::new();
            for (key, old) in live {
                let merged = match (schema.property(key), applied.get(key)) {
                    (Some(node), Some(new)) => merge(node, old, new),
                    (None, Some(new)) => new.clone(),
                    (_, None) => old.clone(),
                };
                out.insert(key.clone(), merged);
            }
            let rest = applied.iter().filter(|(key, _)| !live.contains_key(*key));
            out.extend(rest.map(|(key, value)| (key.clone(), value.clone())));
            Value::Object(out)
        }
        (View::List(items, list), Value::Array(live), Value::Array(applied)) => {
            Value::Array(merge_list(items, list, live, applied))
        }
        // Null says nothing about a list or struct that has content.
        (View::Fields | View::List(..), live, Value::Null) if !is_empty(Some(live)) => live.clone(),
        _ => applied.clone(),
    }
}

/// Elements that only `live` has keep their place; the others stand in the order of `applied`.
fn merge_list(items: &Schema, list: &ListType, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let index = |values: &[Value]| -> Vec<Option<Element>> {
        values.iter().map(|value| element_of(items, list, value).ok()).collect()
    };
    let (left, right) = (index(live), index(applied));
    // What comes twice is not merged with: the applied element takes its place.
    let mut old: HashMap<&Element, Option<&Value>> = HashMap::new();
    for (element, value) in left.iter().zip(live) {
        let Some(element) = element else { continue };
        old.entry(element).and_modify(|value| *value = None).or_insert(Some(value));
    }
    let new: HashSet<&Element> = right.iter().flatten().collect();
    let mut shared = right.iter().flatten().filter(|element| old.contains_key(element));
    let mut next_shared = shared.next();
    let mut done: HashSet<&Element> = HashSet::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let join = |element: &Element, value: &Value| match old.get(element) {
        Some(Some(old)) => merge(items, old, value),
        _ => value.clone(),
    };
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        let (here, there) = (left.get(l).and_then(Option::as_ref), right.get(r).and_then(Option::as_ref));
        if let (Some(element), Some(other), Some(value)) = (here, there, applied.get(r)) {
            if element == other {
                done.insert(other);
                out.push(join(other, value));
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if new.contains(element) && next_shared.is_some_and(|next| next != element) {
                // Shared, but its turn has not come.
                l += 1;
                continue;
            }
        }
        if let Some(old) = live.get(l) {
            match here {
                Some(element) if new.contains(element) => {
                    if done.contains(element) {
                        l += 1;
                    }
                }
                _ => {
                    out.push(old.clone());
                    l += 1;
                    continue;
                }
            }
        }
        if let Some(value) = applied.get(r) {
            r += 1;
            let Some(element) = there else { continue };
            done.insert(element);
            out.push(join(element, value));
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
        (View::Fields, Value::Object(map)) => {
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
        (View::List(items, list), Value::Array(values)) => {
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

/// A stored set under the schema of today: what lies below something that is replaced as a whole becomes the whole.
pub fn reconcile(schema: &Schema, set: &Set) -> Set {
    set.cut(Some(schema), &|at: Option<&Schema>, element: &str| {
        let node = at.and_then(|schema| child(schema, element).0);
        let collection = node.is_some_and(|node| {
            matches!(node.resolve().shape, Shape::Object(_) | Shape::Map(_) | Shape::Array(_))
        });
        (collection && node.is_some_and(|node| matches!(view(node), View::Leaf)), node)
    })
}
