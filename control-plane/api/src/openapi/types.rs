//! Types as OpenAPI schemas, v2 (`definitions`) and v3 (`components.schemas`).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Prose;
use crate::{
    kind::Kind,
    schema::{self, Emit, ListType, Property, Schema, Shape},
};

/// The two generations of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    V2,
    V3,
}

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// Collects types and everything they refer to.
pub struct Types<'p> {
    format: Format,
    prose: &'p Prose,
    done: Map<String, Value>,
    wanted: BTreeSet<String>,
}

impl<'p> Types<'p> {
    pub fn new(format: Format, prose: &'p Prose) -> Self {
        Types { format, prose, done: Map::new(), wanted: BTreeSet::new() }
    }

    /// The reference to a type, which will be part of the document.
    pub fn reference(&mut self, name: &str) -> Value {
        if !self.done.contains_key(name) {
            self.wanted.insert(name.to_owned());
        }
        let prefix = match self.format {
            Format::V2 => "#/definitions/",
            Format::V3 => "#/components/schemas/",
        };
        json!({"$ref": format!("{prefix}{name}")})
    }

    /// The list type of a kind.
    pub fn list(&mut self, kind: &Kind) -> Value {
        let name = format!("{}List", kind.schema);
        if !self.done.contains_key(&name) {
            let item = self.reference(kind.schema);
            let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
            let metadata = self.described_reference(meta, Some("Standard list metadata."), true);
            let mut properties = Map::new();
            for field in ["apiVersion", "kind"] {
                let mut string = json!({"type": "string"});
                if let Some(text) = self.prose.field(kind.schema, field) {
                    string["description"] = text.into();
                }
                properties.insert(field.into(), string);
            }
            properties.insert("items".into(), json!({"type": "array", "items": item}));
            properties.insert("metadata".into(), metadata);
            let body = json!({
                "description": format!("{}List is a list of {}.", kind.kind, kind.plural),
                "type": "object",
                "required": ["items"],
                "properties": properties,
                "x-kubernetes-group-version-kind": [
                    {"group": kind.group, "version": kind.version, "kind": format!("{}List", kind.kind)}
                ],
            });
            self.done.insert(name.clone(), body);
        }
        self.reference(&name)
    }

    /// Everything that was referred to, directly or through others.
    pub fn finish(mut self) -> Map<String, Value> {
        while let Some(name) = self.wanted.pop_first() {
            let body = match schema::of(&name) {
                Some(schema) => self.object(schema),
                None => self.special(&name),
            };
            self.done.insert(name, body);
        }
        self.done
    }

    fn object(&mut self, schema: &'static Schema) -> Value {
        let mut body = Map::new();
        body.insert("type".into(), "object".into());
        if let Some(text) = self.prose.of_type(&schema.name) {
            body.insert("description".into(), text.into());
        }
        if let Shape::Object(fields) = &schema.shape {
            let properties: Map<String, Value> =
                fields.iter().map(|f| (f.name.to_string(), self.field(schema, f))).collect();
            if !properties.is_empty() {
                body.insert("properties".into(), Value::Object(properties));
            }
            let required: Vec<&str> = fields.iter().filter(|f| f.required).map(|f| f.name.as_ref()).collect();
            if !required.is_empty() {
                body.insert("required".into(), json!(required));
            }
        }
        marks(schema, &mut body);
        if !schema.gvk.is_empty() {
            body.insert("x-kubernetes-group-version-kind".into(), json!([gvk(&schema.gvk)]));
        }
        Value::Object(body)
    }

    fn field(&mut self, owner: &Schema, field: &Property) -> Value {
        let text = self.prose.field(&owner.name, &field.name);
        let node = &field.schema;
        let name = match &node.shape {
            Shape::Ref(name) => Some((*name).to_owned()),
            Shape::Any(name) if !name.is_empty() => Some(name.to_string()),
            Shape::Opaque if field.name == "fieldsV1" => {
                Some("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1".to_owned())
            }
            shape => named(shape).map(Into::into),
        };
        let mut value = match name {
            Some(name) => {
                let by_value = field.emit == Emit::Always && matches!(node.shape, Shape::Ref(_));
                self.described_reference(&name, text.as_deref(), by_value)
            }
            None => {
                let mut value = self.inline(node);
                if let Some(text) = text {
                    value["description"] = text.into();
                }
                value
            }
        };
        if let Some(map) = value.as_object_mut() {
            marks(node, map);
        }
        value
    }

