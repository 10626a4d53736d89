//! Strategic merge patch (`k8s.io/apimachinery/pkg/util/strategicpatch`): a merge patch that knows the API's lists.
//! Directives: `$patch`, `$retainKeys`, `$setElementOrder/list`, `$deleteFromPrimitiveList/list`.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::{PatchError, order};
use crate::{patch::go_text, schema::Schema};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList";

const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_SET_ORDER: &str = "invalid patch format of setElementOrder list";
const BAD_PRIMITIVE: &str = "invalid patch format of primitive list";

type Result<T> = std::result::Result<T, PatchError>;
type Fields = Map<String, Value>;

/// Applies `patch` to `doc`, an object of the type that `schema` describes.
pub fn strategic(schema: &Schema, doc: &Value, patch: &Value) -> Result<Value> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::bad_request(format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            crate::decode::json_type(patch)
        )));
    };
    let doc = doc.as_object().cloned().unwrap_or_default();
    merge_map(doc, patch.clone(), schema).map(Value::Object)
}

fn merge_map(mut original: Fields, mut patch: Fields, schema: &Schema) -> Result<Fields> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Fields::new()),
            _ => Err(bad_directive(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    set_element_order(&mut original, &mut patch, schema)?;
    for (key, value) in patch {
        let (key, delete_list) = match key.strip_prefix(DELETE_PRIMITIVE) {
            Some(rest) => (list_name(rest, BAD_PRIMITIVE)?, true),
            None => (key, false),
        };
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                Some(Value::Object(merge_field_map(old, new, &key, schema)?))
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                Some(Value::Array(merge_field_list(old, new, &key, schema, delete_list)?))
            }
            (old, _) if delete_list => old,
            (_, value) => clean(value),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

fn bad_directive(directive: &Value, patch: &Fields) -> PatchError {
    let shown = go_text(&Value::Object(patch.clone()));
    PatchError::plain(format!("unknown patch type: {} in map: {shown}", go_text(directive)))
}

/// `finalizers` of `/finalizers`.
fn list_name(rest: &str, refused: &str) -> Result<String> {
    match rest.strip_prefix('/') {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(PatchError::bad_request(refused)),
    }
}

fn child<'s>(schema: &'s Schema, key: &str) -> Result<&'s Schema> {
    schema.property(key).ok_or_else(|| {
        let name = schema.resolve().name.rsplit('.').next().unwrap_or_default().to_owned();
        PatchError::plain(format!("unable to find api field in struct {name} for the json field {key:?}"))
    })
}

fn merge_field_map(old: Fields, new: Fields, key: &str, schema: &Schema) -> Result<Fields> {
    let schema = child(schema, key)?;
    if schema.merge.replace { Ok(new) } else { merge_map(old, new, schema) }
}

fn merge_field_list(
    old: Vec<Value>,
    new: Vec<Value>,
    key: &str,
    schema: &Schema,
    delete_list: bool,
) -> Result<Vec<Value>> {
    let schema = child(schema, key)?;
    if schema.merge.merge || delete_list { merge_list(old, new, schema, delete_list) } else { Ok(new) }
}

fn merge_key(schema: &Schema) -> &str {
    schema.merge.key.as_deref().unwrap_or_default()
}

fn merge_list(old: Vec<Value>, new: Vec<Value>, schema: &Schema, delete_list: bool) -> Result<Vec<Value>> {
    if old.is_empty() && new.is_empty() {
        return Ok(old);
    }
    let key = merge_key(schema);
    if !of_maps(&old, &new)? {
        if delete_list {
            let gone: HashSet<&Value> = new.iter().collect();
            return Ok(old.into_iter().filter(|item| !gone.contains(item)).collect());
        }
        let mut seen = HashSet::new();
        let merged = old.iter().chain(&new).filter(|item| seen.insert(*item)).cloned().collect();
        return order::normalize(merged, &new, &new, &old, "");
    }
    if key.is_empty() {
        let name = schema.items().map(|s| s.resolve().name.to_string()).unwrap_or_default();
        return Err(PatchError::plain(format!("cannot merge lists without merge key for {name}")));
    }
    let (old, new) = special_elements(old, new, key)?;
    let mut merged = old.clone();
    let items = schema.items().unwrap_or(schema);
    let mut places = HashMap::new();
    for (place, item) in old.iter().enumerate() {
        if let Some(value) = item.get(key) {
            places.entry(value).or_insert(place);
        }
    }
    for element in &new {
        merge_element(&mut merged, &mut places, element, key, items)?;
    }
    order::normalize(merged, &new, &new, &old, key)
}

/// Merges one element of the patch's list into the element with the same key, or appends it. `places` says where in
/// `list` a key is.
fn merge_element<'e>(
    list: &mut Vec<Value>,
    places: &mut HashMap<&'e Value, usize>,
    element: &'e Value,
    key: &str,
    items: &Schema,
) -> Result<()> {
    let Value::Object(patch) = element else { return Ok(()) };
    let Some(wanted) = patch.get(key) else { return Err(no_merge_key(element, key)) };
    match places.get(wanted).and_then(|place| list.get_mut(*place)) {
        Some(found) => {
            let old = found.as_object().cloned().unwrap_or_default();
            *found = Value::Object(merge_map(old, patch.clone(), items)?);
        }
        None => {
            if let Some(new) = clean(element.clone()) {
                if new.get(key) == Some(wanted) {
                    places.insert(wanted, list.len());
                }
                list.push(new);
            }
        }
    }
    Ok(())
}

