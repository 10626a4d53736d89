//! Answers in HTTP.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

/// A body, whole or as it comes.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// A whole body.
#[must_use]
pub fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// Plain text.
#[must_use]
pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    typed(code, "text/plain; charset=utf-8", text)
}

/// JSON.
#[must_use]
pub fn json_value(code: StatusCode, value: &Value) -> Response<Body> {
    typed(code, "application/json", value.to_string())
}

/// Bytes of a given type.
#[must_use]
pub fn typed(code: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// A `Status` that says what is not done here.
#[must_use]
pub fn not_implemented(message: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "NotImplemented", "code": 501});
    json_value(StatusCode::NOT_IMPLEMENTED, &status)
}