    /// A reference with words of its own: v3 needs a wrapper for that.
    fn described_reference(&mut self, name: &str, text: Option<&str>, by_value: bool) -> Value {
        let reference = self.reference(name);
        let mut value = match self.format {
            Format::V2 => reference,
            Format::V3 => json!({"allOf": [reference]}),
        };
        if self.format == Format::V3 && by_value {
            value["default"] = json!({});
        }
        if let Some(text) = text {
            value["description"] = text.into();
        }
        value
    }

    fn inline(&mut self, node: &Schema) -> Value {
        match &node.shape {
            Shape::Ref(name) => self.reference(name),
            Shape::Any(name) if !name.is_empty() => self.reference(name),
            Shape::Array(items) => json!({"type": "array", "items": self.inline(items)}),
            Shape::Map(values) => json!({"type": "object", "additionalProperties": self.inline(values)}),
            Shape::String => json!({"type": "string"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Number => json!({"type": "number", "format": "double"}),
            Shape::Boolean => json!({"type": "boolean"}),
            shape => match named(shape) {
                Some(name) => self.reference(name),
                None => json!({"type": "object"}),
            },
        }
    }

    /// Named types whose JSON is not an object of fields.
    fn special(&self, name: &str) -> Value {
        let v3 = self.format == Format::V3;
        match name {
            QUANTITY if v3 => json!({
                "description": "A quantity: a decimal number with an optional suffix (m, k, M, Ki, Mi …).",
                "oneOf": [{"type": "string"}, {"type": "number"}],
            }),
            QUANTITY => json!({
                "description": "A quantity: a decimal number with an optional suffix (m, k, M, Ki, Mi …).",
                "type": "string",
            }),
            INT_OR_STRING if v3 => json!({
                "description": "A number or a text.",
                "format": "int-or-string",
                "oneOf": [{"type": "integer"}, {"type": "string"}],
            }),
            INT_OR_STRING => {
                json!({"description": "A number or a text.", "type": "string", "format": "int-or-string"})
            }
            TIME | MICRO_TIME => {
                json!({"description": "A time, RFC 3339.", "type": "string", "format": "date-time"})
            }
            RAW => json!({"description": "An object of another kind.", "type": "object"}),
            _ if name.ends_with(".FieldsV1") => {
                json!({"description": "A set of fields, as a tree of paths.", "type": "object"})
            }
            _ if name.ends_with(".Patch") => {
                json!({"description": "The changes to an object, in the form that the media type names.", "type": "object"})
            }
            _ => json!({"description": "Any JSON value."}),
        }
    }
}

fn named(shape: &Shape) -> Option<&'static str> {
    match shape {
        Shape::Quantity => Some(QUANTITY),
        Shape::IntOrString => Some(INT_OR_STRING),
        Shape::Time => Some(TIME),
        Shape::MicroTime => Some(MICRO_TIME),
        Shape::Opaque => Some(RAW),
        _ => None,
    }
}

/// `group/version/kind` as the extension's object.
pub fn gvk(text: &str) -> Value {
    let mut parts = text.split('/');
    let mut next = || parts.next().unwrap_or_default();
    json!({"group": next(), "version": next(), "kind": next()})
}

fn marks(node: &Schema, body: &mut Map<String, Value>) {
    let merge = &node.merge;
    let mut put = |key: &str, value: Value| body.insert(format!("x-kubernetes-{key}"), value);
    match &merge.list {
        Some(ListType::Atomic) => {
            put("list-type", "atomic".into());
        }
        Some(ListType::Set) => {
            put("list-type", "set".into());
        }
        Some(ListType::Map(keys)) => {
            put("list-type", "map".into());
            put("list-map-keys", json!(keys));
        }
        None => {}
    }
    if merge.atomic {
        put("map-type", "atomic".into());
    }
    if merge.granular {
        put("map-type", "granular".into());
    }
    let strategies: Vec<&str> =
        [(merge.merge, "merge"), (merge.retain_keys, "retainKeys"), (merge.replace, "replace")]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, word)| *word)
            .collect();
    if !strategies.is_empty() {
        put("patch-strategy", strategies.join(",").into());
    }
    if let Some(key) = &merge.key {
        put("patch-merge-key", json!(key));
    }
}
