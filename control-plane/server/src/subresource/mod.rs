//! Subresources whose handlers change or stream something other than the object itself. Which ones a kind has, and
//! their verbs, stands in its descriptor.

pub mod binding;
pub mod eviction;
pub mod finalize;
pub mod reviews;
pub mod scale;
pub mod token;

use fairlead_api::{decode::Expected, status::Status};
use http::Response;
use serde_json::Value;

use crate::{
    admit::{self, Attributes, Operation},
    api::{Api, Call},
    body::Body,
    reply::{self, respond},
};

/// Admission of what is posted to a subresource.
///
/// # Errors
/// What a plugin refuses.
pub async fn admit(api: &Api, call: &Call, object: &mut Value, dry_run: bool) -> Result<(), Status> {
    let attributes = Attributes {
        kind: call.kind,
        subresource: &call.resource.subresource,
        operation: Operation::Create,
        namespace: &call.resource.namespace,
        name: &call.resource.name,
        prefix: "",
        user: &call.user,
        old: None,
        dry_run,
    };
    admit::mutate(api, &attributes, object).await?;
    admit::validate(api, &attributes, object).await
}

/// The answer to a POST that creates nothing that can be read again.
pub fn done(call: &Call) -> Response<Body> {
    let mut status = fairlead_api::status::success();
    status.0["code"] = 201.into();
    reply::value(call.form, 201, &status.0)
}

/// The answer to a review: the object that was posted, with its status.
pub fn reviewed(call: &Call, review: &Value) -> Response<Body> {
    reply::value(call.form, 201, review)
}

/// What `autoscaling/v1` Scale bodies must be.
pub const SCALE: Expected<'static> = Expected {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    schema: "io.k8s.api.autoscaling.v1.Scale",
};

/// Plain answers for handlers that have nothing to encode.
pub fn empty(code: u16) -> Response<Body> {
    let mut response = respond(code, "text/plain", bytes::Bytes::new());
    response.headers_mut().remove(http::header::CONTENT_TYPE);
    response
}
