//! v1 Pod.

use super::{
    fields::{flag, label},
    strategy,
};
use crate::kind::FieldLabel;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, pod as check};
use crate::{field::ErrorList, pod};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    schema: "io.k8s.api.core.v1.Pod",
    message: "api.core.v1.Pod",
    storage: "pods",
    subresources: &[
        Subresource { name: "attach", verbs: &["create", "get"], act: Act::Attach },
        Subresource { name: "binding", verbs: &["create"], act: Act::Binding },
        Subresource {
            name: "ephemeralcontainers",
            verbs: &["get", "patch", "update"],
            act: Act::EphemeralContainers,
        },
        Subresource { name: "eviction", verbs: &["create"], act: Act::Eviction },
        Subresource { name: "exec", verbs: &["create", "get"], act: Act::Exec },
        Subresource { name: "log", verbs: &["get"], act: Act::Log },
        Subresource { name: "portforward", verbs: &["create", "get"], act: Act::PortForward },
        Subresource {
            name: "proxy",
            verbs: &["create", "delete", "get", "patch", "update"],
            act: Act::Proxy,
        },
        Subresource { name: "resize", verbs: &["get", "patch", "update"], act: Act::Resize },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    default: pod::defaults::pod,
    prepare_create,
    prepare_update,
    prepare_status,
    validate,
    validate_update: pod::update::spec,
    validate_status: pod::update::status,
    warnings: |new, old| super::warnings::pod(new, old),
    cells: pod::printer::cells,
    fields: FIELDS,
    generation: true,
    grace: Some(grace),
    ..Kind::BASE
};

const FIELDS: &[FieldLabel] = &[
    FieldLabel { label: "spec.nodeName", value: |o| label(&o["spec"]["nodeName"]) },
    FieldLabel { label: "spec.restartPolicy", value: |o| label(&o["spec"]["restartPolicy"]) },
    FieldLabel { label: "spec.schedulerName", value: |o| label(&o["spec"]["schedulerName"]) },
    FieldLabel { label: "spec.serviceAccountName", value: |o| label(&o["spec"]["serviceAccountName"]) },
    FieldLabel { label: "spec.hostNetwork", value: |o| flag(&o["spec"]["hostNetwork"]) },
    FieldLabel { label: "status.phase", value: |o| label(&o["status"]["phase"]) },
    FieldLabel { label: "status.podIP", value: |o| label(&o["status"]["podIP"]) },
    FieldLabel { label: "status.podIPs", value: |o| label(&o["status"]["podIPs"][0]["ip"]) },
    FieldLabel { label: "status.nominatedNodeName", value: |o| label(&o["status"]["nominatedNodeName"]) },
];

fn prepare_create(v: &mut Value) {
    strategy::create_counted(v, json!({"phase": "Pending", "qosClass": pod::qos::class(v)}));
    pod::defaults::own_labels(v);
    if Field::root(v).get("spec").get("schedulingGates").is_empty() {
        return;
    }
    let now = v["metadata"]["creationTimestamp"].clone();
    v["status"]["conditions"] = json!([{
        "type": "PodScheduled",
        "status": "False",
        "reason": "SchedulingGated",
        "message": "Scheduling is blocked due to non-empty scheduling gates",
        "lastProbeTime": null,
        "lastTransitionTime": now,
    }]);
}

fn prepare_update(new: &mut Value, old: &Value) {
    strategy::update_counted(new, old);
    let open = |v: &Value| v["spec"]["schedulingGates"].as_array().is_none_or(Vec::is_empty);
    if open(new) && !open(old) {
        // The last gate is gone: the condition that tells of it goes too.
        if let Some(list) = new["status"]["conditions"].as_array_mut() {
            list.retain(|c| c["reason"] != "SchedulingGated");
        }
    }
}

fn prepare_status(new: &mut Value, old: &Value) {
    strategy::status(new, old);
    if let Some(meta) = new.get_mut("metadata") {
        strategy::take(meta, &old["metadata"], "ownerReferences");
    }
    // The class is settled at creation; a node that leaves it out does not mean to change it.
    if new["status"].is_object() {
        pod::defaults::zero(&mut new["status"], "qosClass", old["status"]["qosClass"].clone());
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = Field::root(v).get("spec");
    check::spec(&spec, &mut errors);
    // Adding one later makes a second generation.
    let ephemeral = spec.get("ephemeralContainers");
    if v["metadata"]["generation"] == 1 && !ephemeral.is_empty() {
        errors.retain(|e| !e.path.starts_with("spec.ephemeralContainers"));
        ephemeral.forbidden(&mut errors, "cannot be set on create");
    }
    if !spec.get("schedulingGates").is_empty() && !spec.get("nodeName").is_empty() {
        let words = "cannot be set until all schedulingGates have been cleared";
        spec.get("nodeName").forbidden(&mut errors, words);
    }
    errors
}

/// Pods that no node has seen go at once.
fn grace(v: &Value) -> i64 {
    let spec = &v["spec"];
    let over = ["Failed", "Succeeded"].iter().any(|p| v["status"]["phase"] == *p);
    if over || spec["nodeName"].as_str().is_none_or(str::is_empty) {
        return 0;
    }
    spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30)
}
