//! Bad input: a Status with upstream's code, reason and causes, and nothing lost.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{CLUSTER, Place, feed, kubectl, refused, run, text};

/// Sends a body as it is through `kubectl create --raw`, which prints the server's answer on failure.
fn post(path: &str, body: &str) -> String {
    let out = feed(&["create", "--raw", path, "-f", "-"], body);
    assert!(!out.status.success(), "POST {path} succeeded: {}", text(&out.stdout));
    text(&out.stderr)
}

/// Sends a request with the administrator's certificate by curl; `(code, body)`.
fn curl(method: &str, path: &str, headers: &[&str], body: &[u8]) -> (u16, Value) {
    let pki = CLUSTER.state().join("server/pki");
    let file = |name: &str| pki.join(name).display().to_string();
    let server = kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "-X",
        method,
        "--cacert",
        &file("ca.crt"),
        "--cert",
        &file("admin.crt"),
        "--key",
        &file("admin.key"),
    ]);
    curl.args(["-w", "\n%{http_code}", "--data-binary", "@-", &format!("{server}{path}")]);
    for header in headers {
        curl.args(["-H", header]);
    }
    let mut child = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("curl starts");
    // The server may answer before it has read a body that is too large.
    let _ = child.stdin.take().expect("a pipe").write_all(body);
    let out = child.wait_with_output().expect("curl ends");
    let said = text(&out.stdout);
    let (answer, code) = said.rsplit_once('\n').expect("curl prints the code");
    (code.parse().expect("a code"), serde_json::from_str(answer).unwrap_or(Value::Null))
}

fn causes(status: &Value) -> Vec<(String, String)> {
    let list = status["details"]["causes"].as_array().cloned().unwrap_or_default();
    let field = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    list.iter().map(|c| (field(&c["field"]), field(&c["reason"]))).collect()
}

const JSON: &str = "Content-Type: application/json";

#[test]
fn invalid_objects_name_their_causes() {
    let place = Place::new("invalid");
    let path = format!("/api/v1/namespaces/{}/configmaps", place.namespace);
    let (code, status) = curl("POST", &path, &[JSON], br#"{"metadata":{"name":"Bad_Name"}}"#);
    assert_eq!((code, status["reason"].as_str()), (422, Some("Invalid")), "{status}");
    assert_eq!(causes(&status), [("metadata.name".to_owned(), "FieldValueInvalid".to_owned())], "{status}");
    let policies = format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", place.namespace);
    let body = br#"{"metadata":{"name":"p"},"spec":{"podSelector":{},"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/33"}}]}]}}"#;
    let (code, status) = curl("POST", &policies, &[JSON], body);
    assert_eq!((code, status["reason"].as_str()), (422, Some("Invalid")), "{status}");
    assert_eq!(
        causes(&status),
        [("spec.ingress[0].from[0].ipBlock.cidr".to_owned(), "FieldValueInvalid".to_owned())],
        "{status}"
    );
}

#[test]
fn malformed_bodies_are_bad_requests() {
    let place = Place::new("malformed");
    let path = format!("/api/v1/namespaces/{}/configmaps", place.namespace);
    let protobuf = "Content-Type: application/vnd.kubernetes.protobuf";
    let yaml = "Content-Type: application/yaml";
    for (header, body) in
        [(JSON, &b"{\"a\":"[..]), (yaml, b"a: [b"), (protobuf, b"k8s\0\xff\xff\xff"), (JSON, b"")]
    {
        let (code, status) = curl("POST", &path, &[header], body);
        assert_eq!((code, status["reason"].as_str()), (400, Some("BadRequest")), "{header}: {status}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(curl("POST", &path, &[JSON], deep.as_bytes()).0, 400);
    let (code, status) = curl("POST", &path, &["Content-Type: text/plain"], b"hello");
    assert_eq!((code, status["reason"].as_str()), (415, Some("UnsupportedMediaType")), "{status}");
    let large = format!(r#"{{"metadata":{{"name":"l"}},"data":{{"x":"{}"}}}}"#, "x".repeat(4 << 20));
    assert_eq!(curl("POST", &path, &[JSON], large.as_bytes()).0, 413);
    let wrong = curl("POST", &path, &[JSON], br#"{"metadata":{"name":"w"},"data":{"x":7}}"#);
    assert_eq!(wrong.0, 400, "{}", wrong.1);
}

#[test]
fn unknown_fields_are_refused_when_strict() {
    let place = Place::new("strict");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndatum: {a: b}\n";
    let said = refused(&["-n", &place.namespace, "apply", "-f", "-"], manifest);
    assert!(said.contains("unknown field \"datum\""), "{said}");
    assert!(!run(&["-n", &place.namespace, "get", "configmap", "c"]).status.success(), "nothing was stored");
}

#[test]
fn conflicts_and_immutable_fields_are_refused() {
    let place = Place::new("conflict");
    place.kubectl(&["create", "configmap", "c", "--from-literal=a=1"]);
    let path = format!("/api/v1/namespaces/{}/configmaps/c", place.namespace);
    let body = br#"{"metadata":{"name":"c","resourceVersion":"1"},"data":{"a":"2"}}"#;
    let (code, status) = curl("PUT", &path, &[JSON], body);
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")), "{status}");
    assert_eq!(place.kubectl(&["get", "configmap", "c", "-o", "jsonpath={.data.a}"]), "1");
    let again = post(
        &format!("/api/v1/namespaces/{}/configmaps", place.namespace),
        r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c"}}"#,
    );
    assert!(again.contains("AlreadyExists") || again.contains("already exists"), "{again}");
    place.kubectl(&["create", "service", "clusterip", "s", "--tcp=80:80"]);
    let moved = refused(
        &["-n", &place.namespace, "patch", "service", "s", "-p", r#"{"spec":{"clusterIP":"10.96.9.9"}}"#],
        "",
    );
    assert!(moved.contains("spec.clusterIP") || moved.contains("spec.clusterIPs[0]"), "{moved}");
}

#[test]
fn nobody_gets_in_without_a_certificate() {
    let _place = Place::new("anonymous");
    let server = kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let ca = CLUSTER.state().join("server/pki/ca.crt").display().to_string();
    let ask = |path: &str| {
        let out = Command::new("curl")
            .args([
                "-sS",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--cacert",
                &ca,
                &format!("{server}{path}"),
            ])
            .output()
            .expect("curl starts");
        text(&out.stdout)
    };
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(ask(path), "200", "{path}");
    }
    for path in ["/api", "/api/v1/namespaces", "/apis", "/metrics", "/openapi/v3"] {
        assert_eq!(ask(path), "403", "{path}");
    }
}
