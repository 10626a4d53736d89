//! v1 Node.

use super::{cells as c, fields::flag, strategy};
use crate::kind::{Act, Kind, Subresource};
use crate::kind::{FieldLabel, Printing};
use crate::validate::{Field, names, net, resources, scheduling};
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    schema: "io.k8s.api.core.v1.Node",
    message: "api.core.v1.Node",
    storage: "nodes",
    subresources: &[
        Subresource {
            name: "proxy",
            verbs: &["create", "delete", "get", "patch", "update"],
            act: Act::Proxy,
        },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    default,
    prepare_update: strategy::update,
    prepare_status: strategy::status,
    validate,
    validate_update,
    validate_status: validate_update,
    cells,
    fields: &[FieldLabel { label: "spec.unschedulable", value: |o| flag(&o["spec"]["unschedulable"]) }],
    ..Kind::BASE
};

const SYSTEM_INFO: &[&str] = &[
    "architecture",
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeProxyVersion",
    "kubeletVersion",
    "machineID",
    "operatingSystem",
    "osImage",
    "systemUUID",
];

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    pod_cidrs(spec);
    let Some(status) = d::object(v, "status") else { return };
    for list in ["capacity", "allocatable"] {
        d::with(status, list, d::whole_milli);
    }
    let capacity = status["capacity"].clone();
    // An empty one counts as none: upstream's store keeps no empty map, and its defaults run again on what it reads.
    let given = status["allocatable"].as_object().is_some_and(|amounts| !amounts.is_empty());
    if capacity.is_object() && !given {
        status["allocatable"] = capacity;
    }
    if let Some(info) = d::object(status, "nodeInfo") {
        for name in SYSTEM_INFO {
            d::unset(info, name, json!(""));
        }
    }
    if let Some(endpoint) = d::object(status, "daemonEndpoints").and_then(|e| d::object(e, "kubeletEndpoint"))
    {
        d::unset(endpoint, "Port", json!(0));
    }
}

/// `podCIDR` is the first of `podCIDRs`; when they differ the single one wins.
fn pod_cidrs(spec: &mut Value) {
    let single = spec["podCIDR"].as_str().unwrap_or_default().to_owned();
    let first = spec["podCIDRs"][0].as_str().unwrap_or_default().to_owned();
    if !single.is_empty() && single != first {
        spec["podCIDRs"] = json!([single]);
    } else if single.is_empty() && !first.is_empty() {
        spec["podCIDR"] = json!(first);
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let (f, spec) = (Field::root(v), Field::root(v).get("spec"));
    // Upstream reports taints below `metadata`.
    let taints = Field::at(spec.get("taints").value, f.path.child("metadata").child("taints"));
    scheduling::taints(&taints, &mut e);
    let cidrs = spec.get("podCIDRs");
    let read: Vec<_> = cidrs.items().filter_map(|c| net::cidr(&c, &mut e)).collect();
    if read.len() == cidrs.len() && read.len() > 1 {
        let v4 = read.iter().filter(|n| n.addr().is_ipv4()).count();
        if read.len() > 2 || v4 != 1 {
            cidrs.invalid(&mut e, "may specify no more than one CIDR for each IP family");
        }
    }
    for list in ["capacity", "allocatable"] {
        for (name, amount) in f.get("status").get(list).entries() {
            resources::quantity_value(name, &amount, &mut e);
        }
    }
    e
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let (spec, was) = (Field::root(new).get("spec"), &old["spec"]);
    let mut seen: Vec<&Value> = Vec::new();
    for address in Field::root(new).get("status").get("addresses").items() {
        if seen.contains(&address.value) {
            address.duplicate(&mut e);
        }
        seen.push(address.value);
    }
    if was["podCIDRs"].as_array().is_some_and(|l| !l.is_empty()) && spec.value["podCIDRs"] != was["podCIDRs"]
    {
        let words = "node updates may not change podCIDR except from \"\" to valid";
        spec.get("podCIDRs").forbidden(&mut e, words);
    }
    if was["providerID"].as_str().is_some_and(|p| !p.is_empty())
        && spec.value["providerID"] != was["providerID"]
    {
        let words = "node updates may not change providerID except from \"\" to valid";
        spec.get("providerID").forbidden(&mut e, words);
    }
    let kind = spec.get("configSource");
    if kind.is_set() && kind.get("configMap").is_set() {
        let name = kind.get("configMap").get("name");
        e.extend(
            names::dns_subdomain(name.str())
                .into_iter()
                .map(|m| field::invalid_str(&name.path, name.str(), m)),
        );
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let status = &o["status"];
    let info = &status["nodeInfo"];
    let address = |kind: &str| {
        let list = status["addresses"].as_array().into_iter().flatten();
        let found = list.into_iter().find(|a| a["type"] == kind);
        c::text_or(found.map_or(&Value::Null, |a| &a["address"]), "<none>")
    };
    vec![
        c::name(o),
        json!(conditions(o)),
        json!(roles(o)),
        c::age(o, p),
        c::text(&info["kubeletVersion"]),
        address("InternalIP"),
        address("ExternalIP"),
        c::text_or(&info["osImage"], "<unknown>"),
        c::text_or(&info["kernelVersion"], "<unknown>"),
        c::text_or(&info["containerRuntimeVersion"], "<unknown>"),
    ]
}

fn conditions(o: &Value) -> String {
    let list = o["status"]["conditions"].as_array().into_iter().flatten();
    let mut words: Vec<&str> = list
        .filter(|c| c["type"] == "Ready")
        .map(|c| if c["status"] == "True" { "Ready" } else { "NotReady" })
        .collect();
    if words.is_empty() {
        words.push("Unknown");
    }
    if o["spec"]["unschedulable"] == true {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(o: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in o["metadata"]["labels"].as_object().into_iter().flatten() {
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if key == "kubernetes.io/role" => value.as_str().unwrap_or_default(),
            None => "",
        };
        if !role.is_empty() && !roles.contains(&role) {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}
