//! A small API server for one node: objects in memory, watches from a log. What it does not know is answered 404.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::sync::Notify;

type Log = Vec<(u64, &'static str, Value)>;

/// An answer in JSON.
struct Json(Value);

impl axum::response::IntoResponse for Json {
    fn into_response(self) -> Response {
        ([("content-type", "application/json")], self.0.to_string()).into_response()
    }
}

#[derive(Default)]
pub struct Store {
    objects: BTreeMap<String, Value>,
    log: Log,
    version: u64,
}

#[derive(Clone, Default)]
pub struct Api {
    store: Arc<std::sync::Mutex<Store>>,
    changed: Arc<Notify>,
}

impl Api {
    /// Serves on a free port and returns its URL.
    pub async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(handle).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    /// Writes an object at a path such as `/api/v1/namespaces/n/pods/p`.
    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let mut store = self.store.lock().unwrap();
        store.version += 1;
        let version = store.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let known = store.objects.insert(path.to_owned(), object.clone()).is_some();
        store.log.push((version, if known { "MODIFIED" } else { "ADDED" }, object.clone()));
        self.changed.notify_waiters();
        object
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.store.lock().unwrap().objects.get(path).cloned()
    }

    pub fn remove(&self, path: &str) {
        let mut store = self.store.lock().unwrap();
        store.version += 1;
        let version = store.version;
        if let Some(mut object) = store.objects.remove(path) {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            store.log.push((version, "DELETED", object));
        }
        self.changed.notify_waiters();
    }

    /// All objects whose path contains `part`.
    pub fn all(&self, part: &str) -> Vec<Value> {
        let store = self.store.lock().unwrap();
        store
            .objects
            .iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, object)| object.clone())
            .collect()
    }
}

fn status(code: StatusCode, reason: &str) -> Response {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "message": reason, "code": code.as_u16()});
    (code, Json(body)).into_response()
}

async fn handle(State(api): State<Api>, request: Request<Body>) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let path = uri.path().to_owned();
    let bytes = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    match method {
        Method::GET if path.ends_with("/pods") || path.ends_with("/services") => list(&api, &uri),
        Method::GET => match api.get(&path) {
            Some(object) => Json(object).into_response(),
            None => status(StatusCode::NOT_FOUND, "NotFound"),
        },
        Method::POST => {
            let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let mut object = body;
            object["metadata"]["uid"] = json!(format!("uid-of-{name}"));
            (StatusCode::CREATED, Json(api.put(&format!("{path}/{name}"), object))).into_response()
        }
        Method::PATCH => {
            let target = path.trim_end_matches("/status");
            let Some(mut object) = api.get(target) else { return status(StatusCode::NOT_FOUND, "NotFound") };
            merge(&mut object, &body);
            Json(api.put(target, object)).into_response()
        }
        Method::DELETE => {
            let object = api.get(&path);
            api.remove(&path);
            object.map_or_else(
                || status(StatusCode::NOT_FOUND, "NotFound"),
                |object| Json(object).into_response(),
            )
        }
        _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

/// As much of a strategic merge as a kubelet sends: conditions by type, everything else as a merge patch.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.as_object_mut().unwrap().remove(key);
            }
            Value::Array(list) if key == "conditions" => {
                let mut known = target[key].as_array().cloned().unwrap_or_default();
                for condition in list {
                    known.retain(|one| one["type"] != condition["type"]);
                    known.push(condition.clone());
                }
                target[key] = Value::Array(known);
            }
            Value::Array(list) => {
                let kept = list.iter().filter(|item| item.get("$patch").is_none());
                target[key] = Value::Array(kept.cloned().collect());
            }
            other => merge(&mut target[key], other),
        }
    }
}

fn list(api: &Api, uri: &Uri) -> Response {
    let kind = if uri.path().ends_with("/pods") { "Pod" } else { "Service" };
    let query = uri.query().unwrap_or_default();
    let of_kind = move |object: &Value| object["kind"] == kind;
    if !query.contains("watch=true") {
        let store = api.store.lock().unwrap();
        let items: Vec<Value> = store.objects.values().filter(|object| of_kind(object)).cloned().collect();
        let list = json!({"kind": format!("{kind}List"), "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": store.version.to_string()}});
        return Json(list).into_response();
    }
    let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")).unwrap_or("0");
    let from: u64 = from.parse().unwrap_or(0);
    let api = api.clone();
    let lines = futures::stream::unfold((api, from), move |(api, from)| async move {
        loop {
            let waiting = api.changed.clone();
            let changed = waiting.notified();
            let fresh: Vec<_> = {
                let store = api.store.lock().unwrap();
                store
                    .log
                    .iter()
                    .filter(|(version, _, object)| *version > from && of_kind(object))
                    .cloned()
                    .collect()
            };
            if let Some((last, ..)) = fresh.last() {
                let line = |(_, type_, object): &(u64, &str, Value)| {
                    format!("{}\n", json!({"type": type_, "object": object}))
                };
                let text: String = fresh.iter().map(line).collect();
                return Some((Ok::<_, std::convert::Infallible>(text), (api, *last)));
            }
            let _ = tokio::time::timeout(std::time::Duration::from_millis(200), changed).await;
        }
    });
    Response::new(Body::from_stream(lines))
}
