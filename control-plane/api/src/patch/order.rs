//! In which order a merged list's elements stand: those of the patch in the patch's order, those that only the server
//! has in the server's, both woven so that the server's order is kept where it can be.

use serde_json::Value;

use super::PatchError;

/// Whether two elements are the same one: by `key`, or whole when there is none.
pub(super) fn same(a: &Value, b: &Value, key: &str) -> bool {
    if key.is_empty() { a == b } else { a.get(key).is_some() && a.get(key) == b.get(key) }
}

fn position(list: &[Value], item: &Value, key: &str) -> Option<usize> {
    list.iter().position(|candidate| same(candidate, item, key))
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
    let (mut patched, mut server): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| position(present, item, key).is_some());
    patched.sort_by_key(|item| position(patch_order, item, key));
    server.sort_by_key(|item| position(server_order, item, key));
    Ok(weave(server, patched, server_order, key))
}

fn weave(left: Vec<Value>, right: Vec<Value>, server_order: &[Value], key: &str) -> Vec<Value> {
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => match (position(server_order, l, key), position(server_order, r, key)) {
                (Some(l), Some(r)) => l < r,
                _ => false,
            },
        };
        out.extend(if take_left { left.next() } else { right.next() });
    }
}
