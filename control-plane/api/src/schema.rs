//! The schema tree: one node per type and field, with what merging, pruning, decoding errors and OpenAPI need.
//! Built-in types are read lazily from tables written by `build.rs`; custom resources build the same nodes.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{LazyLock, OnceLock},
};

use serde_json::Value;

mod check;
mod normalize;
mod prune;
pub mod quantity;

pub use check::{check, check_converted};
pub use normalize::{decoded, micros, normalize, seconds, timestamp};
pub use prune::prune;

/// What values a node takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A struct with these fields and no others.
    Object(Vec<Property>),
    /// Any keys, values of one kind.
    Map(Box<Schema>),
    Array(Box<Schema>),
    String,
    /// Base64 in a string.
    Bytes,
    Int32,
    Int64,
    Number,
    Boolean,
    Quantity,
    Time,
    MicroTime,
    IntOrString,
    /// An object whose fields nobody looks at.
    Opaque,
    /// Any JSON at all; names the type where it has one.
    Any(Cow<'static, str>),
    /// A named type of the built-in table.
    Ref(&'static str),
}

/// How a list merges under server-side apply.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    /// Elements are told apart by these keys.
    Map(Vec<Cow<'static, str>>),
}

/// What Go writes for a field that is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Emit {
    /// Left out when it has its zero value (`omitempty`).
    #[default]
    Omit,
    /// Kept as it came, left out when absent (a pointer).
    Pointer,
    /// Written even when absent: a struct by value, or a field without `omitempty`.
    Always,
    /// Written as null when absent (a pointer or list without `omitempty`).
    Null,
}

/// Merge rules of one node.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Merge {
    /// `None` where the API says nothing: such lists are atomic.
    pub list: Option<ListType>,
    /// A map or struct that is replaced as a whole under apply.
    pub atomic: bool,
    /// Says `granular` itself.
    pub granular: bool,
    /// Strategic merge patch merges the list's elements (by `key`, or as a set of primitives).
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
    pub key: Option<Cow<'static, str>>,
}

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// `io.k8s.api.core.v1.Pod`, empty for unnamed nodes.
    pub name: Cow<'static, str>,
    pub shape: Shape,
    pub merge: Merge,
    /// `group/version/kind` of a type that is an API kind.
    pub gvk: Cow<'static, str>,
}

/// One field of a struct.
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    pub name: Cow<'static, str>,
    pub required: bool,
    pub emit: Emit,
    pub schema: Schema,
}

const JSON_SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

impl Schema {
    /// An unnamed node without merge rules.
    pub fn plain(shape: Shape) -> Self {
        Schema { name: "".into(), shape, merge: Merge::default(), gvk: "".into() }
    }

    /// The node that a reference stands for, or the node itself. Merge rules of a field stay with the field's node.
    pub fn resolve(&self) -> &Schema {
        match self.shape {
            Shape::Ref(name) => of(name).unwrap_or(self),
            _ => self,
        }
    }

    /// The field of a struct.
    pub fn field(&self, name: &str) -> Option<&Property> {
        match &self.resolve().shape {
            Shape::Object(properties) => properties
                .binary_search_by(|p| p.name.as_ref().cmp(name))
                .ok()
                .and_then(|i| properties.get(i)),
            _ => None,
        }
    }

    /// The node of a struct's field or of a map's values.
    pub fn property(&self, name: &str) -> Option<&Schema> {
        match &self.resolve().shape {
            Shape::Map(values) => Some(values),
            _ => self.field(name).map(|p| &p.schema),
        }
    }

