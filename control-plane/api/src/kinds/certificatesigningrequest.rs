//! certificates.k8s.io/v1 CertificateSigningRequest.

use super::{cells as c, fields::label, strategy};
use crate::kind::{Act, Kind, Subresource};
use crate::kind::{FieldLabel, Printing};
use crate::validate::{Field, names};
use crate::{
    field::{ErrorList, invalid_str},
    table,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "certificates.k8s.io",
    kind: "CertificateSigningRequest",
    plural: "certificatesigningrequests",
    singular: "certificatesigningrequest",
    short_names: &["csr"],
    namespaced: false,
    schema: "io.k8s.api.certificates.v1.CertificateSigningRequest",
    message: "api.certificates.v1.CertificateSigningRequest",
    storage: "certificatesigningrequests",
    subresources: &[
        Subresource { name: "approval", verbs: &["get", "patch", "update"], act: Act::Approval },
        Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status },
    ],
    prepare_create: strategy::create_blank,
    prepare_update: |new, old| {
        strategy::take(new, old, "spec");
        strategy::update(new, old);
    },
    prepare_status: |new, old| {
        strategy::status(new, old);
        keep_decisions(new, old);
    },
    validate,
    validate_status: |new, old| {
        let mut e = conditions(new);
        for kind in ["Approved", "Denied"] {
            if count(new, kind) > count(old, kind) {
                let words = format!("updates may not add a condition of type {kind:?}");
                Field::root(new).get("status").get("conditions").forbidden(&mut e, &words);
            }
        }
        e.extend(kept(new, old));
        if let Some(words) = certificate(new["status"]["certificate"].as_str().unwrap_or_default()) {
            let path = Field::root(new).get("status").get("certificate").path;
            e.push(invalid_str(&path, "<certificate data>", words));
        }
        e
    },
    cells,
    fields: &[FieldLabel { label: "spec.signerName", value: |o| label(&o["spec"]["signerName"]) }],
    ..Kind::BASE
};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const SIGNER: &str = "must be a fully qualified domain and path of the form 'example.com/signer-name'";

