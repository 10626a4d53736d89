//! networking.k8s.io/v1 IngressClass.

use super::{cells as c, ingress, strategy};
use crate::kind::Kind;
use crate::kind::Printing;
use crate::validate::{Field, names};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    namespaced: false,
    schema: "io.k8s.api.networking.v1.IngressClass",
    message: "api.networking.v1.IngressClass",
    storage: "ingressclasses",
    prepare_create: strategy::first_generation,
    prepare_update: |new, old| strategy::count(new, old, |v| v["spec"].clone()),
    default,
    validate,
    validate_update: |new, old| strategy::immutable(new, old, &["spec.controller"]),
    cells,
    generation: true,
    ..Kind::BASE
};

fn default(v: &mut Value) {
    d::with(v, "spec", |s| d::with(s, "parameters", |p| d::unset(p, "scope", json!("Cluster"))));
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let (controller, parameters) = (s.get("controller"), s.get("parameters"));
    if controller.present(&mut e) {
        if controller.len() > 250 {
            controller.too_long(&mut e, 250);
        }
        controller.all(&mut e, names::domain_prefixed_path(controller.str()));
    }
    if !parameters.is_set() {
        return e;
    }
    ingress::reference(&parameters, &mut e);
    let space = parameters.get("namespace");
    match parameters.get("scope").str() {
        "Namespace" => {
            if !space.is_set() {
                space.required(&mut e, "`parameters.scope` is set to 'Namespace'");
            } else {
                space.all(&mut e, names::dns_label(space.str()));
            }
        }
        "Cluster" => {
            if space.is_set() {
                space.forbidden(&mut e, "`parameters.scope` is set to 'Cluster'");
            }
        }
        _ => parameters.get("scope").not_supported(&mut e, &["Cluster", "Namespace"]),
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let parameters = &o["spec"]["parameters"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let words = if parameters.is_object() {
        let kind = match text(&parameters["apiGroup"]) {
            g if g.is_empty() => text(&parameters["kind"]),
            g => format!("{}.{g}", text(&parameters["kind"])),
        };
        format!("{kind}/{}", text(&parameters["name"]))
    } else {
        "<none>".into()
    };
    vec![c::name(o), c::text(&o["spec"]["controller"]), json!(words), c::age(o, p)]
}
