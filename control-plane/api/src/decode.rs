//! Bodies: JSON, YAML and protobuf into one tree, with the words of Go's decoder when they are malformed.

use std::collections::HashSet;

use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{
    kind::Kind,
    registry,
    schema::{self, Schema},
    status::{self, Status, quoted},
};

mod order;
mod syntax;
mod wire;

pub use syntax::error as json_syntax_error;
pub use wire::protobuf;

/// Containers within containers that a body may have.
pub const MAX_DEPTH: usize = 120;
/// Fields that come twice and are named.
const MAX_NAMED: usize = 100;

/// A body as a tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// `duplicate field "spec.paused"`, in the order of the document.
    pub strict: Vec<String>,
}

/// Why a body is no tree. All are answered with 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON: Go's words.
    #[error("{0}")]
    Json(String),
    #[error("yaml: {0}")]
    Yaml(String),
    #[error("{0}")]
    Protobuf(String),
}

/// JSON. A field that comes twice is reported and merged as Go's decoder does: maps into each other, else the last.
pub fn json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut path = Vec::new();
    let mut strict = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let node = Node { path: &mut path, strict: &mut strict, depth: 0 };
    let value = serde::de::DeserializeSeed::deserialize(node, &mut reader)
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| DecodeError::Json(syntax::error(bytes).unwrap_or_else(|| error.to_string())))?;
    Ok(Decoded { value, strict })
}

/// YAML 1.2 with YAML 1.1's booleans, as upstream reads it (`y`, `no`, `on` are booleans); one document.
pub fn yaml(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| DecodeError::Yaml("invalid leading UTF-8 octet".into()))?;
    crate::yaml::parse(text).map_err(DecodeError::Yaml)
}

/// One step of the path to where the reader stands.
enum Step {
    Field(String),
    Index(usize),
}

pub(crate) fn path_text(path: &[impl AsRef<str>], last: &str) -> String {
    let mut text = String::new();
    for step in path.iter().map(AsRef::as_ref).chain([last]) {
        if !text.is_empty() && !step.starts_with('[') {
            text.push('.');
        }
        text.push_str(step);
    }
    text
}

struct Node<'a> {
    path: &'a mut Vec<Step>,
    strict: &'a mut Vec<String>,
    depth: usize,
}

impl Node<'_> {
    fn duplicate(&mut self, key: &str) {
        let steps: Vec<String> = self
            .path
            .iter()
            .map(|step| match step {
                Step::Field(name) => name.clone(),
                Step::Index(i) => format!("[{i}]"),
            })
            .collect();
        let text = format!("duplicate field {}", quoted(&path_text(&steps, key)));
        if !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.into()))
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        if self.depth >= MAX_DEPTH {
            return Err(A::Error::custom("exceeded max depth"));
        }
        let mut items = Vec::new();
        loop {
            self.path.push(Step::Index(items.len()));
            let node = Node { path: self.path, strict: self.strict, depth: self.depth + 1 };
            let item = seq.next_element_seed(node)?;
            self.path.pop();
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        if self.depth >= MAX_DEPTH {
            return Err(A::Error::custom("exceeded max depth"));
        }
        let mut out = Map::new();
        let mut named = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            self.path.push(Step::Field(key));
            let node = Node { path: self.path, strict: self.strict, depth: self.depth + 1 };
            let value = map.next_value_seed(node)?;
            let Some(Step::Field(key)) = self.path.pop() else { continue };
            if out.contains_key(&key) && self.strict.len() < MAX_NAMED && named.insert(key.clone()) {
                self.duplicate(&key);
            }
            overlay(&mut out, key, value);
        }
        Ok(Value::Object(out))
    }
}

/// Sets a field as Go's decoder does when the field has a value already.
pub(crate) fn overlay(map: &mut Map<String, Value>, key: String, value: Value) {
    match (map.get_mut(&key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            for (key, value) in new {
                overlay(old, key, value);
            }
        }
        (_, value) => {
            map.insert(key, value);
        }
    }
}

