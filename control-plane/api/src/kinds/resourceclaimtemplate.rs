//! resource.k8s.io/v1 ResourceClaimTemplate.

use super::{cells as c, devices, strategy};
use crate::kind::Kind;
use crate::validate::{Field, meta, selector};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::Value;

pub static KIND: Kind = Kind {
    group: "resource.k8s.io",
    kind: "ResourceClaimTemplate",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    schema: "io.k8s.api.resource.v1.ResourceClaimTemplate",
    message: "api.resource.v1.ResourceClaimTemplate",
    storage: "resourceclaimtemplates",
    default,
    // What cannot change is not judged again.
    validate: |v| {
        let mut e = ErrorList::new();
        let template = Field::root(v).get("spec");
        if strategy::is_new(v) {
            selector::labels(&template.get("metadata").get("labels"), &mut e);
            meta::annotations(&template.get("metadata").get("annotations"), &mut e);
            devices::spec(&template.get("spec"), &mut e);
        }
        e
    },
    validate_update: |new, old| strategy::immutable(new, old, &["spec"]),
    cells: |o, p| vec![c::name(o), c::age(o, p)],
    ..Kind::BASE
};

fn default(v: &mut Value) {
    let Some(outer) = d::object(v, "spec") else { return };
    d::object(outer, "metadata");
    if let Some(spec) = d::object(outer, "spec") {
        devices::default(spec);
    }
}
