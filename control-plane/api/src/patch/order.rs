//! In which order a merged list's elements stand: those of the patch in the patch's order, those that only the server
//! has in the server's, both woven so that the server's order is kept where it can be.

use std::collections::HashMap;

use serde_json::Value;

use super::PatchError;

/// Whether two elements are the same one: by `key`, or whole when there is none.
pub(super) fn same(a: &Value, b: &Value, key: &str) -> bool {
    if key.is_empty() { a == b } else { a.get(key).is_some() && a.get(key) == b.get(key) }
}

/// What tells an element from the others, `None` for one without its key.
fn identity<'v>(item: &'v Value, key: &str) -> Option<&'v Value> {
    if key.is_empty() { Some(item) } else { item.get(key) }
}

/// Where the elements of a list stand.
struct Places<'l>(HashMap<&'l Value, usize>, &'l str);

impl<'l> Places<'l> {
    fn of(list: &'l [Value], key: &'l str) -> Self {
        let mut places = HashMap::with_capacity(list.len());
        for (place, item) in list.iter().enumerate() {
            if let Some(identity) = identity(item, key) {
                places.entry(identity).or_insert(place);
            }
        }
        Places(places, key)
    }

    fn find(&self, item: &Value) -> Option<usize> {
        self.0.get(identity(item, self.1)?).copied()
    }
}

/// Orders `merged`. `present` tells the patch's elements from the server's, `patch_order` and `server_order` are the
/// lists that the two parts follow.
pub(super) fn normalize(
    merged: Vec<Value>,
    present: &[Value],
    patch_order: &[Value],
    server_order: &[Value],
    key: &str,
) -> Result<Vec<Value>, PatchError> {
    let present = Places::of(present, key);
    let (mut patched, mut server): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| present.find(item).is_some());
    let (patch_places, server_places) = (Places::of(patch_order, key), Places::of(server_order, key));
    patched.sort_by_cached_key(|item| patch_places.find(item));
    server.sort_by_cached_key(|item| server_places.find(item));
    Ok(weave(server, patched, &server_places))
}

fn weave(left: Vec<Value>, right: Vec<Value>, server: &Places<'_>) -> Vec<Value> {
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => match (server.find(l), server.find(r)) {
                (Some(l), Some(r)) => l < r,
                _ => false,
            },
        };
        out.extend(if take_left { left.next() } else { right.next() });
    }
}
