//! What is served: plain discovery (`/api`, `/apis`, `/apis/{group}`, `/apis/{group}/{version}`) and the aggregated form
//! (`apidiscovery.k8s.io`), all from the registry.

use serde_json::{Map, Value, json};

use crate::{
    kind::{Act, Kind, Subresource},
    kinds::REGISTRY,
    registry,
};

/// Groups in the order in which clients resolve a short name; groups that are not named here come last.
const ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "resource.k8s.io",
];

/// Every group with its versions, the preferred one first.
pub fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
    for kind in REGISTRY {
        match groups.iter_mut().find(|(group, _)| *group == kind.group) {
            Some((_, versions)) if versions.contains(&kind.version) => {}
            Some((_, versions)) => versions.push(kind.version),
            None => groups.push((kind.group, vec![kind.version])),
        }
    }
    let place = |group: &str| ORDER.iter().position(|g| *g == group).unwrap_or(ORDER.len());
    groups.sort_by_key(|(group, _)| place(group));
    for (_, versions) in &mut groups {
        versions.sort_by(|a, b| b.cmp(a));
    }
    groups
}

/// `/api`. `server` is `host:port` as clients reach it.
pub fn api_versions(server: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    })
}

fn group_body(group: &str, versions: &[&str]) -> Map<String, Value> {
    let versions: Vec<Value> =
        versions.iter().map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v})).collect();
    let mut body = Map::new();
    body.insert("name".into(), group.into());
    body.insert("preferredVersion".into(), versions.first().cloned().unwrap_or_default());
    body.insert("versions".into(), Value::Array(versions));
    body
}

/// `/apis`
pub fn group_list() -> Value {
    let groups: Vec<Value> = groups()
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| Value::Object(group_body(group, versions)))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`
pub fn group(name: &str) -> Option<Value> {
    let groups = groups();
    let (group, versions) = groups.iter().find(|(group, _)| *group == name && !group.is_empty())?;
    let mut body = group_body(group, versions);
    body.insert("kind".into(), "APIGroup".into());
    body.insert("apiVersion".into(), "v1".into());
    Some(Value::Object(body))
}

/// The kinds of one group and version by resource name.
fn sorted(group: &str, version: &str) -> Vec<&'static Kind> {
    let mut kinds: Vec<&'static Kind> = registry::of_version(group, version).collect();
    kinds.sort_by_key(|k| k.plural);
    kinds
}

/// Group, version and kind of what a subresource answers with; empty where they are the parent's.
fn response_kind(kind: &Kind, subresource: &Subresource) -> (&'static str, &'static str, &'static str) {
    match subresource.act {
        Act::Scale { .. } => ("autoscaling", "v1", "Scale"),
        Act::Eviction => ("policy", "v1", "Eviction"),
        Act::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
        Act::Binding => ("", "", "Binding"),
        Act::Exec => ("", "", "PodExecOptions"),
        Act::Attach => ("", "", "PodAttachOptions"),
        Act::PortForward => ("", "", "PodPortForwardOptions"),
        Act::Proxy => match kind.kind {
            "Node" => ("", "", "NodeProxyOptions"),
            "Service" => ("", "", "ServiceProxyOptions"),
            _ => ("", "", "PodProxyOptions"),
        },
        Act::Status | Act::Log | Act::EphemeralContainers | Act::Resize | Act::Finalize | Act::Approval => {
            ("", "", kind.kind)
        }
    }
}

/// `/api/v1` and `/apis/{group}/{version}`
pub fn resource_list(group: &str, version: &str) -> Option<Value> {
    let kinds = sorted(group, version);
    let api_version = kinds.first()?.api_version();
    let mut resources = Vec::new();
    for kind in kinds {
        let mut body = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs,
        });
        names(&mut body, kind);
        resources.push(body);
        for subresource in kind.subresources {
            let (group, version, answer) = response_kind(kind, subresource);
            let mut body = json!({
                "name": format!("{}/{}", kind.plural, subresource.name),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": answer,
                "verbs": subresource.verbs,
            });
            if !group.is_empty() {
                body["group"] = group.into();
                body["version"] = version.into();
            }
            resources.push(body);
        }
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version,
        "resources": resources,
    }))
}

fn names(body: &mut Value, kind: &Kind) {
    if !kind.short_names.is_empty() {
        body["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        body["categories"] = json!(kind.categories);
    }
}

/// Which version of `apidiscovery.k8s.io` the client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregated {
    V2,
    V2Beta1,
}

/// The aggregated answer at `/api` (`core`) or `/apis`.
pub fn aggregated(core: bool, version: Aggregated) -> Value {
    let items: Vec<Value> = groups()
        .iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| aggregated_group(group, versions))
        .collect();
    let api_version = match version {
        Aggregated::V2 => "apidiscovery.k8s.io/v2",
        Aggregated::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
    };
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items})
}

fn aggregated_group(group: &str, versions: &[&str]) -> Value {
    let mut metadata = Map::new();
    if !group.is_empty() {
        metadata.insert("name".into(), group.into());
    }
    metadata.insert("creationTimestamp".into(), Value::Null);
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> = sorted(group, version).into_iter().map(aggregated_resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let mut body = json!({
        "resource": kind.plural,
        "responseKind": {"group": "", "version": "", "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    names(&mut body, kind);
    if !kind.subresources.is_empty() {
        body["subresources"] = kind
            .subresources
            .iter()
            .map(|subresource| {
                let (group, version, answer) = response_kind(kind, subresource);
                json!({
                    "subresource": subresource.name,
                    "responseKind": {"group": group, "version": version, "kind": answer},
                    "verbs": subresource.verbs,
                })
            })
            .collect();
    }
    body
}
