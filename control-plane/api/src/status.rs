//! `metav1.Status`: how every refusal (and a deletion's success) is answered, with upstream's code, reason, words
//! and details (`k8s.io/apimachinery/pkg/api/errors`).

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::field::ErrorList;

/// A `Status` object, ready to be written as the response's body.
#[derive(Clone, Debug, PartialEq)]
pub struct Status(pub Value);

impl Status {
    /// The HTTP code that goes with it (200 for a success without one).
    pub fn code(&self) -> u16 {
        self.0["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(200)
    }
    /// The machine word, `""` where upstream gives none.
    pub fn reason(&self) -> &str {
        self.0["reason"].as_str().unwrap_or_default()
    }
    pub fn message(&self) -> &str {
        self.0["message"].as_str().unwrap_or_default()
    }
    /// The same answer with other words.
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.0["message"] = Value::String(message.into());
        self
    }
    /// `details.retryAfterSeconds`, which also goes into the `Retry-After` header.
    pub fn retry_after(&self) -> Option<u64> {
        self.0["details"]["retryAfterSeconds"].as_u64()
    }
    /// The same answer that asks the client to come back after `seconds`.
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.0["details"]["retryAfterSeconds"] = json!(seconds);
        self
    }
    /// The same answer with one more cause. Empty fields are left out.
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let cause = cause(reason, message, field);
        match self.0["details"].get_mut("causes").and_then(Value::as_array_mut) {
            Some(causes) => causes.push(cause),
            None => self.0["details"]["causes"] = json!([cause]),
        }
        self
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Status {}

fn cause(reason: &str, message: &str, field: &str) -> Value {
    let mut map = Map::new();
    for (key, value) in [("reason", reason), ("message", message), ("field", field)] {
        if !value.is_empty() {
            map.insert(key.into(), value.into());
        }
    }
    Value::Object(map)
}

/// Any failure. `reason` may be empty (plain errors have none); `details` is left out when `None`.
pub fn failure(code: u16, reason: &str, message: impl Into<String>, details: Option<Value>) -> Status {
    let mut map = Map::new();
    map.insert("apiVersion".into(), "v1".into());
    map.insert("kind".into(), "Status".into());
    map.insert("metadata".into(), json!({}));
    map.insert("status".into(), "Failure".into());
    map.insert("message".into(), message.into().into());
    map.insert("code".into(), code.into());
    if !reason.is_empty() {
        map.insert("reason".into(), reason.into());
    }
    if let Some(details) = details {
        map.insert("details".into(), details);
    }
    Status(Value::Object(map))
}

/// `details` of a resource: empty fields are left out.
fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut map = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            map.insert(key.into(), value.into());
        }
    }
    Value::Object(map)
}

/// `deployments.apps`, `pods`: how upstream prints a group-resource or group-kind.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.into() } else { format!("{resource}.{group}") }
}

/// Go's `%q` of a plain string.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// 404 of an object (`name` may be empty: then of the resource).
pub fn not_found(group: &str, plural: &str, name: &str) -> Status {
    let message = format!("{} {} not found", qualified(group, plural), quoted(name));
    failure(404, "NotFound", message, Some(details(group, plural, name)))
}

/// 404 of a path that no resource answers to, below a known API prefix.
pub fn no_such_resource() -> Status {
    failure(404, "NotFound", "the server could not find the requested resource", Some(json!({})))
}

pub fn already_exists(group: &str, plural: &str, name: &str) -> Status {
    let message = format!("{} {} already exists", qualified(group, plural), quoted(name));
    failure(409, "AlreadyExists", message, Some(details(group, plural, name)))
}

/// 409: `message` says which precondition did not hold.
pub fn conflict(group: &str, plural: &str, name: &str, message: &str) -> Status {
    let text =
        format!("Operation cannot be fulfilled on {} {}: {message}", qualified(group, plural), quoted(name));
    failure(409, "Conflict", text, Some(details(group, plural, name)))
}

/// The message of a write that lost against another one.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// 422 with one cause per field error.
pub fn invalid(group: &str, kind: &str, name: &str, errors: &ErrorList) -> Status {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let message = format!("{} {} is invalid: {}", qualified(group, kind), quoted(name), aggregate(&texts));
    let mut details = details(group, kind, name);
    if !errors.is_empty() {
        details["causes"] =
            errors.iter().map(|e| cause(e.cause.reason(), &e.message(), &e.path)).collect::<Value>();
    }
    failure(422, "Invalid", message, Some(details))
}

