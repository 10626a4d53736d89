//! Paths of the kubelet's API.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::answer::{self, Body};
use super::identity::Peer;
use super::{logs, stream, summary};
use crate::clock;
use crate::docker::state::{Instance, Phase};
use crate::pod::manager::Manager;

/// Answers one request.
pub async fn handle(request: Request<Incoming>, manager: &Manager, peer: &Peer) -> Response<Body> {
    if !peer.is_allowed() {
        let code = if *peer == Peer::Anonymous { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
        return answer::text(code, format!("{}\n", code.canonical_reason().unwrap_or_default()));
    }
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    match parts.as_slice() {
        ["healthz"] if read => answer::text(StatusCode::OK, "ok"),
        ["metrics"] if read => metrics(manager),
        ["pods"] if read => pods(manager),
        ["stats", "summary"] if read => summary::answer(manager).await,
        ["containerLogs", namespace, pod, container] if read => {
            container_logs(&request, manager, namespace, pod, container).await
        }
        // The form with a UID between pod and container is upstream's too.
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            start(request, manager, namespace, pod, container, stream::Kind::Exec).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            start(request, manager, namespace, pod, container, stream::Kind::Attach).await
        }
        ["portForward", ..] => answer::not_implemented("port forwarding is not supported by this kubelet"),
        ["run", ..] | ["cri", ..] | ["checkpoint", ..] | ["debug", ..] => {
            answer::not_implemented("this endpoint is not supported by this kubelet")
        }
        ["healthz" | "metrics" | "pods" | "containerLogs" | "stats", ..] if !read => {
            answer::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n")
        }
        _ => answer::text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn metrics(manager: &Manager) -> Response<Body> {
    match manager.shared().metrics.text() {
        Ok(text) => {
            answer::typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
        }
        Err(error) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn pods(manager: &Manager) -> Response<Body> {
    let items: Vec<_> =
        manager.pods().into_iter().filter(|pod| pod.spec.is_some()).map(|pod| json!(*pod)).collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    answer::json_value(StatusCode::OK, &list)
}

/// The pairs of a query.
#[must_use]
pub fn query(request: &Request<Incoming>) -> Vec<(String, String)> {
    pairs(request.uri().query().unwrap_or_default())
}

/// A boolean as Go's conversion reads it: neither `0` nor `false`, in whatever case.
#[must_use]
pub fn flag(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let split = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    };
    text.split('&').filter(|pair| !pair.is_empty()).map(split).collect()
}

/// Undoes `%xx` and `+`.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match (byte, hex.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(*byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[expect(clippy::result_large_err, reason = "the error is the answer, made once and sent at once")]
fn find(manager: &Manager, namespace: &str, name: &str) -> Result<Arc<Pod>, Response<Body>> {
    manager.find(namespace, name).filter(|pod| pod.spec.is_some()).ok_or_else(|| {
        answer::text(StatusCode::NOT_FOUND, format!("pod \"{name}\" not found in namespace {namespace:?}\n"))
    })
}

fn bad(message: String) -> Response<Body> {
    answer::text(StatusCode::BAD_REQUEST, message)
}

/// The instance whose log or process is meant.
async fn instance(
    manager: &Manager,
    pod: &Pod,
    container: &str,
    previous: bool,
) -> Result<Instance, Response<Body>> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    if !spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(|one| one.name == container) {
        return Err(bad(format!("container {container:?} in pod {name:?} is not available")));
    }
    let runtime = manager.shared().engine.pod(&uid, &mut std::collections::HashMap::new()).await;
    let runtime =
        runtime.map_err(|error| answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let mut instances = runtime.instances(container).filter(|one| one.phase != Phase::Created);
    let latest = instances.next().cloned();
    if previous {
        let before = instances.next().cloned().or_else(|| latest.filter(|latest| !latest.is_running()));
        return before.ok_or_else(|| {
            bad(format!("previous terminated container {container:?} in pod {name:?} not found"))
        });
    }
    latest.ok_or_else(|| {
        let status = pod.status.clone().unwrap_or_default();
        let mut all =
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        let reason = all
            .find(|status| status.name == container)
            .and_then(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone())
            .unwrap_or_else(|| "ContainerCreating".to_owned());
        bad(format!("container {container:?} in pod {name:?} is waiting to start: {}", reason_words(&reason)))
    })
}

/// Upstream's words for the most common reasons.
fn reason_words(reason: &str) -> String {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => {
            "trying and failing to pull image".to_owned()
        }
        other => other.to_owned(),
    }
}

async fn container_logs(
    request: &Request<Incoming>,
    manager: &Manager,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Response<Body> {
    let wanted = match logs::wanted(&query(request), clock::now()) {
        Ok(wanted) => wanted,
        Err(error) => return bad(error),
    };
    let found = async {
        let pod = find(manager, namespace, pod)?;
        instance(manager, &pod, container, wanted.previous).await
    };
    let instance = match found.await {
        Ok(instance) => instance,
        Err(response) => return response,
    };
    match logs::stream(&manager.shared().engine, &instance.id, instance.tty, &wanted).await {
        Ok(pieces) => {
            use futures::TryStreamExt as _;
            let body = StreamBody::new(pieces.map_ok(Frame::data));
            let mut response = Response::new(http_body_util::combinators::BoxBody::new(body));
            let kind = http::HeaderValue::from_static("text/plain");
            response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            response
        }
        Err(error) => answer::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn start(
    request: Request<Incoming>,
    manager: &Manager,
    namespace: &str,
    pod: &str,
    container: &str,
    kind: stream::Kind,
) -> Response<Body> {
    let found = async {
        let pod = find(manager, namespace, pod)?;
        instance(manager, &pod, container, false).await
    };
    match found.await {
        Ok(instance) if !instance.is_running() => {
            bad(format!("container {container:?} in pod {pod:?} is not running"))
        }
        Ok(instance) => stream::start(request, manager.shared().engine.clone(), instance, kind).await,
        Err(response) => response,
    }
}

/// Makes any body a boxed one.
#[must_use]
pub fn boxed(body: http_body_util::Empty<bytes::Bytes>) -> Body {
    body.map_err(|never| match never {}).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_in_order() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs("command=sh&command=-c&command=echo%20a%2Bb+c&tty=1&x"),
            [
                pair("command", "sh"),
                pair("command", "-c"),
                pair("command", "echo a+b c"),
                pair("tty", "1"),
                pair("x", ""),
            ]
        );
        assert_eq!(pairs("a=%"), [pair("a", "%")]);
        assert_eq!(pairs("a=%zz%C3%BC"), [pair("a", "%zzü")]);
    }
}
