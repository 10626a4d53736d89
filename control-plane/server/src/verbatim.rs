//! Raw JSON that is kept as a client wrote it. Upstream keeps such a field (a ControllerRevision's `data`) as bytes and
//! compares bytes: one that came with spaces is refused to every patch, because a patch writes it without.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::value::RawValue;

fn find<'a>(object: &'a [u8], field: &str) -> Option<&'a RawValue> {
    serde_json::from_slice::<BTreeMap<String, &RawValue>>(object).ok()?.remove(field)
}

/// The text of a field of the JSON object in `object`.
pub fn text(object: &[u8], field: &str) -> Option<String> {
    find(object, field).map(|raw| raw.get().to_owned())
}

/// The same JSON without space between its tokens.
pub fn compact(text: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    text.chars()
        .filter(|c| {
            let kept = quoted || !matches!(c, ' ' | '\t' | '\r' | '\n');
            if *c == '"' && !escaped {
                quoted = !quoted;
            }
            escaped = quoted && *c == '\\' && !escaped;
            kept
        })
        .collect()
}

/// The JSON object in `object` with `text` for its field's value.
pub fn put(object: &Bytes, field: &str, text: &str) -> Bytes {
    let Some(raw) = find(object, field).map(RawValue::get) else { return object.clone() };
    // The raw value borrows from `object`.
    let start = raw.as_ptr() as usize - object.as_ptr() as usize;
    let (Some(before), Some(after)) = (object.get(..start), object.get(start + raw.len()..)) else {
        return object.clone();
    };
    let mut out = BytesMut::with_capacity(before.len() + text.len() + after.len());
    out.put_slice(before);
    out.put_slice(text.as_bytes());
    out.put_slice(after);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_compacted_and_put_back() {
        let object = Bytes::from_static(br#"{"a": {"data": 1}, "data": { "x" : [1, "a \" b "] }, "z": 2}"#);
        let found = text(&object, "data").unwrap();
        assert_eq!(found, r#"{ "x" : [1, "a \" b "] }"#);
        assert_eq!(compact(&found), r#"{"x":[1,"a \" b "]}"#);
        assert_eq!(put(&object, "data", "7"), br#"{"a": {"data": 1}, "data": 7, "z": 2}"#.as_slice());
        assert_eq!(put(&object, "none", "7"), object);
        assert_eq!(compact(r#"{"\\" : "\\ "}"#), r#"{"\\":"\\ "}"#);
    }
}
