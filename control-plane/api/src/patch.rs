//! PATCH: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.

use serde_json::Value;

use crate::status::{self, Status};

mod json;
mod order;
mod printed;
mod strategic;

pub use json::json;
pub use printed::{changed, internal_order, merged, message};
pub use strategic::strategic;

/// Why a patch could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PatchError {
    pub code: u16,
    /// `""` where upstream gives none.
    pub reason: &'static str,
    pub message: String,
}

impl PatchError {
    fn bad_request(message: impl Into<String>) -> Self {
        PatchError { code: 400, reason: "BadRequest", message: message.into() }
    }
    /// An error without a status of its own.
    fn plain(message: impl Into<String>) -> Self {
        PatchError { code: 500, reason: "", message: message.into() }
    }
    /// A well-formed patch that does not fit the object.
    fn unfit() -> Self {
        PatchError {
            code: 422,
            reason: "Invalid",
            message: "the server rejected our request due to an error in our request".into(),
        }
    }
    /// The answer. Only 422 and 413 carry (empty) details.
    pub fn status(&self) -> Status {
        let details = (self.code == 422).then(|| serde_json::json!({}));
        status::failure(self.code, self.reason, self.message.clone(), details)
    }
}

/// JSON merge patch.
pub fn merge(doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::bad_request(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            crate::decode::json_type(patch)
        )));
    }
    let mut doc = doc.clone();
    merge_into(&mut doc, patch);
    Ok(doc)
}

fn merge_into(doc: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *doc = patch.clone();
        return;
    };
    if !doc.is_object() {
        *doc = Value::Object(serde_json::Map::new());
    }
    let Some(map) = doc.as_object_mut() else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                map.remove(key);
            }
            value => merge_into(map.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}

/// Go's `%v` of a decoded value: `map[a:1 b:[x y]]`.
pub fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let fields: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", go_text(v))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// 422 of a patch whose result is no object of its kind. `shown` is the patch as `go_text` (strategic merge patch) or
/// the patched object's JSON (the other two).
pub fn invalid_result(shown: &str, words: &str) -> Status {
    let error = crate::field::FieldError {
        cause: crate::field::Cause::Invalid,
        path: "patch".into(),
        value: Some(status::quoted(shown)),
        detail: words.into(),
    };
    let mut status = status::invalid("", "", "", &vec![error]);
    // Upstream prints the empty kind as nothing and the empty name in quotes.
    let text = format!(
        " \"\" is invalid: {}",
        status.0["details"]["causes"][0]["message"].as_str().unwrap_or_default()
    );
    status.0["message"] = text.replacen("invalid: ", "invalid: patch: ", 1).into();
    status
}
