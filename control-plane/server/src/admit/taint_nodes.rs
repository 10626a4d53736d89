//! TaintNodesByCondition: a new node takes no pods before it is ready.

use fairlead_api::status::Status;
use futures::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::api::Api;

pub const PLUGIN: Plugin = Plugin { name: "TaintNodesByCondition", mutate: Some(mutate), ..Plugin::BASE };

const NOT_READY: &str = "node.kubernetes.io/not-ready";

fn mutate<'a>(
    _api: &'a Api,
    attributes: &'a Attributes<'a>,
    node: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    if attributes.is("nodes") && attributes.operation == Operation::Create {
        taint(node);
    }
    std::future::ready(Ok(())).boxed()
}

fn taint(node: &mut Value) {
    if !node["spec"]["taints"].is_array() {
        node["spec"]["taints"] = json!([]);
    }
    let Some(taints) = node["spec"]["taints"].as_array_mut() else { return };
    let has = taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule");
    if !has {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}
