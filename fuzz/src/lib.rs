//! What the fuzz targets share: which kind a body is of, what must hold of every object, and mutations that know the
//! schema, so that most inputs get past the decoder.

use fairlead_api::{kind::Kind, kinds, registry};
use serde_json::Value;

pub mod grow;
pub mod hold;
pub mod large;
mod words;

/// The kind that an object says it is; for one that says none that is served, some kind that `salt` chooses.
pub fn kind_of(object: &Value, salt: &[u8]) -> &'static Kind {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    registry::find_kind(text("apiVersion"), text("kind")).unwrap_or_else(|| {
        let sum = salt.iter().fold(7usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        kinds::REGISTRY[sum % kinds::REGISTRY.len()]
    })
}

/// The line between the parts of an input.
pub const BETWEEN: &[u8] = b"\n---\n";

/// The parts of an input that carries several documents.
pub fn parts(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let Some(at) = data.windows(BETWEEN.len()).position(|window| window == BETWEEN) else {
            done = true;
            return Some(data);
        };
        let part = &data[..at];
        data = &data[at + BETWEEN.len()..];
        Some(part)
    })
}
