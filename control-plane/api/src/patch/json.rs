//! JSON patch as upstream's library applies it: negative indices count from the end, `replace` of an absent member
//! adds it.

use serde_json::{Map, Value};

use super::PatchError;
use crate::decode;

const MAX_OPERATIONS: usize = 10_000;
/// What `copy` operations may add to a document, in bytes.
const MAX_COPIED: usize = 3 << 20;
/// What a patch may cost: elements of lists that make room, and nodes that are looked at to see how deep they go.
const MAX_WORK: usize = 64 << 20;
/// A node costs as much as so many elements.
const NODE: usize = 16;

/// What is left of what a patch may do.
struct Budget {
    copied: usize,
    work: usize,
}

impl Budget {
    fn work(&mut self, cost: usize) -> Option<()> {
        self.work = self.work.checked_sub(cost)?;
        Some(())
    }

    /// Whether a value that is put at `path` leaves the document as flat as a body has to be. A patch could otherwise
    /// move a document into itself until nobody can walk it.
    fn flat(&mut self, path: &str, value: &Value) -> Option<()> {
        let above = path.bytes().filter(|b| *b == b'/').count();
        self.level(value, decode::MAX_DEPTH.checked_sub(above)?)
    }

    fn level(&mut self, value: &Value, left: usize) -> Option<()> {
        self.work(NODE)?;
        match value {
            Value::Array(list) => {
                let left = left.checked_sub(1)?;
                list.iter().try_for_each(|item| self.level(item, left))
            }
            Value::Object(map) => {
                let left = left.checked_sub(1)?;
                map.values().try_for_each(|value| self.level(value, left))
            }
            _ => Some(()),
        }
    }

    /// Takes the size of a copy from what may be copied.
    fn copy(&mut self, value: &Value) -> Option<()> {
        serde_json::to_writer(Taken(&mut self.copied), value).ok()
    }
}

/// Counts down as bytes are written; fails when there is nothing left.
struct Taken<'b>(&'b mut usize);

impl std::io::Write for Taken<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        *self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Applies the operations of `patch` (a JSON array) in order.
pub fn json(doc: &Value, patch: &[u8]) -> Result<Value, PatchError> {
    let operations = operations(patch)?;
    let mut doc = doc.clone();
    let mut budget = Budget { copied: MAX_COPIED, work: MAX_WORK };
    for operation in &operations {
        apply(&mut doc, operation, &mut budget).ok_or_else(PatchError::unfit)?;
    }
    Ok(doc)
}

pub(super) fn operations(patch: &[u8]) -> Result<Vec<Value>, PatchError> {
    let refuse = |words: String| PatchError::bad_request(format!("error decoding patch: {words}"));
    let decoded = decode::json(patch).map_err(|e| refuse(e.to_string()))?;
    let Value::Array(list) = decoded.value else {
        if decoded.value.is_null() {
            return Ok(Vec::new());
        }
        return Err(refuse(format!(
            "json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            decode::json_type(&decoded.value)
        )));
    };
    if list.len() > MAX_OPERATIONS {
        return Err(PatchError {
            code: 413,
            reason: "RequestEntityTooLarge",
            message: format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                list.len()
            ),
        });
    }
    if let Some(odd) = list.iter().find(|op| !op.is_object()) {
        return Err(refuse(format!(
            "json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
            decode::json_type(odd)
        )));
    }
    Ok(list)
}

fn apply(doc: &mut Value, operation: &Value, budget: &mut Budget) -> Option<()> {
    let path = operation.get("path")?.as_str()?;
    let (value, replaces) = match operation.get("op")?.as_str()? {
        "add" => (operation.get("value").cloned().unwrap_or(Value::Null), false),
        "remove" => return remove(doc, path, budget).map(|_| ()),
        "replace" => (operation.get("value")?.clone(), true),
        "move" => (remove(doc, operation.get("from")?.as_str()?, budget)?, false),
        "copy" => {
            let value = get(doc, operation.get("from")?.as_str()?)?;
            budget.copy(value)?;
            (value.clone(), false)
        }
        "test" => {
            let expected = operation.get("value").unwrap_or(&Value::Null);
            let equal = match get(doc, path) {
                Some(value) => same(value, expected),
                None => expected.is_null(),
            };
            return equal.then_some(());
        }
        _ => return None,
    };
    budget.flat(path, &value)?;
    if replaces { replace(doc, path, value) } else { add(doc, path, value, budget) }
}

/// Numbers are equal by value: `1` and `1.0`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        (a, b) => a == b,
    }
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// The container that the last step of `path` is in, and that step. `None` for the whole document.
fn parent<'d>(doc: &'d mut Value, path: &str) -> Option<(&'d mut Value, String)> {
    let (parents, last) = path.rsplit_once('/')?;
    let mut node = doc;
    for token in parents.split('/').skip(1) {
        node = match node {
            Value::Object(map) => map.get_mut(&unescape(token))?,
            Value::Array(list) => {
                let i = index(token, list.len())?;
                list.get_mut(i)?
            }
            _ => return None,
        };
    }
    (node.is_array() || node.is_object()).then(|| (node, unescape(last)))
}

/// An index below `len`; negative ones count from the end.
fn index(token: &str, len: usize) -> Option<usize> {
    let i: i64 = token.parse().ok()?;
    let i = if i < 0 { i.checked_add(i64::try_from(len).ok()?)? } else { i };
    usize::try_from(i).ok().filter(|i| *i < len)
}

fn get<'d>(doc: &'d Value, path: &str) -> Option<&'d Value> {
    let mut node = doc;
    for token in path.split('/').skip(1) {
        node = match node {
            Value::Object(map) => map.get(&unescape(token))?,
            Value::Array(list) => list.get(index(token, list.len())?)?,
            _ => return None,
        };
    }
    Some(node)
}

fn add(doc: &mut Value, path: &str, value: Value, budget: &mut Budget) -> Option<()> {
    if path.is_empty() {
        *doc = value;
        return Some(());
    }
    let (parent, last) = parent(doc, path)?;
    match parent {
        Value::Object(map) => {
            insert(map, last, value);
        }
        Value::Array(list) => {
            let at = if last == "-" { list.len() } else { index(&last, list.len() + 1)? };
            budget.work(list.len() - at)?;
            list.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn insert(map: &mut Map<String, Value>, key: String, value: Value) {
    map.insert(key, value);
}

fn replace(doc: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *doc = value;
        return Some(());
    }
    let (parent, last) = parent(doc, path)?;
    match parent {
        Value::Object(map) => insert(map, last, value),
        Value::Array(list) => {
            let i = index(&last, list.len())?;
            *list.get_mut(i)? = value;
        }
        _ => return None,
    }
    Some(())
}

fn remove(doc: &mut Value, path: &str, budget: &mut Budget) -> Option<Value> {
    let (parent, last) = parent(doc, path)?;
    match parent {
        Value::Object(map) => map.remove(&last),
        Value::Array(list) => {
            let i = index(&last, list.len())?;
            budget.work(list.len() - i)?;
            Some(list.remove(i))
        }
        _ => None,
    }
}