    /// The node of a list's elements.
    pub fn items(&self) -> Option<&Schema> {
        match &self.resolve().shape {
            Shape::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The node that `value` follows where a JSON schema or something else may stand: `additionalProperties` takes a
    /// schema or a boolean, `items` one or many, `dependencies` a schema or names. `None` where there is no such node.
    pub(crate) fn alternative(&self, value: &Value) -> Option<&'static Schema> {
        static MANY: LazyLock<Schema> =
            LazyLock::new(|| Schema::plain(Shape::Array(Box::new(Schema::plain(Shape::Ref(JSON_SCHEMA))))));
        static NAMES: LazyLock<Schema> =
            LazyLock::new(|| Schema::plain(Shape::Array(Box::new(Schema::plain(Shape::String)))));
        let Shape::Any(name) = &self.shape else { return None };
        match (name.strip_prefix(JSON_SCHEMA)?, value) {
            (_, Value::Object(_)) => of(JSON_SCHEMA),
            ("OrArray", Value::Array(_)) => Some(&MANY),
            ("OrStringArray", Value::Array(_)) => Some(&NAMES),
            _ => None,
        }
    }

    /// Whether a JSON schema may stand here, among other things.
    pub(crate) fn takes_schema(&self) -> bool {
        matches!(&self.shape, Shape::Any(name) if name.strip_prefix(JSON_SCHEMA).is_some_and(|or| !or.is_empty()))
    }

    /// Whether nothing but a JSON schema or a boolean may stand here.
    pub(crate) fn is_schema_or_bool(&self) -> bool {
        matches!(&self.shape, Shape::Any(name) if name.strip_prefix(JSON_SCHEMA) == Some("OrBool"))
    }

    /// Replaced as a whole under apply (said by the field or by its type).
    pub fn is_atomic(&self) -> bool {
        !self.merge.granular && (self.merge.atomic || self.resolve().merge.atomic)
    }

    /// The words of a field of this (built-in) type.
    pub fn property_description(&self, field: &str) -> Option<String> {
        let prose = crate::openapi::prose();
        prose.field(&self.resolve().name, field)
    }
}

static STRUCTURE: &str = include_str!(concat!(env!("OUT_DIR"), "/schema.txt"));
static GO: &str = include_str!("../tables/go.txt");

/// One type's lines in the table, and the parsed node once somebody asked for it.
struct Entry {
    marks: &'static str,
    gvk: &'static str,
    lines: &'static str,
    /// Number of the type's first line: its description has the same number.
    line: usize,
    node: OnceLock<Schema>,
}

static TYPES: LazyLock<HashMap<&'static str, Entry>> = LazyLock::new(|| {
    let mut types = HashMap::with_capacity(1024);
    let mut line = 0;
    for block in STRUCTURE.split_terminator("\n=") {
        let block = block.strip_prefix('=').unwrap_or(block);
        let (head, lines) = block.split_once('\n').unwrap_or((block, ""));
        let mut cells = head.split('\t');
        let (name, marks, gvk) = (
            cells.next().unwrap_or_default(),
            cells.next().unwrap_or_default(),
            cells.next().unwrap_or_default(),
        );
        types.insert(name, Entry { marks, gvk, lines, line, node: OnceLock::new() });
        line += 1 + lines.lines().count();
    }
    types
});

/// `tables/go.txt`: type, then `mark:field,field …`.
static EMITS: LazyLock<HashMap<(&'static str, &'static str), Emit>> = LazyLock::new(|| {
    let mut map = HashMap::new();
    for line in GO.lines().filter(|l| !l.starts_with('#')) {
        let mut cells = line.split_whitespace();
        let Some(name) = cells.next() else { continue };
        for cell in cells {
            let Some((mark, fields)) = cell.split_once(':') else { continue };
            let emit = match mark {
                "P" => Emit::Pointer,
                "V" => Emit::Always,
                "N" => Emit::Null,
                _ => Emit::Omit,
            };
            map.extend(fields.split(',').map(|field| ((name, field), emit)));
        }
    }
    map
});

/// The built-in type of this name.
pub fn of(name: &str) -> Option<&'static Schema> {
    let (name, entry) = TYPES.get_key_value(name)?;
    Some(entry.node.get_or_init(|| Schema {
        name: (*name).into(),
        shape: Shape::Object(
            entry.lines.lines().filter_map(|line| property(name, !entry.gvk.is_empty(), line)).collect(),
        ),
        merge: merge(entry.marks),
        gvk: entry.gvk.into(),
    }))
}

/// Every built-in type with the number of its first line in the table, in no order.
pub(crate) fn lines() -> impl Iterator<Item = (&'static str, usize, &'static str)> {
    TYPES.iter().map(|(name, entry)| (*name, entry.line, entry.lines))
}

