//! The API server over its real TLS listener, with the admin's certificate that it made itself.

mod running;

use http::{Method, Request};
use kube::client::Body;
use running::{Directory, Running};
use serde_json::{Value, json};

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

fn configmap(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_created_read_changed_and_deleted() {
    let directory = Directory::new("crud");
    let server = Running::start(&directory.0).await;
    let made = server.post(CONFIGMAPS, &configmap("a", json!({"k": "1"})), 201).await;
    let path = format!("{CONFIGMAPS}/a");
    assert_eq!(server.get(&path, 200).await, made);
    server.post(CONFIGMAPS, &configmap("a", json!({})), 409).await;
    let patched = server.call(Method::PATCH, &path, &json!({"data": {"k": "2"}})).await;
    let patched = Running::expect(patched, 200);
    assert_eq!(patched["data"]["k"], "2");
    assert_ne!(version(&patched), version(&made));
    let same = Running::expect(server.call(Method::PATCH, &path, &json!({"data": {"k": "2"}})).await, 200);
    assert_eq!(version(&same), version(&patched), "a write that changes nothing writes nothing");
    let gone = Running::expect(server.call(Method::DELETE, &path, &Value::Null).await, 200);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(server.get(&path, 404).await["reason"], "NotFound");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_with_a_stale_version_conflicts_and_of_concurrent_ones_exactly_one_wins() {
    let directory = Directory::new("conflict");
    let server = Running::start(&directory.0).await;
    let made = server.post(CONFIGMAPS, &configmap("a", json!({})), 201).await;
    let path = format!("{CONFIGMAPS}/a");
    let writes = (0..8).map(|i| {
        let mut object = made.clone();
        object["data"] = json!({"writer": i.to_string()});
        let (server, path) = (&server, &path);
        async move { server.call(Method::PUT, path, &object).await.0 }
    });
    let codes = futures::future::join_all(writes).await;
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 409).count(), 7, "{codes:?}");
    let patches = (0..8).map(|i| {
        let (server, path) = (&server, &path);
        async move { server.call(Method::PATCH, path, &json!({"data": {format!("p{i}"): "x"}})).await.0 }
    });
    let codes = futures::future::join_all(patches).await;
    assert!(codes.iter().all(|code| *code == 200), "patches do not insist on a version: {codes:?}");
    assert_eq!(server.get(&path, 200).await["data"].as_object().unwrap().len(), 9);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_at_a_version_without_gap_or_repetition() {
    let directory = Directory::new("watch");
    let server = Running::start(&directory.0).await;
    let mut seen = Vec::new();
    let first = server.post(CONFIGMAPS, &configmap("w0", json!({})), 201).await;
    for i in 1..6 {
        let made = server.post(CONFIGMAPS, &configmap(&format!("w{i}"), json!({})), 201).await;
        seen.push(version(&made).to_owned());
    }
    let from = version(&first).to_owned();
    let events = server.watch(&format!("{CONFIGMAPS}?watch=1&resourceVersion={from}"), 2).await;
    let resumed = version(&events[1]["object"]).to_owned();
    assert_eq!(resumed, seen[1]);
    let rest = server.watch(&format!("{CONFIGMAPS}?watch=1&resourceVersion={resumed}"), 3).await;
    let versions: Vec<&str> = rest.iter().map(|event| version(&event["object"])).collect();
    assert_eq!(versions, seen[2..]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_over_a_restart_without_a_gap() {
    let directory = Directory::new("resumed");
    let server = Running::start(&directory.0).await;
    let made = server.post(CONFIGMAPS, &configmap("a", json!({})), 201).await;
    server.post(CONFIGMAPS, &configmap("b", json!({})), 201).await;
    server.stop().await;
    let server = Running::start(&directory.0).await;
    let path = format!("{CONFIGMAPS}?watch=1&resourceVersion={}", version(&made));
    let events = server.watch(&path, 1).await;
    assert_eq!(
        (&events[0]["type"], &events[0]["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("b"))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_list_show_one_moment_whatever_is_written_between_them() {
    let directory = Directory::new("pages");
    let server = Running::start(&directory.0).await;
    for i in 0..5 {
        server.post(CONFIGMAPS, &configmap(&format!("c{i}"), json!({})), 201).await;
    }
    let first = server.get(&format!("{CONFIGMAPS}?limit=2"), 200).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["c0", "c1"], &json!(3)));
    server.call(Method::DELETE, &format!("{CONFIGMAPS}/c3"), &Value::Null).await;
    server.post(CONFIGMAPS, &configmap("c35", json!({})), 201).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{CONFIGMAPS}?limit=9&continue={token}"), 200).await;
    assert_eq!(names(&rest), ["c2", "c3", "c4"]);
    assert_eq!(names(&server.get(CONFIGMAPS, 200).await), ["c0", "c1", "c2", "c35", "c4"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_cannot_be_taken_are_refused_with_upstreams_codes() {
    let directory = Directory::new("bodies");
    let server = Running::start(&directory.0).await;
    let large = configmap("large", json!({"k": "x".repeat(4 << 20)}));
    let refused = server.post(CONFIGMAPS, &large, 413).await;
    assert_eq!(refused["reason"], "RequestEntityTooLarge");
    for (media, body, code) in [
        ("application/json", "{", 400),
        ("application/yaml", "a: [", 400),
        ("application/vnd.kubernetes.protobuf", "xx", 400),
        ("text/plain", "x", 415),
        ("application/json", r#"{"metadata":{"name":"UPPER"}}"#, 422),
    ] {
        let response = server.send(Method::POST, CONFIGMAPS, media, body.into()).await;
        assert_eq!(response.status(), code, "{media} {body}");
    }
    server.get("/api/v1/nothing", 404).await;
    Running::expect(server.call(Method::DELETE, "/api/v1/configmaps", &Value::Null).await, 405);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revisions_data_may_not_change_by_a_byte() {
    let directory = Directory::new("verbatim");
    let server = Running::start(&directory.0).await;
    let path = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let body = |name: &str, data: &str| {
        format!(r#"{{"metadata":{{"name":"{name}"}},"revision":1,"data":{data}}}"#).into_bytes()
    };
    for (name, data, code) in [("compact", r#"{"b":1,"a":{}}"#, 200), ("spaced", r#"{"b": 1, "a": {}}"#, 422)]
    {
        let made = server.send(Method::POST, path, "application/json", body(name, data)).await;
        assert_eq!(made.status(), 201, "{name}");
        let path = format!("{path}/{name}");
        let again = server.send(Method::PUT, &path, "application/json", body(name, data)).await;
        assert_eq!(again.status(), 200, "{name}: the same text");
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        Running::expect(server.call(Method::PATCH, &path, &label).await, code);
        let changed = json!({"revision": -1, "data": {"b": 2}});
        let refused = Running::expect(server.call(Method::PATCH, &path, &changed).await, 422);
        assert_eq!(refused["details"]["causes"].as_array().unwrap().len(), 2, "{refused}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_patch_makes_no_other_kind_of_an_object_and_is_quoted_as_upstream_quotes_it() {
    let directory = Directory::new("patches");
    let server = Running::start(&directory.0).await;
    server.post(CONFIGMAPS, &configmap("a", json!({"k": "<v>"})), 201).await;
    let path = format!("{CONFIGMAPS}/a");
    let patch = |media: &'static str, body: Value| {
        let (server, path) = (&server, &path);
        async move {
            let response = server.send(Method::PATCH, path, media, body.to_string().into_bytes()).await;
            let code = response.status();
            let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
            (code, serde_json::from_slice::<Value>(&bytes).unwrap())
        }
    };
    let (merge, json, strategic) = (
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/strategic-merge-patch+json",
    );
    for (media, body, words) in [
        (merge, json!({"kind": "Secret"}), "converting (v1.Secret) to (core.ConfigMap): unknown conversion"),
        (merge, json!({"kind": "No"}), "no kind \"No\" is registered for version \"v1\""),
        (
            merge,
            json!({"data": {"n": 5}}),
            r#"{\"apiVersion\":\"v1\",\"data\":{\"k\":\"\\u003cv\\u003e\",\"n\":5},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\",\"namespace\":\"default\",\"uid\":"#,
        ),
        (
            json,
            json!([{"op": "add", "path": "/data/n", "value": 5}]),
            r#"\"n\":5},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\",\"namespace\":"#,
        ),
        (strategic, json!({"data": "x"}), "Invalid value: \"map[data:x]\": cannot restore map from string"),
        (
            strategic,
            json!({"data": {"n": 5}}),
            "Invalid value: \"map[data:map[n:5]]\": cannot convert int64 to string",
        ),
        (strategic, json!({"immutable": "x"}), "unrecognized type: bool"),
    ] {
        let refused = Running::expect(patch(media, body).await, 422);
        assert!(refused["message"].as_str().unwrap().contains(words), "{words}\n{refused}");
    }
    Running::expect(patch(strategic, json!({"kind": "Secret"})).await, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart_and_addresses_stay_taken() {
    let directory = Directory::new("restart");
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, ip: Option<&str>| json!({"metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    let server = Running::start(&directory.0).await;
    let made = server.post(CONFIGMAPS, &configmap("kept", json!({"k": "v"})), 201).await;
    let many = (0..24).map(|i| {
        let server = &server;
        async move { server.post(services, &service(&format!("s{i}"), None), 201).await }
    });
    let made_services = futures::future::join_all(many).await;
    let mut addresses: Vec<&str> =
        made_services.iter().map(|made| made["spec"]["clusterIP"].as_str().unwrap()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 24, "no two Services share an address");
    server.stop().await;
    let server = Running::start(&directory.0).await;
    assert_eq!(server.get(&format!("{CONFIGMAPS}/kept"), 200).await, made);
    let taken = server.post(services, &service("thief", Some(addresses[0])), 422).await;
    assert!(taken["message"].as_str().unwrap().contains("provided IP is already allocated"), "{taken}");
    let owner = made_services.iter().find(|made| made["spec"]["clusterIP"] == addresses[0]).unwrap();
    let path = format!("{services}/{}", owner["metadata"]["name"].as_str().unwrap());
    Running::expect(server.call(Method::DELETE, &path, &Value::Null).await, 200);
    server.post(services, &service("heir", Some(addresses[0])), 201).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_without_proof_gets_more_than_health_and_version() {
    let directory = Directory::new("anonymous");
    let server = Running::start(&directory.0).await;
    let file = kube::config::Kubeconfig::read_from(directory.0.join("admin.kubeconfig")).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(file, &options).await.unwrap();
    config.auth_info = kube::config::AuthInfo::default();
    let with_port = server.get("/api", 200).await["serverAddressByClientCIDRs"][0]["serverAddress"].clone();
    config.cluster_url = format!("https://{}", with_port.as_str().unwrap()).parse().unwrap();
    let client = kube::Client::try_from(config).unwrap();
    for (path, code) in
        [("/healthz", 200), ("/readyz", 200), ("/version", 200), ("/api", 403), (CONFIGMAPS, 403)]
    {
        let request = Request::get(path).body(Body::from(Vec::new())).unwrap();
        let answer = client.send(request).await.unwrap().status();
        assert!(answer == code || (code == 403 && answer == 401), "{path}: {answer}");
    }
    server.stop().await;
}
