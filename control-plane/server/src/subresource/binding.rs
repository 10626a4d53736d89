//! `pods/binding`, and the older way of a POST to `bindings`: the scheduler says where a pod runs.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::{
    decode::Expected,
    field::{ErrorList, Path, not_supported, required},
    registry,
    status::{self, Status},
};
use http::HeaderMap;
use serde_json::{Value, json};

use crate::{
    api::{Api, Call},
    ingest::{self, Verb, WriteOptions},
    managed::Tracking,
    reply::Answer,
    write::{Part, Writing, now},
};

const BINDING: Expected<'static> =
    Expected { group: "", version: "v1", kind: "Binding", schema: "io.k8s.api.core.v1.Binding" };

/// POST.
pub async fn bind(api: &Arc<Api>, call: &Call, headers: &HeaderMap, body: &Bytes) -> Answer {
    let options = WriteOptions::parse(Verb::Create, &call.params)?;
    let (mut binding, _) = ingest::typed(&BINDING, ingest::media(headers), body, options.validation)?;
    ingest::check_namespace(&binding, &call.resource.namespace)?;
    let own = binding["metadata"]["name"].as_str().unwrap_or_default();
    let name = if call.resource.subresource.is_empty() { own } else { &call.resource.name };
    if own != name {
        return Err(status::bad_request("name in URL does not match name in Binding object"));
    }
    let name = name.to_owned();
    super::admit(api, call, &mut binding, options.dry_run).await?;
    check(&binding)?;
    let pods = registry::find("", "v1", "pods").ok_or_else(status::no_such_resource)?;
    let mut resource = call.resource.clone();
    resource.name.clone_from(&name);
    let pod_call = Call { kind: pods, ..call.named(resource) };
    let mut writing = Writing::new(api, &pod_call, options, Part::Inner);
    writing.tracking = Tracking::Nobody;
    writing.derived = true;
    writing.update(&name, |_, current| bound(&binding, &name, &current.object)).await?;
    Ok(super::done(call))
}

/// What is wrong with a binding is an error without a status of its own in upstream, and so answers 500.
fn check(binding: &Value) -> Result<(), Status> {
    let target = Path::new("target");
    let mut errors = ErrorList::new();
    let text = |field: &str| binding["target"][field].as_str().unwrap_or_default();
    if !matches!(text("kind"), "" | "Node") {
        errors.push(not_supported(&target.child("kind"), &json!(text("kind")), &["Node", "<empty>"]));
    }
    if text("name").is_empty() {
        errors.push(required(&target.child("name"), ""));
    }
    let words: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if words.is_empty() { Ok(()) } else { Err(status::plain(status::aggregate(&words))) }
}

/// The pod with its node.
fn bound(binding: &Value, name: &str, pod: &Value) -> Result<Value, Status> {
    let conflict = |message: String| status::conflict("", "pods/binding", name, &message);
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && pod["metadata"]["uid"] != uid {
        let present = pod["metadata"]["uid"].as_str().unwrap_or_default();
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {present}"
        )));
    }
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let present = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !present.is_empty() {
        return Err(conflict(format!("pod {name} is already assigned to node {present:?}")));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let mut new = pod.clone();
    new["spec"]["nodeName"] = node.into();
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            new["metadata"][field][key] = value.clone();
        }
    }
    scheduled(&mut new);
    Ok(new)
}

/// Sets condition PodScheduled.
fn scheduled(pod: &mut Value) {
    let condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now()});
    let conditions = &mut pod["status"]["conditions"];
    let Some(list) = conditions.as_array_mut() else {
        *conditions = json!([condition]);
        return;
    };
    list.retain(|condition| condition["type"] != "PodScheduled");
    list.push(condition);
}