/// `top`: the owner is an API kind, whose three parts are structs by value.
fn property(owner: &'static str, top: bool, line: &'static str) -> Option<Property> {
    let mut cells = line.split('\t');
    let (name, letters, required, marks) = (cells.next()?, cells.next()?, cells.next()?, cells.next()?);
    let required = required == "!";
    let schema = Schema { name: "".into(), shape: shape(letters), merge: merge(marks), gvk: "".into() };
    let short = owner.strip_prefix("io.k8s.").unwrap_or(owner);
    let emit = EMITS.get(&(short, name)).copied();
    let part = top && matches!(name, "metadata" | "spec" | "status") && matches!(schema.shape, Shape::Ref(_));
    let usual = || if part { Emit::Always } else { usual_emit(&schema.shape, required) };
    let emit = emit.unwrap_or_else(usual);
    Some(Property { name: name.into(), required, emit, schema })
}

/// What most fields of a shape do; the rest is in `tables/go.txt`.
fn usual_emit(shape: &Shape, required: bool) -> Emit {
    match (shape, required) {
        (Shape::Array(_) | Shape::Map(_), true) => Emit::Null,
        (_, true) => Emit::Always,
        (
            Shape::Ref(_)
            | Shape::Quantity
            | Shape::Time
            | Shape::MicroTime
            | Shape::IntOrString
            | Shape::Opaque
            | Shape::Any(_),
            false,
        ) => Emit::Pointer,
        (_, false) => Emit::Omit,
    }
}

fn shape(letters: &'static str) -> Shape {
    let rest = letters.get(1..).unwrap_or_default();
    match letters.as_bytes().first() {
        Some(b'[') => Shape::Array(Box::new(Schema::plain(shape(rest)))),
        Some(b'{') => Shape::Map(Box::new(Schema::plain(shape(rest)))),
        Some(b'@') => Shape::Ref(rest),
        Some(b'*') => Shape::Any(rest.into()),
        Some(b's') => Shape::String,
        Some(b'y') => Shape::Bytes,
        Some(b'i') => Shape::Int32,
        Some(b'l') => Shape::Int64,
        Some(b'n') => Shape::Number,
        Some(b'b') => Shape::Boolean,
        Some(b'q') => Shape::Quantity,
        Some(b't') => Shape::Time,
        Some(b'u') => Shape::MicroTime,
        Some(b'x') => Shape::IntOrString,
        _ => Shape::Opaque,
    }
}

fn merge(marks: &'static str) -> Merge {
    let mut merge = Merge::default();
    for mark in marks.split('|') {
        match mark.split_once(':') {
            Some(("LM", keys)) => {
                merge.list = Some(ListType::Map(keys.split(',').map(Into::into).collect()));
            }
            Some(("K", key)) => merge.key = Some(key.into()),
            _ => match mark {
                "LA" => merge.list = Some(ListType::Atomic),
                "LS" => merge.list = Some(ListType::Set),
                "MA" => merge.atomic = true,
                "MG" => merge.granular = true,
                "PM" => merge.merge = true,
                "PR" => merge.retain_keys = true,
                "PX" => merge.replace = true,
                _ => {}
            },
        }
    }
    merge
}

/// The type as Go prints it: `string`, `[]v1.Container`, `map[string]string`.
pub fn go_type(schema: &Schema) -> String {
    match &schema.shape {
        Shape::String => "string".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Number => "float64".into(),
        Shape::Boolean => "bool".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::Opaque | Shape::Any(_) => "interface {}".into(),
        Shape::Array(items) => format!("[]{}", go_type(items)),
        Shape::Map(values) => format!("map[string]{}", go_type(values)),
        Shape::Ref(name) => go_name(name),
        Shape::Object(_) if schema.name.is_empty() => "map[string]interface {}".into(),
        Shape::Object(_) => go_name(&schema.name),
    }
}

fn go_name(name: &str) -> String {
    let mut parts = name.rsplit('.');
    let (last, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{package}.{last}")
}

/// Whether Go would call this value empty.
pub(crate) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}
