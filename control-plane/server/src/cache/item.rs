//! One object as the cache keeps it: its final bytes and the little that selectors ask for.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fairlead_api::kind::Kind;
use serde::Deserialize;
use serde_json::{Map, Value};

/// How every kept body starts; the digits of the resourceVersion follow.
const HEAD: &[u8] = br#""metadata":{"resourceVersion":""#;

/// An object of one resource at one revision.
///
/// `body` is the object without its opening brace, `kind` and `apiVersion`: a LIST writes `{` and the body (list items
/// carry no type upstream either), a GET writes the type before it. The resourceVersion stands at a fixed place, so
/// that a DELETED event can carry another one without parsing.
#[derive(Debug)]
pub struct Item {
    /// `namespace/name`, or `name` for a kind of the cluster.
    pub key: Arc<str>,
    pub revision: u64,
    pub body: Bytes,
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The values of the stored kind's field labels, in the descriptor's order.
    pub fields: Box<[Box<str>]>,
}

/// Bytes from the store that are not an object.
#[derive(Debug, thiserror::Error)]
#[error("the stored object {key} cannot be read: {source}")]
pub struct Unreadable {
    pub key: String,
    source: serde_json::Error,
}

#[derive(Deserialize)]
struct LabelsOnly {
    #[serde(default)]
    metadata: LabelsOnlyMeta,
}

#[derive(Deserialize, Default)]
struct LabelsOnlyMeta {
    #[serde(default)]
    labels: Option<std::collections::BTreeMap<Box<str>, Box<str>>>,
}

/// The bytes that the store keeps for `object`: type first, then metadata, then the rest; without a resourceVersion,
/// which only the store can know.
pub fn to_stored(kind: &Kind, object: &Value) -> Bytes {
    let mut out = BytesMut::with_capacity(1024).writer();
    write_object(kind, object, &mut out);
    out.into_inner().freeze()
}

fn write_object(kind: &Kind, object: &Value, out: &mut bytes::buf::Writer<BytesMut>) {
    use std::io::Write as _;
    let empty = Map::new();
    let fields = object.as_object().unwrap_or(&empty);
    // Writing to memory cannot fail, and a Value always serializes.
    let _ = write!(out, r#"{{"kind":"{}","apiVersion":"{}","metadata":{{"#, kind.kind, kind.api_version());
    let mut first = true;
    if let Some(Value::Object(metadata)) = fields.get("metadata") {
        for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
            if !std::mem::take(&mut first) {
                let _ = out.write_all(b",");
            }
            let _ = serde_json::to_writer(&mut *out, key);
            let _ = out.write_all(b":");
            let _ = serde_json::to_writer(&mut *out, value);
        }
    }
    let _ = out.write_all(b"}");
    for (key, value) in
        fields.iter().filter(|(key, _)| !matches!(key.as_str(), "kind" | "apiVersion" | "metadata"))
    {
        let _ = out.write_all(b",");
        let _ = serde_json::to_writer(&mut *out, key);
        let _ = out.write_all(b":");
        let _ = serde_json::to_writer(&mut *out, value);
    }
    let _ = out.write_all(b"}");
}

impl Item {
    /// Reads what the store holds for an object of `kind` that was written at `revision`.
    ///
    /// # Errors
    /// If the bytes are not an object.
    pub fn from_stored(kind: &Kind, key: &str, revision: u64, stored: &Bytes) -> Result<Item, Unreadable> {
        let unreadable = |source| Unreadable { key: format!("{}/{key}", kind.storage), source };
        let head = format!(r#"{{"kind":"{}","apiVersion":"{}","metadata":{{"#, kind.kind, kind.api_version());
        let (labels, fields) = if kind.fields.is_empty() {
            let index: LabelsOnly = serde_json::from_slice(stored).map_err(unreadable)?;
            let labels = index.metadata.labels.unwrap_or_default().into_iter().collect();
            (labels, Box::default())
        } else {
            let object: Value = serde_json::from_slice(stored).map_err(unreadable)?;
            index(kind, &object)
        };
        let body = match stored.strip_prefix(head.as_bytes()) {
            Some(rest) => with_revision(revision, rest),
            None => {
                let object: Value = serde_json::from_slice(stored).map_err(unreadable)?;
                let rewritten = to_stored(kind, &object);
                with_revision(revision, rewritten.strip_prefix(head.as_bytes()).unwrap_or(b"}}"))
            }
        };
        Ok(Item { key: key.into(), revision, body, labels, fields })
    }

    /// The object with its type, as a GET or an event carries it.
    pub fn object(&self, kind: &Kind) -> Bytes {
        typed(kind, &self.body)
    }

    /// The object parsed, with type and resourceVersion.
    pub fn value(&self, kind: &Kind) -> Value {
        parse(&self.object(kind))
    }

    /// The body as it is carried by an event of a later `revision`.
    pub fn body_at(&self, revision: u64) -> Bytes {
        let rest = self.body.get(HEAD.len()..).unwrap_or_default();
        let end = rest.iter().position(|b| *b == b'"').unwrap_or(0);
        let mut out = BytesMut::with_capacity(self.body.len() + 8);
        out.put_slice(HEAD);
        out.put_slice(revision.to_string().as_bytes());
        out.put_slice(&rest[end..]);
        out.freeze()
    }

    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// The value of a field label of the stored kind.
    pub fn field(&self, kind: &Kind, label: &str) -> Option<&str> {
        match label {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => {
                let at = kind.fields.iter().position(|field| field.label == label)?;
                self.fields.get(at).map(AsRef::as_ref)
            }
        }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(label, _)| (**label).cmp(key)).ok()?;
        self.labels.get(at).map(|(_, value)| value.as_ref())
    }
}

/// Puts the type before a body.
pub fn typed(kind: &Kind, body: &[u8]) -> Bytes {
    let head = format!(r#"{{"kind":"{}","apiVersion":"{}","#, kind.kind, kind.api_version());
    let mut out = BytesMut::with_capacity(head.len() + body.len());
    out.put_slice(head.as_bytes());
    out.put_slice(body);
    out.freeze()
}

/// Bytes that this process wrote, parsed.
pub fn parse(object: &[u8]) -> Value {
    serde_json::from_slice(object).unwrap_or_default()
}

fn with_revision(revision: u64, rest: &[u8]) -> Bytes {
    let digits = revision.to_string();
    let mut out = BytesMut::with_capacity(HEAD.len() + digits.len() + rest.len() + 2);
    out.put_slice(HEAD);
    out.put_slice(digits.as_bytes());
    out.put_slice(if rest.first() == Some(&b'}') { b"\"" } else { b"\"," });
    out.put_slice(rest);
    out.freeze()
}

/// What selectors need of one object.
pub type Index = (Box<[(Box<str>, Box<str>)]>, Box<[Box<str>]>);

/// Reads the index of a parsed object.
pub fn index(kind: &Kind, object: &Value) -> Index {
    let labels = object["metadata"]["labels"].as_object().map(|labels| {
        labels.iter().map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or_default().into())).collect()
    });
    let fields = kind.fields.iter().map(|field| (field.value)(object).into_boxed_str()).collect();
    (labels.unwrap_or_default(), fields)
}
