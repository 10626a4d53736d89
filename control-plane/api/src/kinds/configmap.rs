//! v1 ConfigMap.

use crate::kind::Kind;
use crate::kind::Printing;
use crate::table::age;
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    schema: "io.k8s.api.core.v1.ConfigMap",
    message: "api.core.v1.ConfigMap",
    storage: "configmaps",
    cells,
    ..Kind::BASE
};

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let count = |field: &str| o[field].as_object().map_or(0, |m| m.len());
    vec![
        o["metadata"]["name"].clone(),
        json!(count("data") + count("binaryData")),
        json!(age(&o["metadata"]["creationTimestamp"], p)),
    ]
}
