//! apiregistration.k8s.io/v1 APIService.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, names};
use crate::{field::ErrorList, pod::defaults as d};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "apiregistration.k8s.io",
    kind: "APIService",
    plural: "apiservices",
    singular: "apiservice",
    categories: &["api-extensions"],
    namespaced: false,
    schema: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
    message: "kube_aggregator.pkg.apis.apiregistration.v1.APIService",
    storage: "apiservices",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default: |v| d::with(v, "spec", |s| d::with(s, "service", |x| d::unset(x, "port", json!(443)))),
    prepare_create: strategy::create_blank,
    prepare_update: strategy::update,
    prepare_status: strategy::status_only,
    validate,
    validate_status: |new, _| {
        let mut e = ErrorList::new();
        for condition in Field::root(new).get("status").get("conditions").items() {
            condition.get("status").one_of(&mut e, &["True", "False", "Unknown"]);
        }
        e
    },
    cells,
    unconditional_update: false,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let (group, version, service) = (s.get("group"), s.get("version"), s.get("service"));
    let wanted = format!("{}.{}", version.str(), group.str());
    let name = Field::root(v).get("metadata").get("name");
    if name.str() != wanted {
        name.invalid(&mut e, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
    }
    if group.is_empty() && version.str() != "v1" {
        group.required(&mut e, "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty() {
        group.all(&mut e, names::dns_subdomain(group.str()));
    }
    version.all(&mut e, names::dns1035_label(version.str()));
    for (name, max) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let at = s.get(name);
        if at.num() <= 0 || at.num() > max {
            at.invalid(&mut e, format!("must be positive and less than {max}"));
        }
    }
    let (insecure, bundle) = (s.get("insecureSkipTLSVerify"), s.get("caBundle"));
    if service.is_set() {
        service.get("namespace").present(&mut e);
        service.get("name").present(&mut e);
        let port = service.get("port");
        if port.is_set() && !(1..=65535).contains(&port.num()) {
            port.invalid(&mut e, "port is not valid: must be between 1 and 65535, inclusive");
        }
        if insecure.is_true() && !bundle.is_empty() {
            insecure.invalid(&mut e, "may not be true if caBundle is present");
        }
    } else {
        if !bundle.is_empty() {
            let bytes = STANDARD.decode(bundle.str()).unwrap_or_default().len();
            let printed = Value::from(format!("{bytes} bytes"));
            let at = Field::at(&printed, bundle.path.clone());
            at.invalid(&mut e, "local APIServices may not have a caBundle");
        }
        if insecure.is_true() {
            insecure.invalid(&mut e, "local APIServices may not have insecureSkipTLSVerify");
        }
    }
    e
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let service = &o["spec"]["service"];
    let text = |k: &str| service[k].as_str().unwrap_or_default();
    let where_ =
        if service.is_object() { format!("{}/{}", text("namespace"), text("name")) } else { "Local".into() };
    let found = o["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Available");
    let available = match found {
        None => "Unknown".to_owned(),
        Some(c) if c["status"] == "True" => "True".into(),
        Some(c) => format!(
            "{} ({})",
            c["status"].as_str().unwrap_or("Unknown"),
            c["reason"].as_str().unwrap_or_default()
        ),
    };
    vec![c::name(o), json!(where_), json!(available), c::age(o, p)]
}
