//! `metadata.managedFields`: who set what, and server-side apply.

use bytes::Bytes;
use fairlead_api::status::{self, Status};
use serde_json::Value;

use crate::{reply::Answer, write::Writing};

/// Gives a new object its managed fields. `client` is what the client sent in their place.
///
/// # Errors
/// None so far that a client can cause.
pub fn created(_writing: &Writing<'_>, object: &mut Value, _client: Value, _now: &str) -> Result<(), Status> {
    drop_managed(object);
    Ok(())
}

/// Follows an update.
///
/// # Errors
/// None so far that a client can cause.
pub fn updated(
    _writing: &Writing<'_>,
    new: &mut Value,
    _old: &Value,
    _client: Value,
    _now: &str,
) -> Result<(), Status> {
    drop_managed(new);
    Ok(())
}

fn drop_managed(object: &mut Value) {
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
}

/// PATCH with `application/apply-patch+yaml`.
///
/// # Errors
/// 415.
pub async fn apply(_writing: &mut Writing<'_>, _body: &Bytes) -> Answer {
    Err(status::unsupported_media_type(&[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ]))
}
