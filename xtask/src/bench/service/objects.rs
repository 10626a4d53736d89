//! The Services that are measured, and those that only stand there.

use serde_json::{Value, json};

use crate::bench::client::request;

/// The namespace of everything that is made.
pub const NAMESPACE: &str = "bench";

fn path(group: &str, plural: &str, name: &str) -> String {
    let root = if group.is_empty() { "/api/v1".into() } else { format!("/apis/{group}/v1") };
    let name = if name.is_empty() { String::new() } else { format!("/{name}") };
    format!("{root}/namespaces/{NAMESPACE}/{plural}{name}")
}

fn create(group: &str, plural: &str, body: &Value) -> Vec<u8> {
    request("POST", &path(group, plural, ""), "application/json", &body.to_string())
}

/// A Service whose endpoints are given by hand. With `node_port`, the outside reaches it, too.
pub fn service(name: &str, address: Option<&str>, node_port: Option<u16>) -> Vec<u8> {
    let mut port = json!({"port": 80, "targetPort": 8080});
    let mut spec = json!({});
    if let Some(number) = node_port {
        port["nodePort"] = number.into();
        spec["type"] = "NodePort".into();
    }
    if let Some(address) = address {
        spec["clusterIP"] = address.into();
    }
    spec["ports"] = json!([port]);
    let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    create("", "services", &body)
}

/// The endpoints of a Service: addresses that all serve on one port.
pub fn slice(service: &str, addresses: &[String], port: u16) -> Vec<u8> {
    let body = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": port, "protocol": "TCP"}],
        "endpoints": endpoints(addresses),
    });
    create("discovery.k8s.io", "endpointslices", &body)
}

fn endpoints(addresses: &[String]) -> Vec<Value> {
    addresses.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect()
}

/// Another port for a Service's endpoints, which is another server.
pub fn move_port(service: &str, port: u16) -> Vec<u8> {
    let body = json!({"ports": [{"name": "", "port": port, "protocol": "TCP"}]});
    let path = path("discovery.k8s.io", "endpointslices", service);
    request("PATCH", &path, "application/merge-patch+json", &body.to_string())
}

/// A Service that only stands there, number `n`, with four endpoints that nobody has.
pub fn idle(n: usize) -> [Vec<u8>; 2] {
    let name = format!("idle-{n:05}");
    let addresses: Vec<String> =
        (0..4).map(|e| format!("10.244.{}.{}", 100 + (n / 250) % 100, 1 + (n + 50 * e) % 250)).collect();
    [slice(&name, &addresses, 8080), service(&name, None, None)]
}

/// The namespace itself, a pod on each node that serves everything the measurements ask for, and one that asks.
pub fn servers() -> String {
    let body = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "apps/v1", "kind": "DaemonSet",
         "metadata": {"name": "pod", "namespace": NAMESPACE},
         "spec": {"selector": {"matchLabels": {"app": "pod"}}, "template": {
            "metadata": {"labels": {"app": "pod"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                container("one", 8080, 9000, 9001), container("two", 8081, 9100, 9101)]}}}},
        {"apiVersion": "apps/v1", "kind": "DaemonSet",
         "metadata": {"name": "client", "namespace": NAMESPACE},
         "spec": {"selector": {"matchLabels": {"app": "client"}}, "template": {
            "metadata": {"labels": {"app": "client"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": [
                container("client", 8080, 9000, 9001)]}}}},
    ]});
    body.to_string()
}

fn container(name: &str, http: u16, tcp: u16, udp: u16) -> Value {
    json!({"name": name, "image": "fairlead/toolbox:latest", "imagePullPolicy": "IfNotPresent",
        "args": ["toolbox", "serve", "--name", name, "--http", http.to_string(), "--tcp", tcp.to_string(),
                 "--udp", udp.to_string()]})
}
