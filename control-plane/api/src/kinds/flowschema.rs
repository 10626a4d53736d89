//! flowcontrol.apiserver.k8s.io/v1 FlowSchema.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, names};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    namespaced: false,
    schema: "io.k8s.api.flowcontrol.v1.FlowSchema",
    message: "api.flowcontrol.v1.FlowSchema",
    storage: "flowschemas",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default: |v| {
        if let Some(s) = d::object(v, "spec") {
            d::zero(s, "matchingPrecedence", json!(1000));
        }
    },
    prepare_create: strategy::create_blank_counted,
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status_only,
    validate,
    cells,
    generation: true,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let precedence = s.get("matchingPrecedence");
    if !(1..=10_000).contains(&precedence.num()) {
        precedence.invalid(&mut e, "must be between 1 and 10000, inclusive");
    }
    let method = s.get("distinguisherMethod");
    if method.is_set() {
        method.get("type").required_one_of(&mut e, &["ByNamespace", "ByUser"]);
    }
    let level = s.get("priorityLevelConfiguration").get("name");
    if level.present(&mut e) {
        level.all(&mut e, names::dns_subdomain(level.str()));
    }
    for rule in s.get("rules").items() {
        if rule.get("subjects").is_empty() {
            rule.get("subjects").required(&mut e, "subjects must contain at least one value");
        }
        for subject in rule.get("subjects").items() {
            let part = match subject.get("kind").str() {
                "User" => "user",
                "Group" => "group",
                "ServiceAccount" => "serviceAccount",
                _ => {
                    subject.get("kind").not_supported(&mut e, &["Group", "ServiceAccount", "User"]);
                    continue;
                }
            };
            if subject.get(part).is_set() {
                subject.get(part).get("name").present(&mut e);
            } else {
                subject.get(part).required(&mut e, "");
            }
        }
        if rule.get("resourceRules").is_empty() && rule.get("nonResourceRules").is_empty() {
            rule.required(&mut e, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
        for resource in rule.get("resourceRules").items() {
            for list in ["verbs", "apiGroups", "resources"] {
                resource.get(list).present(&mut e);
            }
            if resource.get("namespaces").is_empty() && !resource.get("clusterScope").is_true() {
                resource.get("namespaces").required(
                    &mut e,
                    "resource rules that are not cluster scoped must supply at least one namespace",
                );
            }
        }
        for plain in rule.get("nonResourceRules").items() {
            for list in ["verbs", "nonResourceURLs"] {
                plain.get(list).present(&mut e);
            }
        }
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let s = &o["spec"];
    let dangling =
        o["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Dangling");
    vec![
        c::name(o),
        c::text_or(&s["priorityLevelConfiguration"]["name"], "<none>"),
        c::int(&s["matchingPrecedence"]),
        c::text_or(&s["distinguisherMethod"]["type"], "<none>"),
        c::age(o, p),
        c::text_or(dangling.map_or(&Value::Null, |d| &d["status"]), "?"),
    ]
}
