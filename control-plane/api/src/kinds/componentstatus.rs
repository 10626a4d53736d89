//! v1 ComponentStatus.

use super::cells as c;
use crate::kind::Kind;
use crate::kind::Printing;
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "ComponentStatus",
    plural: "componentstatuses",
    singular: "componentstatus",
    short_names: &["cs"],
    namespaced: false,
    verbs: &["get", "list"],
    schema: "io.k8s.api.core.v1.ComponentStatus",
    message: "api.core.v1.ComponentStatus",
    storage: "componentstatuses",
    cells,
    deprecated: Some("v1 ComponentStatus is deprecated in v1.19+"),
    ..Kind::BASE
};

fn cells(o: &Value, _: &Printing) -> Vec<Value> {
    let healthy = o["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Healthy");
    let get = |k: &str| healthy.and_then(|c| c[k].as_str()).unwrap_or_default().to_owned();
    let status = if get("status") == "True" { "Healthy" } else { "Unhealthy" };
    vec![c::name(o), json!(status), json!(get("message")), json!(get("error"))]
}