/// How upstream joins several errors: equal ones once, one alone without brackets.
pub fn aggregate(texts: &[String]) -> String {
    let mut seen = HashSet::new();
    let unique: Vec<&str> = texts.iter().map(String::as_str).filter(|t| seen.insert(*t)).collect();
    match unique.as_slice() {
        [one] => (*one).into(),
        many => format!("[{}]", many.join(", ")),
    }
}

pub fn bad_request(message: impl Into<String>) -> Status {
    failure(400, "BadRequest", message, None)
}

/// 403 of a resource request; `name` may be empty.
pub fn forbidden(group: &str, plural: &str, name: &str, message: &str) -> Status {
    let resource = qualified(group, plural);
    let text = match (resource.is_empty(), name.is_empty()) {
        (true, _) => format!("forbidden: {message}"),
        (false, true) => format!("{resource} is forbidden: {message}"),
        (false, false) => format!("{resource} {} is forbidden: {message}", quoted(name)),
    };
    failure(403, "Forbidden", text, Some(details(group, plural, name)))
}

pub fn unauthorized() -> Status {
    failure(401, "Unauthorized", "Unauthorized", None)
}

pub fn method_not_allowed() -> Status {
    let message = "the server does not allow this method on the requested resource";
    failure(405, "MethodNotAllowed", message, Some(json!({})))
}

/// 405 of an operation that the kind itself refuses (`deletecollection` on a kind without it …).
pub fn method_not_supported(group: &str, plural: &str, verb: &str) -> Status {
    let message =
        format!("{verb} is not supported on resources of kind {}", quoted(&qualified(group, plural)));
    failure(405, "MethodNotAllowed", message, Some(details(group, plural, "")))
}

/// 406; `accepted` are the media types that the endpoint writes.
pub fn not_acceptable(accepted: &[&str]) -> Status {
    let message = format!("406: Not Acceptable\n\nAvailable representations: {}", accepted.join(", "));
    failure(406, "NotAcceptable", message, Some(json!({})))
}

/// 415; `accepted` are the media types that the endpoint reads.
pub fn unsupported_media_type(accepted: &[&str]) -> Status {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        accepted.join(", ")
    );
    failure(415, "UnsupportedMediaType", message, None)
}

pub fn gone(message: impl Into<String>) -> Status {
    failure(410, "Gone", message, None)
}

/// 410 with reason `Expired`: a resourceVersion or continue token that compaction has passed.
pub fn expired(message: impl Into<String>) -> Status {
    failure(410, "Expired", message, None)
}

/// The words of a watch that starts behind what is kept.
pub fn too_old(asked: u64, oldest: u64) -> Status {
    expired(format!("too old resource version: {asked} ({oldest})"))
}

/// 413; `message` is upstream's, `limit is 3145728`.
pub fn too_large(message: &str) -> Status {
    failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"), None)
}

/// 500 with reason `InternalError`.
pub fn internal(message: &str) -> Status {
    let details = json!({"causes": [{"message": message}]});
    failure(500, "InternalError", format!("Internal error occurred: {message}"), Some(details))
}

/// An error that carries no status of its own in upstream: code 500, its words, no reason.
pub fn plain(message: impl Into<String>) -> Status {
    failure(500, "", message, None)
}

pub fn timeout(message: &str, retry_after: u64) -> Status {
    let details = if retry_after > 0 { json!({"retryAfterSeconds": retry_after}) } else { json!({}) };
    failure(504, "Timeout", format!("Timeout: {message}"), Some(details))
}

/// 504 of a read at a revision that the store has not reached.
pub fn too_large_resource_version(asked: u64, current: u64) -> Status {
    timeout(&format!("Too large resource version: {asked}, current: {current}"), 1).with_cause(
        "ResourceVersionTooLarge",
        "Too large resource version",
        "",
    )
}

pub fn too_many_requests(message: impl Into<String>, retry_after: u64) -> Status {
    let details = if retry_after > 0 { json!({"retryAfterSeconds": retry_after}) } else { json!({}) };
    failure(429, "TooManyRequests", message, Some(details))
}

pub fn service_unavailable(message: impl Into<String>) -> Status {
    failure(503, "ServiceUnavailable", message, None)
}

/// 200 of a request that has nothing to return.
pub fn success() -> Status {
    Status(json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success"}))
}

/// 200 of a deletion that removed the object.
pub fn deleted(group: &str, plural: &str, name: &str, uid: &str) -> Status {
    let mut status = success();
    let mut details = details(group, plural, name);
    if !uid.is_empty() {
        details["uid"] = uid.into();
    }
    status.0["details"] = details;
    status
}