/// What a client asks to be done about fields that do not belong (`fieldValidation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// The `fieldValidation` parameter; the empty one warns.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => Err(format!(
                "fieldValidation: Unsupported value: {}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"",
                quoted(other)
            )),
        }
    }
}

/// The beginning of a body, as upstream shows it after a decoding error.
pub fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let (head, more) = match body.get(..SHOWN) {
        Some(head) if body.len() > SHOWN => (head, " ..."),
        _ => (body, ""),
    };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => {
            let hex: String = head.iter().map(|b| format!("{b:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// 400 for a body that could not be read far enough to know its kind.
pub fn unrecognized(kind: &str, error: &DecodeError, body: &[u8]) -> Status {
    let words = match error {
        DecodeError::Json(words) => format!("couldn't get version/kind; json parse error: {words}"),
        other => other.to_string(),
    };
    status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): {words} ({})",
        summary(body)
    ))
}

const TYPE_META: &str = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }";

pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `apiVersion` and `kind` of a tree, both `""` when absent. An error when they cannot be read.
pub fn type_meta(value: &Value) -> Result<(&str, &str), DecodeError> {
    if value.is_null() {
        return Ok(("", ""));
    }
    let Some(object) = value.as_object() else {
        return Err(DecodeError::Json(format!(
            "json: cannot unmarshal {} into Go value of type {TYPE_META}",
            json_type(value)
        )));
    };
    let field = |name: &str| match object.get(name) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(DecodeError::Json(format!(
            "json: cannot unmarshal {} into Go struct field .{name} of type string",
            json_type(other)
        ))),
    };
    Ok((field("apiVersion")?, field("kind")?))
}

/// Versions that upstream's scheme still knows though nobody serves them.
const RETIRED: &[(&str, &[&str])] = &[
    ("extensions/v1beta1", &["Deployment", "DaemonSet", "ReplicaSet", "Ingress", "NetworkPolicy", "Scale"]),
    ("apps/v1beta1", &["Deployment", "StatefulSet", "ControllerRevision", "Scale"]),
    (
        "apps/v1beta2",
        &["Deployment", "DaemonSet", "ReplicaSet", "StatefulSet", "ControllerRevision", "Scale"],
    ),
    ("autoscaling/v2beta1", &["HorizontalPodAutoscaler"]),
    ("autoscaling/v2beta2", &["HorizontalPodAutoscaler"]),
    ("batch/v1beta1", &["CronJob"]),
    ("coordination.k8s.io/v1beta1", &["Lease"]),
    ("discovery.k8s.io/v1beta1", &["EndpointSlice"]),
    ("events.k8s.io/v1beta1", &["Event"]),
    ("networking.k8s.io/v1beta1", &["Ingress", "IngressClass", "IPAddress", "ServiceCIDR"]),
    ("node.k8s.io/v1beta1", &["RuntimeClass"]),
    ("policy/v1beta1", &["PodDisruptionBudget", "Eviction"]),
    ("rbac.authorization.k8s.io/v1beta1", &["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]),
    ("scheduling.k8s.io/v1beta1", &["PriorityClass"]),
    (
        "storage.k8s.io/v1beta1",
        &["StorageClass", "VolumeAttachment", "CSIDriver", "CSINode", "CSIStorageCapacity"],
    ),
    ("certificates.k8s.io/v1beta1", &["CertificateSigningRequest"]),
    (
        "admissionregistration.k8s.io/v1beta1",
        &["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"],
    ),
];

fn registered(api_version: &str, kind: &str) -> bool {
    let kind = kind.strip_suffix("List").unwrap_or(kind);
    registry::find_kind(api_version, kind).is_some()
        || RETIRED.iter().any(|(version, kinds)| *version == api_version && kinds.contains(&kind))
}

/// The package that upstream keeps the internal type of a kind in: `core`, `apps`, `rbac`.
fn package(group: &str) -> &str {
    match group {
        "" | "events.k8s.io" => "core",
        _ => group.split('.').next().unwrap_or(group),
    }
}

/// The kind that a body must be: what a request's resource (or subresource) takes.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    /// Name in the schema tree; `""` leaves the body's fields unchecked.
    pub schema: &'a str,
}

impl<'a> From<&'a Kind> for Expected<'a> {
    fn from(kind: &'a Kind) -> Self {
        Expected { group: kind.group, version: kind.version, kind: kind.kind, schema: kind.schema }
    }
}

