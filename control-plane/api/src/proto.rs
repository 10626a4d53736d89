//! The protobuf messages of the API: names, tags and types, read lazily from `tables/protobuf.txt`.

use std::{
    collections::HashMap,
    sync::{LazyLock, OnceLock},
};

use crate::registry;

/// The four bytes before every Kubernetes protobuf body.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// The envelope message: `typeMeta` = 1, `raw` = 2.
pub const UNKNOWN: &str = "apimachinery.pkg.runtime.Unknown";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Bool,
    Bytes,
    Double,
    /// int32, int64, uint32 and the like.
    Varint,
    String,
    Message(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    One,
    Repeated,
    /// `map<string, T>`
    Map,
}

#[derive(Clone, Debug)]
pub struct Field {
    /// The JSON name, `~` for a struct that JSON has inline.
    pub name: &'static str,
    pub tag: u32,
    pub label: Label,
    pub kind: Type,
}

#[derive(Debug)]
pub struct Message {
    pub name: &'static str,
    /// In the order of tags.
    pub fields: Vec<Field>,
}

impl Message {
    pub fn by_tag(&self, tag: u32) -> Option<&Field> {
        self.fields.binary_search_by_key(&tag, |f| f.tag).ok().and_then(|i| self.fields.get(i))
    }
}

static TABLE: &str = include_str!("../tables/protobuf.txt");

type Entry = (&'static str, OnceLock<Message>);

static MESSAGES: LazyLock<HashMap<&'static str, Entry>> = LazyLock::new(|| {
    TABLE
        .split("\n=")
        .skip(1)
        .map(|block| block.split_once('\n').unwrap_or((block, "")))
        .map(|(name, lines)| (name, (lines, OnceLock::new())))
        .collect()
});

/// The message of this name (without a leading dot).
pub fn message(name: &str) -> Option<&'static Message> {
    let (name, (lines, cell)) = MESSAGES.get_key_value(name)?;
    Some(cell.get_or_init(|| {
        let mut fields: Vec<Field> = lines.lines().filter_map(|line| field(name, line)).collect();
        fields.sort_by_key(|f| f.tag);
        Message { name, fields }
    }))
}

fn field(owner: &'static str, line: &'static str) -> Option<Field> {
    let mut cells = line.split('\t');
    let (name, tag, text) = (cells.next()?, cells.next()?.parse().ok()?, cells.next()?);
    let (label, text) = match text.strip_prefix("repeated ") {
        Some(rest) => (Label::Repeated, rest),
        None => match text.strip_prefix("map<string, ").and_then(|t| t.strip_suffix('>')) {
            Some(rest) => (Label::Map, rest),
            None => (Label::One, text),
        },
    };
    let kind = match text {
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "double" => Type::Double,
        "int32" | "int64" | "uint32" | "uint64" => Type::Varint,
        "string" => Type::String,
        _ => Type::Message(absolute(owner, text)?),
    };
    Some(Field { name, tag, label, kind })
}

/// The full name of a message that `owner` names, relative to its package or with a leading dot.
fn absolute(owner: &str, name: &'static str) -> Option<&'static str> {
    if let Some(name) = name.strip_prefix('.') {
        return MESSAGES.get_key_value(name).map(|(name, _)| *name);
    }
    let (package, _) = owner.rsplit_once('.')?;
    MESSAGES.get_key_value(format!("{package}.{name}").as_str()).map(|(name, _)| *name)
}

/// The message that holds an object of this kind.
pub fn message_of(api_version: &str, kind: &str) -> Option<&'static Message> {
    if let Some(known) = registry::find_kind(api_version, kind) {
        return message(known.message);
    }
    let (group, version) = registry::split_api_version(api_version);
    let package = match group {
        "" => "api.core".to_owned(),
        "meta.k8s.io" => "apimachinery.pkg.apis.meta".to_owned(),
        "apiextensions.k8s.io" => "apiextensions_apiserver.pkg.apis.apiextensions".to_owned(),
        "apiregistration.k8s.io" => "kube_aggregator.pkg.apis.apiregistration".to_owned(),
        other => format!("api.{}", other.split('.').next().unwrap_or(other)),
    };
    // Every group knows the options and answers of meta/v1 under its own version.
    message(&format!("{package}.{version}.{kind}"))
        .or_else(|| message(&format!("apimachinery.pkg.apis.meta.v1.{kind}")))
}
