//! What upstream's validation checks, as small pieces over a cursor that knows its path.

pub mod container;
pub mod intstr;
pub mod meta;
pub mod names;
pub mod net;
mod os;
pub mod pod;
pub mod quantity;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod selector;
pub mod template;
pub mod volume;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field::{self, Cause, ErrorList, FieldError, Path};

static NULL: Value = Value::Null;

/// Words that several checks share.
pub const NON_NEGATIVE: &str = "must be greater than or equal to 0";
pub const GREATER_THAN_ZERO: &str = "must be greater than 0";
pub const IMMUTABLE: &str = "field is immutable";
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// A value and the path that leads to it. An absent field is a cursor on `null`.
#[derive(Clone)]
pub struct Field<'a> {
    pub value: &'a Value,
    pub path: Path,
}

impl<'a> Field<'a> {
    /// The object itself, with the empty path.
    pub fn root(value: &'a Value) -> Self {
        Field { value, path: Path::default() }
    }

    pub fn at(value: &'a Value, path: Path) -> Self {
        Field { value, path }
    }

    pub fn get(&self, name: &str) -> Field<'a> {
        Field { value: self.value.get(name).unwrap_or(&NULL), path: self.path.child(name) }
    }

    /// The elements of a list, each with its index in the path.
    pub fn items(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let path = self.path.clone();
        let list = self.value.as_array().map_or(&[][..], Vec::as_slice);
        list.iter().enumerate().map(move |(i, value)| Field { value, path: path.index(i) })
    }

    /// The entries of a map, each with its key in brackets in the path.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
        let path = self.path.clone();
        self.value
            .as_object()
            .into_iter()
            .flatten()
            .map(move |(k, value)| (k.as_str(), Field { value, path: path.key(k) }))
    }

    /// The text, empty when absent.
    pub fn str(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The number, zero when absent.
    pub fn num(&self) -> i64 {
        self.value.as_i64().unwrap_or_default()
    }

    pub fn is_true(&self) -> bool {
        self.value.as_bool().unwrap_or_default()
    }

    /// Present and not null: a non-nil pointer.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Absent, or an empty text, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            _ => false,
        }
    }

    pub fn len(&self) -> usize {
        match self.value {
            Value::String(s) => s.len(),
            Value::Array(a) => a.len(),
            Value::Object(o) => o.len(),
            _ => 0,
        }
    }

    pub fn required(&self, errors: &mut ErrorList, detail: &str) {
        errors.push(field::required(&self.path, detail));
    }

    /// Invalid value, the value as JSON.
    pub fn invalid(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.push(field::invalid(&self.path, self.value, detail));
    }

    /// Invalid value, the value as text: an absent one prints as `""`.
    pub fn invalid_text(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.push(field::invalid_str(&self.path, self.str(), detail));
    }

    pub fn forbidden(&self, errors: &mut ErrorList, detail: impl Into<String>) {
        errors.push(field::forbidden(&self.path, detail));
    }

    pub fn not_supported(&self, errors: &mut ErrorList, supported: &[&str]) {
        let text = Value::from(self.str());
        let value = if self.value.is_null() { &text } else { self.value };
        errors.push(field::not_supported(&self.path, value, supported));
    }

    pub fn duplicate(&self, errors: &mut ErrorList) {
        errors.push(field::duplicate(&self.path, self.value));
    }

    pub fn not_found(&self, errors: &mut ErrorList) {
        errors.push(field::not_found(&self.path, self.value));
    }

    pub fn too_long(&self, errors: &mut ErrorList, max: usize) {
        errors.push(field::too_long(&self.path, max));
    }

    pub fn too_many(&self, errors: &mut ErrorList, max: usize) {
        errors.push(field::too_many(&self.path, self.len(), max));
    }

    /// Each message of a format check as one error on this field.
    pub fn all(&self, errors: &mut ErrorList, messages: Vec<String>) {
        errors.extend(messages.into_iter().map(|m| field::invalid_str(&self.path, self.str(), m)));
    }

    /// All messages of a format check as one error on this field.
    pub fn joined(&self, errors: &mut ErrorList, messages: &[String]) {
        if !messages.is_empty() {
            self.invalid_text(errors, messages.join(","));
        }
    }

    /// Negative numbers are refused; absent is fine.
    pub fn non_negative(&self, errors: &mut ErrorList) {
        if self.num() < 0 {
            self.invalid(errors, NON_NEGATIVE);
        }
    }

    /// `non_negative` for several fields.
    pub fn non_negatives(&self, errors: &mut ErrorList, names: &[&str]) {
        for name in names {
            self.get(name).non_negative(errors);
        }
    }

    /// Must be there and not empty.
    pub fn present(&self, errors: &mut ErrorList) -> bool {
        if self.is_empty() {
            self.required(errors, "");
        }
        !self.is_empty()
    }

    /// A set value must be one of `supported`.
    pub fn one_of(&self, errors: &mut ErrorList, supported: &[&str]) -> bool {
        let good = !self.is_set() || supported.contains(&self.str());
        if !good {
            self.not_supported(errors, supported);
        }
        good
    }

    /// A value that must be there and be one of `supported`.
    pub fn required_one_of(&self, errors: &mut ErrorList, supported: &[&str]) -> bool {
        self.present(errors) && self.one_of(errors, supported)
    }

    /// 1 to 65535.
    pub fn port(&self, errors: &mut ErrorList) {
        if !(1..=65535).contains(&self.num()) {
            let zero = Value::from(self.num());
            errors.push(field::invalid(&self.path, &zero, PORT_RANGE));
        }
    }

    /// A port number or the name of a port.
    pub fn port_or_name(&self, errors: &mut ErrorList) {
        match self.value {
            Value::String(s) => self.all(errors, names::port_name(s)),
            _ => self.port(errors),
        }
    }

    /// The field may not differ from the one of `old` (absent, null and empty are the same).
    pub fn immutable(&self, errors: &mut ErrorList, old: &Value) {
        if !same(self.value, old) {
            self.invalid(errors, IMMUTABLE);
        }
    }
}

/// What was there already: texts that may not come twice.
#[derive(Default)]
pub struct Seen<'a>(BTreeSet<&'a str>);

impl<'a> Seen<'a> {
    /// Refuses the field when its text was there before.
    pub fn once(&mut self, f: &Field<'a>, errors: &mut ErrorList) {
        if !self.0.insert(f.str()) {
            f.duplicate(errors);
        }
    }

    /// `once`, where the empty text does not count.
    pub fn once_if_set(&mut self, f: &Field<'a>, errors: &mut ErrorList) {
        if !f.is_empty() {
            self.once(f, errors);
        }
    }

    pub fn has(&self, text: &str) -> bool {
        self.0.contains(text)
    }
}

/// Go's semantic equality: absent, null and empty are one.
pub fn same(a: &Value, b: &Value) -> bool {
    let blank = |v: &Value| match v {
        Value::Null => true,
        Value::Array(x) => x.is_empty(),
        Value::Object(x) => x.is_empty(),
        Value::String(x) => x.is_empty(),
        _ => false,
    };
    if blank(a) && blank(b) {
        return true;
    }
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| same(v, y.get(k).unwrap_or(&NULL)))
                && y.iter().all(|(k, v)| x.contains_key(k) || blank(v))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        _ => a == b,
    }
}

/// An error whose value is printed by other means than the field's own JSON.
pub fn error(cause: Cause, path: &Path, value: Option<String>, detail: impl Into<String>) -> FieldError {
    FieldError { cause, path: path.to_string(), value, detail: detail.into() }
}
