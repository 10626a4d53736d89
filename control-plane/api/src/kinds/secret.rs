//! v1 Secret.

use super::{cells as c, configmap, fields::label};
use crate::kind::Kind;
use crate::kind::{FieldLabel, Printing};
use crate::validate::{self, Field};
use crate::{
    decode,
    field::{self, Cause, ErrorList},
    pod::defaults as d,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    schema: "io.k8s.api.core.v1.Secret",
    message: "api.core.v1.Secret",
    storage: "secrets",
    default,
    prepare_update,
    validate,
    validate_update,
    warnings,
    cells,
    fields: &[FieldLabel { label: "type", value: |o| label(&o["type"]) }],
    ..Kind::BASE
};

/// Keys that the data of a typed secret must have.
const REQUIRED: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];
const ACCOUNT: &str = "kubernetes.io/service-account.name";

/// `stringData` is written into `data`; it is never read.
fn default(v: &mut Value) {
    d::zero(v, "type", json!("Opaque"));
    let Some(map) = v.as_object_mut() else { return };
    let Some(Value::Object(texts)) = map.remove("stringData") else { return };
    if texts.is_empty() {
        return;
    }
    if let Some(data) = d::object(v, "data") {
        for (key, text) in texts {
            data[key] = json!(STANDARD.encode(text.as_str().unwrap_or_default()));
        }
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    if new["type"].as_str().is_none_or(str::is_empty) {
        new["type"] = old["type"].clone();
    }
}

fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(v);
    let data = f.get("data");
    configmap::keys(&data, &mut e);
    configmap::size(&data, data.entries().map(|(_, d)| d.len() / 4 * 3).sum(), &mut e);
    let kind = f.get("type").str();
    if kind == "kubernetes.io/service-account-token" {
        let note = f.get("metadata").get("annotations");
        if note.get(ACCOUNT).is_empty() {
            e.push(field::required(&note.path.key(ACCOUNT), ""));
        }
    }
    if kind == "kubernetes.io/basic-auth" {
        let has = |key: &str| data.get(key).is_set();
        if !has("username") && !has("password") {
            for key in ["username", "password"] {
                e.push(field::required(&data.path.key(key), ""));
            }
        }
    }
    for key in REQUIRED.iter().find(|(k, _)| *k == kind).map_or(&[][..], |(_, keys)| keys) {
        match data.get(key).value.as_str() {
            None => e.push(field::required(&data.path.key(key), "")),
            Some(content) if key.starts_with(".docker") => json_content(&data, key, content, &mut e),
            Some(_) => {}
        }
    }
    e
}

fn json_content(data: &Field, key: &str, content: &str, e: &mut ErrorList) {
    let bytes = STANDARD.decode(content).unwrap_or_default();
    let words = match decode::json(&bytes) {
        Err(error) => error.to_string(),
        Ok(decoded) if decoded.value.is_object() || decoded.value.is_null() => return,
        Ok(decoded) => format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            decode::json_type(&decoded.value)
        ),
    };
    let value = Some("\"<secret contents redacted>\"".to_owned());
    e.push(validate::error(Cause::Invalid, &data.path.key(key), value, words));
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut e = super::strategy::immutable(new, old, &["type"]);
    e.extend(configmap::frozen(new, old, &["data"]));
    e
}

/// A TLS secret whose certificate or key is no PEM.
fn warnings(new: &Value, _: Option<&Value>) -> Vec<String> {
    if new["type"] != "kubernetes.io/tls" {
        return Vec::new();
    }
    let text = |key: &str| {
        let bytes = STANDARD.decode(new["data"][key].as_str().unwrap_or_default()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let pem = |text: &str| text.contains("-----BEGIN ") && text.contains("-----END ");
    if !pem(&text("tls.crt")) {
        vec!["tls: failed to find any PEM data in certificate input".into()]
    } else if !pem(&text("tls.key")) {
        vec!["tls: failed to find any PEM data in key input".into()]
    } else {
        Vec::new()
    }
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let count = o["data"].as_object().map_or(0, |m| m.len());
    vec![c::name(o), c::text(&o["type"]), json!(count), c::age(o, p)]
}