fn no_merge_key(element: &Value, key: &str) -> PatchError {
    PatchError::plain(format!("map: {} does not contain declared merge key: {key}", go_text(element)))
}

/// Whether the lists hold maps. Mixed lists and lists of lists are refused.
fn of_maps(old: &[Value], new: &[Value]) -> Result<bool> {
    let mut kinds = old.iter().chain(new).map(crate::decode::json_type);
    let first = kinds.next().unwrap_or("null");
    if first == "array" {
        return Err(unsupported("lists of lists are not supported"));
    }
    if kinds.any(|kind| kind != first) {
        return Err(unsupported("list element types are not identical"));
    }
    Ok(first == "object")
}

fn unsupported(words: &str) -> PatchError {
    PatchError { code: 422, reason: "Invalid", message: words.into() }
}

/// Carries out the `$patch` elements of a list: the list to merge into, and what is left to merge.
fn special_elements(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut rest = Vec::with_capacity(new.len());
    let mut replace = false;
    let mut gone = HashSet::new();
    for element in new {
        let Some(directive) = element.get(PATCH) else {
            rest.push(element);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let Some(wanted) = element.get(key) else { return Err(no_merge_key(&element, key)) };
                gone.insert(wanted.clone());
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(PatchError::plain("merging lists cannot yet be specified in the patch"));
            }
            _ => {
                let fields = element.as_object().cloned().unwrap_or_default();
                return Err(bad_directive(directive, &fields));
            }
        }
    }
    old.retain(|item| item.get(key).is_none_or(|value| !gone.contains(value)));
    Ok(if replace { (rest, Vec::new()) } else { (old, rest) })
}

fn retain_keys(original: &mut Fields, patch: &mut Fields) -> Result<()> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let refused = || PatchError::bad_request(BAD_RETAIN_KEYS);
    let keep = directive.as_array().ok_or_else(refused)?;
    let keep: HashSet<&str> = keep.iter().filter_map(Value::as_str).collect();
    let kept = |key: &str| keep.contains(key);
    for (key, value) in patch.iter() {
        let directive = key.starts_with(DELETE_PRIMITIVE) || key.starts_with(SET_ORDER);
        if !value.is_null() && !directive && !kept(key) {
            return Err(refused());
        }
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// Merges each list that a `$setElementOrder` directive names, and puts it in that order.
fn set_element_order(original: &mut Fields, patch: &mut Fields, schema: &Schema) -> Result<()> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let Some(value) = patch.remove(&directive) else { continue };
        let name = list_name(directive.strip_prefix(SET_ORDER).unwrap_or_default(), BAD_SET_ORDER)?;
        let refused = || PatchError::bad_request(BAD_SET_ORDER);
        let Value::Array(wanted) = value else { return Err(refused()) };
        let list = |value: Option<Value>| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => Err(refused()),
        };
        let has_null = patch.get(&name).is_some_and(Value::is_null);
        if has_null {
            continue;
        }
        let new = list(patch.remove(&name))?;
        let old = list(original.remove(&name))?;
        let field = child(schema, &name)?;
        let key = merge_key(field);
        validate_order(new.as_deref().unwrap_or_default(), &wanted, key)?;
        let before = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(clean).collect(),
            (Some(old), Some(new)) if field.merge.merge => merge_list(old, new, field, false)?,
            (Some(_), Some(new)) => new,
        };
        let ordered = order::normalize(merged, &wanted, &wanted, &before, key)?;
        original.insert(name, Value::Array(ordered));
    }
    Ok(())
}

/// The patch's elements must come in the order that the directive says.
fn validate_order(patch: &[Value], wanted: &[Value], key: &str) -> Result<()> {
    let mut elements = patch.iter().filter(|e| e[PATCH] != "delete").peekable();
    let mut rest = wanted.iter();
    while let Some(element) = elements.peek() {
        match rest.next() {
            Some(candidate) if order::same(element, candidate, key) => {
                elements.next();
            }
            Some(_) => {}
            None => {
                return Err(PatchError::plain(format!(
                    "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                    go_text(&Value::Array(patch.to_vec())),
                    go_text(&Value::Array(wanted.to_vec()))
                )));
            }
        }
    }
    Ok(())
}

/// A value that the patch brings in whole: nulls and directives are not part of it. `None` when nothing remains.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.get(PATCH).and_then(Value::as_str) == Some("delete") {
                return None;
            }
            Some(Value::Object(
                map.into_iter()
                    .filter(|(key, value)| {
                        let directive = key == PATCH
                            || key == RETAIN_KEYS
                            || key.starts_with(SET_ORDER)
                            || key.starts_with(DELETE_PRIMITIVE);
                        !value.is_null() && !directive
                    })
                    .filter_map(|(key, value)| clean(value).map(|value| (key, value)))
                    .collect(),
            ))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(clean).collect())),
        other => Some(other),
    }
}
