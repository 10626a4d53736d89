//! networking.k8s.io/v1 Ingress.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, names, net};
use crate::{field::ErrorList, pod::defaults as d};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "networking.k8s.io",
    kind: "Ingress",
    plural: "ingresses",
    singular: "ingress",
    short_names: &["ing"],
    schema: "io.k8s.api.networking.v1.Ingress",
    message: "api.networking.v1.Ingress",
    storage: "ingresses",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    prepare_create: |v| strategy::create_counted(v, json!({"loadBalancer": {}})),
    default: |v| {
        d::object(v, "spec");
    },
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status,
    validate,
    validate_status,
    warnings,
    cells,
    generation: true,
    ..Kind::BASE
};

const CLASS: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
/// What a path may not hold, and what it may not end in.
const INNER: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const ENDS: &[&str] = &["/..", "/."];

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let (f, s) = (Field::root(v), Field::root(v).get("spec"));
    let backend = s.get("defaultBackend");
    if s.get("rules").is_empty() && !backend.is_set() {
        let rules = Field::at(s.get("rules").value, s.path.clone());
        rules.invalid(&mut e, "either `defaultBackend` or `rules` must be specified");
    }
    if backend.is_set() {
        self::backend(&backend, &mut e);
    }
    for rule in s.get("rules").items() {
        host(&rule.get("host"), &mut e);
        if rule.get("http").is_set() {
            let paths = rule.get("http").get("paths");
            if paths.is_empty() {
                paths.required(&mut e, "");
            }
            for p in paths.items() {
                path(&p, &mut e);
            }
        }
    }
    for tls in s.get("tls").items() {
        for h in tls.get("hosts").items() {
            domain(&h, &mut e);
        }
        let secret = tls.get("secretName");
        if !secret.is_empty() {
            secret.all(&mut e, names::dns_subdomain(secret.str()));
        }
    }
    let class = s.get("ingressClassName");
    if class.is_set() {
        class.all(&mut e, names::dns_subdomain(class.str()));
        let note = f.get("metadata").get("annotations").get(CLASS);
        // Only asked of new objects. Upstream's path leaves `metadata` out.
        if strategy::is_new(v) && note.is_set() && note.str() != class.str() {
            let at = Field::at(note.value, crate::field::Path::new("annotations").child(CLASS));
            at.invalid(&mut e, "must match `ingressClassName` when both are specified");
        }
    }
    e
}

fn host(f: &Field, e: &mut ErrorList) {
    if f.is_empty() {
        return;
    }
    not_an_address(f, e);
    domain(f, e);
}

fn not_an_address(f: &Field, e: &mut ErrorList) {
    if net::is_ip(f.str()) {
        f.invalid(e, "must be a DNS name, not an IP address");
    }
}

/// A domain, or all names below one.
fn domain(f: &Field, e: &mut ErrorList) {
    let check = if f.str().contains('*') { names::wildcard_subdomain } else { names::dns_subdomain };
    f.all(e, check(f.str()));
}

fn path(f: &Field, e: &mut ErrorList) {
    let (kind, at) = (f.get("pathType"), f.get("path"));
    match kind.str() {
        _ if !kind.is_set() => {
            kind.required(e, "pathType must be specified");
            return;
        }
        "Exact" | "Prefix" => {
            if !at.str().starts_with('/') {
                at.invalid_text(e, "must be an absolute path");
            }
            for part in INNER.iter().filter(|p| at.str().contains(**p)) {
                at.invalid(e, format!("must not contain '{part}'"));
            }
            for end in ENDS.iter().filter(|p| at.str().ends_with(**p)) {
                at.invalid(e, format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !at.is_empty() && !at.str().starts_with('/') {
                at.invalid(e, "must be an absolute path");
            }
        }
        _ => kind.not_supported(e, PATH_TYPES),
    }
    backend(&f.get("backend"), e);
}

fn backend(f: &Field, e: &mut ErrorList) {
    let (service, resource) = (f.get("service"), f.get("resource"));
    // Upstream names the backend and prints nothing of it.
    let blank = Value::from("");
    let whole = Field::at(&blank, f.path.clone());
    match (service.is_set(), resource.is_set()) {
        (true, true) => whole.invalid(e, "cannot set both resource and service backends"),
        (false, false) => whole.invalid(e, "resource or service backend is required"),
        (false, true) => reference(&resource, e),
        (true, false) => {
            let (name, port) = (service.get("name"), service.get("port"));
            if name.present(e) {
                name.all(e, names::dns_label(name.str()));
            }
            let (word, number) = (port.get("name"), port.get("number"));
            match (!word.is_empty(), number.num() != 0) {
                (true, true) => whole.invalid(e, "cannot set both port name & port number"),
                (true, false) => word.all(e, names::port_name(word.str())),
                (false, true) => number.port(e),
                (false, false) => whole.required(e, "port name or number is required"),
            }
        }
    }
}

/// A `TypedLocalObjectReference`, and what an IngressClass has of one.
pub(super) fn reference(f: &Field, e: &mut ErrorList) {
    let group = f.get("apiGroup");
    if group.is_set() {
        group.all(e, names::dns_subdomain(group.str()));
    }
    for name in ["kind", "name"] {
        let at = f.get(name);
        if at.present(e) {
            at.all(e, names::path_segment(at.str()));
        }
    }
}

fn validate_status(new: &Value, _: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    for ingress in Field::root(new).get("status").get("loadBalancer").get("ingress").items() {
        let (ip, name) = (ingress.get("ip"), ingress.get("hostname"));
        if !ip.is_empty() {
            net::ip(&ip, &mut e);
        }
        if !name.is_empty() {
            name.all(&mut e, names::dns_subdomain(name.str()));
            not_an_address(&name, &mut e);
        }
    }
    e
}

fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let note = |v: &Value| v["metadata"]["annotations"][CLASS].is_string();
    if note(new) && !old.is_some_and(note) {
        return vec![format!(
            "annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
        )];
    }
    Vec::new()
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let spec = &o["spec"];
    let mut class = c::text_or(&spec["ingressClassName"], "<none>");
    if spec["ingressClassName"].is_null() {
        class = c::text_or(&o["metadata"]["annotations"][CLASS], "<none>");
    }
    let rules = spec["rules"].as_array().map_or(&[][..], Vec::as_slice);
    let mut hosts: Vec<&str> =
        rules.iter().filter_map(|r| r["host"].as_str()).filter(|h| !h.is_empty()).collect();
    let more = hosts.len().saturating_sub(3);
    hosts.truncate(3);
    let hosts = match (hosts.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (_, 0) => hosts.join(","),
        _ => format!("{} + {more} more...", hosts.join(",")),
    };
    let ingress = o["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    let word = |i: &Value| {
        if i["ip"].is_string() { i["ip"].as_str() } else { i["hostname"].as_str() }.map(str::to_owned)
    };
    let addresses: Vec<String> = ingress.filter_map(word).collect();
    let secure = spec["tls"].as_array().is_some_and(|l| !l.is_empty());
    vec![
        c::name(o),
        class,
        json!(hosts),
        json!(addresses.join(",")),
        json!(if secure { "80, 443" } else { "80" }),
        c::age(o, p),
    ]
}
