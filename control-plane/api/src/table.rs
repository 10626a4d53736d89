//! Printed columns and rows (`meta.k8s.io` Table).

use std::{
    collections::HashMap,
    sync::{LazyLock, RwLock},
};

use serde_json::{Map, Value, json};

use crate::{
    kind::{Kind, Printing},
    schema::{self, Schema},
};

/// One printed column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean`
    pub kind: &'static str,
    /// `name` for the column that holds the object's name, else empty.
    pub format: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i64,
    /// Where its words are: see `tables/columns.txt`.
    words: &'static str,
}

static COLUMNS: LazyLock<HashMap<&'static str, Vec<Column>>> = LazyLock::new(|| {
    include_str!("../tables/columns.txt").lines().filter(|l| !l.starts_with('#')).filter_map(parse).collect()
});

fn parse(line: &'static str) -> Option<(&'static str, Vec<Column>)> {
    let mut cells = line.split('\t');
    let resource = cells.next()?;
    let columns = cells
        .filter_map(|cell| {
            let mut parts = cell.splitn(5, '|');
            let (name, kind, format) = (parts.next()?, parts.next()?, parts.next()?);
            let priority = parts.next()?.parse().ok()?;
            Some(Column { name, kind, format, priority, words: parts.next().unwrap_or_default() })
        })
        .collect();
    Some((resource, columns))
}

static PLAIN: [Column; 2] = [
    Column { name: "Name", kind: "string", format: "name", priority: 0, words: "" },
    Column { name: "Age", kind: "string", format: "", priority: 0, words: "" },
];

/// The printed columns of a kind. Kinds without a table of their own print name and age.
pub fn columns(kind: &Kind) -> &'static [Column] {
    let key = match kind.group {
        "" => format!("{}/{}", kind.version, kind.plural),
        group => format!("{group}/{}/{}", kind.version, kind.plural),
    };
    COLUMNS.get(key.as_str()).map_or(&PLAIN, Vec::as_slice)
}

/// What a row carries beside its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    /// The `includeObject` parameter.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => Err(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
                crate::status::quoted(other)
            )),
        }
    }
}

/// The definitions that have been asked for: their words are dear to unpack, and tables are asked for all the time.
static DEFINITIONS: LazyLock<RwLock<HashMap<String, Value>>> = LazyLock::new(RwLock::default);

/// The column definitions as the Table object carries them.
pub fn definitions(kind: &Kind) -> Value {
    let key = format!("{}/{}/{}", kind.group, kind.version, kind.plural);
    if let Some(made) = DEFINITIONS.read().ok().and_then(|made| made.get(&key).cloned()) {
        return made;
    }
    let definitions = define(kind);
    if let Ok(mut made) = DEFINITIONS.write() {
        made.insert(key, definitions.clone());
    }
    definitions
}

fn define(kind: &Kind) -> Value {
    columns(kind)
        .iter()
        .map(|c| {
            json!({
                "name": c.name,
                "type": c.kind,
                "format": c.format,
                "description": description(kind, c),
                "priority": c.priority,
            })
        })
        .collect()
}

/// The words of the field at `path`: names, with dots between.
fn described(schema: &'static Schema, path: &str) -> Option<String> {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut node = schema.resolve();
    for step in parents.split('.').filter(|step| !step.is_empty()) {
        node = node.property(step)?.resolve();
    }
    node.property_description(last)
}

/// The words of a column.
fn description(kind: &Kind, column: &Column) -> String {
    if let Some(words) = column.words.strip_prefix('=') {
        return words.replace("\\n", "\n");
    }
    let path = match (column.words, column.name) {
        ("", "Name") => "metadata.name",
        ("", "Age" | "Created At") => "metadata.creationTimestamp",
        ("", "Containers") => return "Names of each container in the template.".into(),
        ("", "Images") => return "Images referenced by each container in the template.".into(),
        (path, _) => path,
    };
    let (name, path) = match path.split_once(':') {
        Some((name, path)) => (format!("io.k8s.api.{name}"), path),
        None => (kind.schema.to_owned(), path),
    };
    schema::of(&name).and_then(|schema| described(schema, path)).unwrap_or_default()
}

/// One row.
pub fn row(kind: &Kind, object: &Value, include: Include, printing: &Printing) -> Value {
    let mut cells = (kind.cells)(object, printing);
    cells.resize(columns(kind).len(), Value::Null);
    let shown = match include {
        Include::None => Value::Null,
        Include::Metadata => unconverted(partial(object)),
        Include::Object => object.clone(),
    };
    let mut row = Map::new();
    row.insert("cells".into(), Value::Array(cells));
    row.insert("object".into(), shown);
    Value::Object(row)
}

/// A whole Table. `list_meta` is the list's `metadata` (for one object: its resourceVersion). A watch sends the column
/// definitions with its first event only (`with_headers`).
pub fn table<'a>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'a Value>,
    include: Include,
    list_meta: Value,
    printing: &Printing,
    with_headers: bool,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|o| row(kind, o, include, printing)).collect();
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "Table",
        "metadata": list_meta,
        "columnDefinitions": if with_headers { definitions(kind) } else { Value::Null },
        "rows": rows,
    })
}

/// Upstream makes rows of its internal objects, which lack this annotation: it comes with the served version only.
fn unconverted(mut partial: Value) -> Value {
    if let Some(meta) = partial["metadata"].as_object_mut()
        && let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut)
        && annotations.remove("deprecated.daemonset.template.generation").is_some()
        && annotations.is_empty()
    {
        meta.remove("annotations");
    }
    partial
}

/// The object as `PartialObjectMetadata`.
pub fn partial(object: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
}

/// The row of a kind that prints its name and age only.
pub fn name_and_age(object: &Value, printing: &Printing) -> Vec<Value> {
    vec![object["metadata"]["name"].clone(), json!(age(&object["metadata"]["creationTimestamp"], printing))]
}

/// Time since `stamp` (RFC 3339) in upstream's short human form, `<unknown>` without one.
pub fn age(stamp: &Value, printing: &Printing) -> String {
    let Some(then) = stamp.as_str().and_then(|s| s.parse::<jiff::Timestamp>().ok()) else {
        return "<unknown>".into();
    };
    human_duration((printing.now - then.as_second()).max(0))
}

/// `k8s.io/apimachinery/pkg/util/duration.HumanDuration`, for whole seconds.
pub fn human_duration(seconds: i64) -> String {
    let (m, h, d) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |a: i64, au: &str, b: i64, bu: &str| {
        if b == 0 { format!("{a}{au}") } else { format!("{a}{au}{b}{bu}") }
    };
    match seconds {
        s if s < 120 => format!("{s}s"),
        s if s < 600 => pair(m, "m", s % 60, "s"),
        s if s < 3 * 3600 => format!("{m}m"),
        s if s < 8 * 3600 => pair(h, "h", m % 60, "m"),
        s if s < 48 * 3600 => format!("{h}h"),
        s if s < 8 * 86400 => pair(d, "d", h % 24, "h"),
        s if s < 2 * 365 * 86400 => format!("{d}d"),
        s if s < 8 * 365 * 86400 => pair(d / 365, "y", d % 365, "d"),
        _ => format!("{}y", d / 365),
    }
}
