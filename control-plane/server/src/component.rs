//! ComponentStatuses: made when somebody asks, of the store and of the parts that run in this process. A part that ends takes
//! the process along, so those that are there are well.

use fairlead_api::kind::Kind;
use serde_json::{Value, json};

use crate::api::Api;

/// All of them, in the order of their names; `None` for another kind.
pub async fn objects(api: &Api, kind: &Kind) -> Option<Vec<Value>> {
    if kind.kind != "ComponentStatus" {
        return None;
    }
    let stored = api.store.check().await.map_err(|error| error.to_string());
    let mut all: Vec<Value> = api.parts.iter().map(|part| object(part, Ok(()))).collect();
    all.push(object("etcd-0", stored));
    all.sort_by(|a, b| a["metadata"]["name"].as_str().cmp(&b["metadata"]["name"].as_str()));
    Some(all)
}

fn object(name: &str, well: Result<(), String>) -> Value {
    let mut condition = json!({"type": "Healthy", "status": if well.is_ok() { "True" } else { "False" }});
    match well {
        Ok(()) => condition["message"] = "ok".into(),
        Err(error) => condition["error"] = error.into(),
    }
    json!({"apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name}, "conditions": [condition]})
}
