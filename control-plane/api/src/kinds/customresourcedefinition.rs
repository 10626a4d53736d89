//! apiextensions.k8s.io/v1 CustomResourceDefinition.

use super::{cells as c, strategy};
use crate::kind::{Act, Kind, Subresource};
use crate::pod::defaults as d;
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "apiextensions.k8s.io",
    kind: "CustomResourceDefinition",
    plural: "customresourcedefinitions",
    singular: "customresourcedefinition",
    short_names: &["crd", "crds"],
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    message: "apiextensions_apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
    storage: "customresourcedefinitions",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default,
    prepare_create: strategy::create_blank_counted,
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status_only,
    cells: c::name_and_created,
    unconditional_update: false,
    generation: true,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    if let Some(names) = d::object(spec, "names") {
        let kind = names["kind"].as_str().unwrap_or_default().to_owned();
        d::zero(names, "singular", json!(kind.to_lowercase()));
        d::zero(names, "listKind", json!(format!("{kind}List")));
    }
    if let Some(conversion) = d::object(spec, "conversion") {
        d::zero(conversion, "strategy", json!("None"));
    }
}
