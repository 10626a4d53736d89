//! The requests that are measured: objects of the sizes that clusters have.

use crate::bench::client::request;

/// The namespace of everything that is made.
pub const NAMESPACE: &str = "bench";

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

/// The path of the collection of ConfigMaps.
pub fn config_maps() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/configmaps")
}

pub fn pods() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/pods")
}

pub fn create_namespace() -> Vec<u8> {
    let body = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{NAMESPACE}"}}}}"#);
    request("POST", "/api/v1/namespaces", JSON, &body)
}

pub fn create_account() -> Vec<u8> {
    let body = r#"{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"default"}}"#;
    request("POST", &format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts"), JSON, body)
}

/// A ConfigMap that is about 690 bytes long as the server keeps it.
pub fn create_config_map(name: &str) -> Vec<u8> {
    let text = "listen 8080; log warn; upstream backend-a backend-b; ".repeat(4);
    let body = format!(
        concat!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{}","labels":{{"app":"bench"}}}},"#,
            r#""data":{{"server.conf":"{}"}}}}"#
        ),
        name, text
    );
    request("POST", &config_maps(), JSON, &body)
}

/// A change of one value of a ConfigMap.
pub fn patch_config_map(name: &str, value: usize) -> Vec<u8> {
    let body = format!(r#"{{"data":{{"turn":"{value}"}}}}"#);
    request("PATCH", &format!("{}/{name}", config_maps()), MERGE, &body)
}

/// A Pod that no node takes, about 1.9 KB long as the server keeps it.
pub fn create_pod(name: &str) -> Vec<u8> {
    let body = format!(
        concat!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{}","labels":{{"app":"bench"}}}},"#,
            r#""spec":{{"nodeSelector":{{"bench":"nowhere"}},"containers":[{{"name":"web","#,
            r#""image":"registry.example/web:1","resources":{{"requests":{{"cpu":"10m"}}}}}}]}}}}"#
        ),
        name
    );
    request("POST", &pods(), JSON, &body)
}
