//! What the server says about itself: discovery, OpenAPI, version, metrics, keys.

use std::sync::Arc;

use fairlead_api::{
    discovery::{self, Aggregated},
    openapi,
    status::{self, Status},
};
use http::{HeaderValue, Method, Response, header, request::Parts};
use serde_json::{Value, json};

use crate::{
    accept::{self, Media, Offer},
    api::Api,
    body::Body,
    health,
    info::Params,
    reply::{self, Answer, respond},
};

/// Upstream's release that this API follows, and ours.
pub const GIT_VERSION: &str = concat!("v1.36.2+fairlead.", env!("CARGO_PKG_VERSION"));

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", architecture()),
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Answers a path that names no resource.
pub async fn answer(api: &Arc<Api>, path: &str, params: &Params, request: &Parts) -> Answer {
    let trimmed = path.trim_end_matches('/');
    let parts: Vec<&str> = trimmed.split('/').skip(1).collect();
    let answer = match parts.as_slice() {
        [] => document(request, &json!({"paths": paths()})),
        ["version"] => document(request, &version()),
        ["api"] => groups(request, true),
        ["apis"] => groups(request, false),
        ["api", "v1"] => known(request, discovery::resource_list("", "v1")),
        ["apis", group] => known(request, discovery::group(group)),
        ["apis", group, version] => known(request, discovery::resource_list(group, version)),
        ["openapi", "v2"] => openapi_v2(request),
        ["openapi", "v3"] => document(request, &openapi::index()),
        ["openapi", "v3", rest @ ..] => openapi_v3(request, &rest.join("/"), params),
        ["metrics"] => return metrics(api).await,
        ["openid", "v1", "jwks"] => keys(api, request),
        [".well-known", "openid-configuration"] => document(request, &openid(api, request)),
        _ => return Ok(reply::text(404, "404 page not found\n")),
    }?;
    if matches!(request.method, Method::GET) { Ok(answer) } else { Err(status::method_not_allowed()) }
}

fn paths() -> Vec<String> {
    let mut paths: Vec<String> =
        ["/api", "/api/v1", "/apis", "/apis/"].iter().map(|p| (*p).to_owned()).collect();
    paths.pop();
    for kind in fairlead_api::kinds::REGISTRY.iter().filter(|kind| !kind.group.is_empty()) {
        paths.push(format!("/apis/{}", kind.group));
        paths.push(format!("/apis/{}/{}", kind.group, kind.version));
    }
    let plain = [
        "/.well-known/openid-configuration",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/version",
    ];
    paths.extend(plain.map(str::to_owned));
    for endpoint in health::ENDPOINTS {
        paths.push(format!("/{endpoint}"));
        let checks = health::CHECKS.iter().filter(|check| check.endpoints.contains(&endpoint));
        paths.extend(checks.map(|check| format!("/{endpoint}/{}", check.name)));
    }
    paths.sort();
    paths.dedup();
    paths
}

fn document(request: &Parts, value: &Value) -> Answer {
    let form = accept::negotiate(&request.headers, Offer::Document).ok_or_else(unacceptable)?;
    Ok(reply::value(form, 200, value))
}

fn unacceptable() -> Status {
    status::failure(406, "NotAcceptable", accept::not_acceptable(Offer::Document), Some(json!({})))
}

fn known(request: &Parts, found: Option<Value>) -> Answer {
    match found {
        Some(value) => document(request, &value),
        None => Err(status::no_such_resource()),
    }
}

/// `/api` and `/apis`, aggregated where the client prefers it.
fn groups(request: &Parts, core: bool) -> Answer {
    let Some(version) = accept::aggregated(&request.headers) else {
        let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        return document(
            request,
            &if core { discovery::api_versions(host) } else { discovery::group_list() },
        );
    };
    let value = discovery::aggregated(core, version);
    let bytes = serde_json::to_vec(&value).unwrap_or_default();
    let etag = etag(&bytes);
    let mut response = respond(200, "application/json", bytes);
    let content_type = match version {
        Aggregated::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        Aggregated::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(tagged(request, response, &etag))
}

/// A strong validator over a document.
fn etag(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02X}")).collect();
    format!("\"{hex}\"")
}

fn tagged(request: &Parts, mut response: Response<Body>, etag: &str) -> Response<Body> {
    let same =
        request.headers.get(header::IF_NONE_MATCH).is_some_and(|own| own.as_bytes() == etag.as_bytes());
    if same {
        response = respond(304, "application/json", bytes::Bytes::new());
        // Clients put the headers of a 304 over those that they kept, and the kept type says which version it is.
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    if let Ok(value) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// What the v2 document is served as, by the names that clients ask for.
const V2_FORMS: [(&str, &str); 3] = [
    ("application/json", "application/json"),
    ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", V2_BINARY),
    ("application/com.github.proto-openapi.spec.v2.v1.0+protobuf", V2_BINARY),
];
const V2_BINARY: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

fn openapi_v2(request: &Parts) -> Answer {
    let Some(form) = accept::first(&request.headers, &V2_FORMS) else {
        return Ok(bare(406));
    };
    let document = openapi::v2();
    let json = serde_json::to_vec(&document).unwrap_or_default();
    // One validator serves both forms, which Vary tells apart.
    let etag = etag(&json);
    let bytes = if form == V2_BINARY { openapi::binary::v2(&document) } else { json };
    drop(document);
    Ok(tagged(request, respond(200, form, bytes), &etag))
}

/// An answer without a body.
fn bare(code: u16) -> Response<Body> {
    let mut response = respond(code, "application/json", bytes::Bytes::new());
    response.headers_mut().remove(header::CONTENT_TYPE);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

fn openapi_v3(request: &Parts, path: &str, params: &Params) -> Answer {
    let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => (String::new(), (*version).to_owned()),
        ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
        _ => return Ok(reply::text(404, "404 page not found\n")),
    };
    let Some(value) = openapi::v3(&group, &version) else {
        return Ok(reply::text(404, "404 page not found\n"));
    };
    let bytes = serde_json::to_vec(&value).unwrap_or_default();
    let etag = etag(&bytes);
    let mut response = tagged(request, respond(200, Media::Json.content_type(), bytes), &etag);
    if params.set("hash").is_some() {
        // The address changes with the document, so that clients may keep it.
        let forever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    Ok(response)
}

async fn metrics(api: &Arc<Api>) -> Answer {
    let size = api.store.size_bytes().await.unwrap_or(0);
    let text = api.metrics.text(&api.caches, size, api.started);
    Ok(respond(200, "text/plain; version=0.0.4; charset=utf-8", text))
}

fn keys(api: &Arc<Api>, request: &Parts) -> Answer {
    let accepts = accept::header(&request.headers);
    let fits = ["application/jwk-set+json", "*/*"].iter().any(|media| accepts.contains(media));
    if !accepts.is_empty() && !fits {
        return Err(status::not_acceptable(&["application/jwk-set+json"]));
    }
    let bytes = serde_json::to_vec(api.tokens.jwks()).unwrap_or_default();
    Ok(respond(200, "application/jwk-set+json", bytes))
}

fn openid(api: &Arc<Api>, request: &Parts) -> Value {
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri.authority().map(http::uri::Authority::as_str));
    let advertised = std::net::SocketAddr::from(api.advertise).to_string();
    api.tokens.openid_configuration(host.unwrap_or(&advertised))
}