/// Approval and denial are given through `/approval` alone.
fn keep_decisions(new: &mut Value, old: &Value) {
    let decision = |c: &Value| c["type"] == "Approved" || c["type"] == "Denied";
    let list = |v: &Value| v["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut kept: Vec<Value> = list(old).into_iter().filter(decision).collect();
    kept.extend(list(new).into_iter().filter(|c| !decision(c)));
    if !kept.is_empty() {
        new["status"]["conditions"] = Value::Array(kept);
    } else if let Some(status) = new["status"].as_object_mut() {
        status.remove("conditions");
    }
}

/// What is wrong with an issued certificate: base64 of PEM.
fn certificate(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let pem = STANDARD.decode(text).unwrap_or_default();
    let pem = String::from_utf8_lossy(&pem).into_owned();
    let mut blocks = pem.match_indices("-----BEGIN ").filter_map(|(at, begin)| {
        let (name, rest) = pem.get(at + begin.len()..)?.split_once("-----")?;
        rest.contains(&format!("-----END {name}-----")).then(|| name.to_owned())
    });
    let first = blocks.next();
    let other = first.iter().cloned().chain(blocks).find(|name| name != "CERTIFICATE");
    match (first, other) {
        (None, _) => Some("must contain at least one CERTIFICATE PEM block".to_owned()),
        (_, Some(name)) => Some(format!("only CERTIFICATE PEM blocks are allowed, found {name:?}")),
        _ => None,
    }
}

/// What an update of `/approval` changes: conditions, and when they came to be.
pub fn prepare_approval(new: &mut Value, old: &Value, now: &str) {
    let mut conditions = new["status"]["conditions"].take();
    for c in conditions.as_array_mut().into_iter().flatten() {
        if c["lastUpdateTime"].is_null() {
            c["lastUpdateTime"] = now.into();
        }
        if c["lastTransitionTime"].is_null() {
            let same = |was: &&Value| was["type"] == c["type"] && was["status"] == c["status"];
            let before = old["status"]["conditions"].as_array().into_iter().flatten().find(same);
            let since = before.map(|was| was["lastTransitionTime"].clone()).filter(|time| !time.is_null());
            c["lastTransitionTime"] = since.unwrap_or_else(|| now.into());
        }
    }
    for part in ["spec", "status"] {
        strategy::take(new, old, part);
    }
    match conditions {
        Value::Array(list) if !list.is_empty() => new["status"]["conditions"] = list.into(),
        _ => {
            if let Some(status) = new["status"].as_object_mut() {
                status.remove("conditions");
            }
        }
    }
}

/// What is wrong with an update of `/approval`.
pub fn validate_approval(new: &Value, old: &Value) -> ErrorList {
    let mut e = validate(new);
    e.extend(conditions(new));
    e.extend(kept(new, old));
    e
}

fn count(v: &Value, kind: &str) -> usize {
    v["status"]["conditions"].as_array().into_iter().flatten().filter(|c| c["type"] == kind).count()
}

/// A decision stands.
fn kept(new: &Value, old: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let lost = |kind: &&&str| count(new, kind) < count(old, kind);
    for kind in ["Approved", "Denied", "Failed"].iter().filter(lost) {
        let words = format!("updates may not remove a condition of type {kind:?}");
        Field::root(new).get("status").get("conditions").forbidden(&mut e, &words);
    }
    e
}

fn conditions(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let mut seen: Vec<&str> = Vec::new();
    for c in Field::root(v).get("status").get("conditions").items() {
        let (kind, state) = (c.get("type"), c.get("status"));
        kind.present(&mut e);
        if state.present(&mut e) {
            let decides = matches!(kind.str(), "Approved" | "Denied" | "Failed");
            state.one_of(&mut e, if decides { &["True"] } else { &["False", "True", "Unknown"] });
        }
        let other = match kind.str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !other.is_empty() && seen.contains(&other) {
            kind.invalid(&mut e, "Approved and Denied conditions are mutually exclusive");
        }
        if seen.contains(&kind.str()) {
            kind.duplicate(&mut e);
        }
        seen.push(kind.str());
    }
    e
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let request = s.get("request");
    let text = STANDARD.decode(request.str()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    if !text.trim_start().starts_with("-----BEGIN CERTIFICATE REQUEST-----") {
        request.invalid_text(&mut e, "PEM block type must be CERTIFICATE REQUEST");
    }
    let usages = s.get("usages");
    usages.present(&mut e);
    let mut seen: Vec<&str> = Vec::new();
    for usage in usages.items() {
        usage.one_of(&mut e, USAGES);
        if seen.contains(&usage.str()) {
            usage.duplicate(&mut e);
        }
        seen.push(usage.str());
    }
    signer(&s.get("signerName"), &mut e);
    let seconds = s.get("expirationSeconds");
    if seconds.int().is_some_and(|n| n < 600) {
        seconds.invalid(&mut e, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    e
}

fn signer(f: &Field, e: &mut ErrorList) {
    if f.str() == "kubernetes.io/legacy-unknown" {
        f.invalid(e, "the legacy signerName is not allowed via this API version");
        return;
    }
    if !f.present(e) {
        return;
    }
    match f.str().split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            f.all(e, names::fully_qualified_domain(host));
            for part in path.split('.') {
                f.all(e, names::dns_label(part));
            }
        }
        _ => f.invalid(e, SIGNER),
    }
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let s = &o["spec"];
    let duration = s["expirationSeconds"].as_i64().map_or_else(|| "<none>".to_owned(), table::human_duration);
    let conditions = o["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let has = |kind: &str| conditions.iter().any(|c| c["type"] == kind);
    let mut words: Vec<&str> = Vec::new();
    for kind in ["Approved", "Denied", "Failed"] {
        if has(kind) {
            words.push(kind);
        }
    }
    if words.is_empty() {
        words.push("Pending");
    }
    if o["status"]["certificate"].as_str().is_some_and(|c| !c.is_empty()) {
        words.push("Issued");
    }
    vec![
        c::name(o),
        c::age(o, p),
        c::text_or(&s["signerName"], "<none>"),
        c::text(&s["username"]),
        json!(duration),
        json!(words.join(",")),
    ]
}