impl Expected<'_> {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Why an object of this kind cannot be had from one that says it is another.
    pub fn foreign(&self, api_version: &str, kind: &str) -> Option<String> {
        if api_version == self.api_version() && kind == self.kind {
            return None;
        }
        if !registered(api_version, kind) {
            return Some(format!(
                "no kind {} is registered for version {} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
                quoted(kind),
                quoted(api_version)
            ));
        }
        let (_, version) = registry::split_api_version(api_version);
        (kind != self.kind).then(|| {
            format!(
                "converting ({version}.{kind}) to ({}.{}): unknown conversion",
                package(self.group),
                self.kind
            )
        })
    }

    fn refuse(&self, version: &str, kind: &str, words: &str) -> Status {
        status::bad_request(format!(
            "{kind} in version {} cannot be handled as a {}: {words}",
            quoted(version),
            self.kind
        ))
    }
}

/// Makes a decoded body an object of the expected kind: completes `apiVersion` and `kind`, refuses another kind, wrong
/// types, and (under `Strict`) unknown and duplicate fields; prunes unknown fields. Returns the warnings to send.
pub fn typed(
    expected: &Expected<'_>,
    decoded: Decoded,
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let Decoded { mut value, strict } = decoded;
    identify(expected, &mut value, body)?;
    let refuse = |words: &str| expected.refuse(expected.version, expected.kind, words);
    let mut findings = strict;
    if let Some(schema) = schema::of(expected.schema) {
        check_and_prune(schema, &mut value, &mut findings).map_err(|words| refuse(&words))?;
        order::sort(body, &mut findings);
    }
    match validation {
        FieldValidation::Ignore => Ok((value, Vec::new())),
        FieldValidation::Warn => Ok((value, findings)),
        FieldValidation::Strict if findings.is_empty() => Ok((value, findings)),
        FieldValidation::Strict => Err(refuse(&format!("strict decoding error: {}", findings.join(", ")))),
    }
}

fn check_and_prune(schema: &Schema, value: &mut Value, findings: &mut Vec<String>) -> Result<(), String> {
    schema::check(schema, value)?;
    let unknown = schema::prune(schema, value);
    findings.extend(unknown);
    Ok(())
}

/// The part of `typed` that looks at `apiVersion` and `kind` only.
pub fn identify(expected: &Expected<'_>, value: &mut Value, body: &[u8]) -> Result<(), Status> {
    let (api_version, kind) = type_meta(value).map_err(|error| unrecognized(expected.kind, &error, body))?;
    let wanted = expected.api_version();
    let api_version = if api_version.is_empty() { wanted.clone() } else { api_version.to_owned() };
    let kind = if kind.is_empty() { expected.kind.to_owned() } else { kind.to_owned() };
    let (_, version) = registry::split_api_version(&api_version);
    if api_version == wanted && kind == expected.kind {
        if value.is_null() {
            *value = Value::Object(Map::new());
        }
        value["apiVersion"] = api_version.into();
        value["kind"] = kind.into();
        return Ok(());
    }
    if let Some(words) = expected.foreign(&api_version, &kind) {
        return Err(expected.refuse(version, &kind, &words));
    }
    Err(status::bad_request(format!(
        "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
    )))
}
