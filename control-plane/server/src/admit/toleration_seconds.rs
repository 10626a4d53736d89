//! DefaultTolerationSeconds: pods stay five minutes on a node that went away, unless they say otherwise.

use fairlead_api::status::Status;
use futures::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::api::Api;

pub const PLUGIN: Plugin = Plugin { name: "DefaultTolerationSeconds", mutate: Some(mutate), ..Plugin::BASE };

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

fn mutate<'a>(
    _api: &'a Api,
    attributes: &'a Attributes<'a>,
    pod: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    if attributes.is("pods") && matches!(attributes.operation, Operation::Create | Operation::Update) {
        tolerate(pod);
    }
    std::future::ready(Ok(())).boxed()
}

fn tolerate(pod: &mut Value) {
    let own = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let covers = |toleration: &Value, key: &str| {
        let text = |field: &str| toleration[field].as_str().unwrap_or_default();
        (text("key") == key || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
    };
    let missing: Vec<Value> = TAINTS
        .iter()
        .filter(|key| !own.iter().any(|toleration| covers(toleration, key)))
        .map(|key| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}))
        .collect();
    if !missing.is_empty() {
        pod["spec"]["tolerations"] = own.into_iter().chain(missing).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tolerations_are_kept_and_missing_ones_added_once() {
        let mut pod = json!({"spec": {"tolerations": [{"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute"}]}});
        tolerate(&mut pod);
        tolerate(&mut pod);
        let keys: Vec<&str> = pod["spec"]["tolerations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["key"].as_str().unwrap())
            .collect();
        assert_eq!(keys, TAINTS);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerate(&mut all);
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
    }
}
