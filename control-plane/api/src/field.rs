//! Field errors: what validation says, with upstream's paths, reasons and words
//! (`k8s.io/apimachinery/pkg/util/validation/field`).

use std::fmt;

use serde_json::Value;

/// A path such as `spec.containers[0].name`, built step by step.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Path(String);

impl Path {
    pub fn new(root: &str) -> Self {
        Path(root.into())
    }
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.into()) } else { Path(format!("{}.{name}", self.0)) }
    }
    pub fn index(&self, i: usize) -> Self {
        Path(format!("{}[{i}]", self.0))
    }
    /// `labels[key]`: upstream prints map keys in brackets, unquoted.
    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The `reason` of a Status cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

impl Cause {
    /// The machine word, `FieldValueRequired`.
    pub fn reason(self) -> &'static str {
        match self {
            Cause::NotFound => "FieldValueNotFound",
            Cause::Required => "FieldValueRequired",
            Cause::Duplicate => "FieldValueDuplicate",
            Cause::Invalid => "FieldValueInvalid",
            Cause::NotSupported => "FieldValueNotSupported",
            Cause::Forbidden => "FieldValueForbidden",
            Cause::TooLong => "FieldValueTooLong",
            Cause::TooMany => "FieldValueTooMany",
            Cause::TypeInvalid => "FieldValueTypeInvalid",
            Cause::Internal => "InternalError",
        }
    }
    /// The words that open the message.
    fn words(self) -> &'static str {
        match self {
            Cause::NotFound => "Not found",
            Cause::Required => "Required value",
            Cause::Duplicate => "Duplicate value",
            Cause::Invalid => "Invalid value",
            Cause::NotSupported => "Unsupported value",
            Cause::Forbidden => "Forbidden",
            Cause::TooLong => "Too long",
            Cause::TooMany => "Too many",
            Cause::TypeInvalid => "Invalid value",
            Cause::Internal => "Internal error",
        }
    }
}

/// One field error. `message()` is what a Status cause says; `to_string()` puts the path before it.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub cause: Cause,
    pub path: String,
    /// The offending value as upstream prints it, `None` where upstream prints none.
    pub value: Option<String>,
    pub detail: String,
}

impl FieldError {
    pub fn message(&self) -> String {
        let mut text = String::from(self.cause.words());
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}

/// All that is wrong with one object, in the order of validation.
pub type ErrorList = Vec<FieldError>;

/// A value as upstream's `field.Error` prints it: strings quoted, numbers and booleans plain, the rest as JSON.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::String(text) => crate::status::quoted(text),
        other => other.to_string(),
    }
}

pub fn required(path: &Path, detail: &str) -> FieldError {
    FieldError { cause: Cause::Required, path: path.to_string(), value: None, detail: detail.into() }
}
pub fn invalid(path: &Path, value: &Value, detail: impl Into<String>) -> FieldError {
    FieldError {
        cause: Cause::Invalid,
        path: path.to_string(),
        value: Some(shown(value)),
        detail: detail.into(),
    }
}
pub fn invalid_str(path: &Path, value: &str, detail: impl Into<String>) -> FieldError {
    FieldError {
        cause: Cause::Invalid,
        path: path.to_string(),
        value: Some(crate::status::quoted(value)),
        detail: detail.into(),
    }
}
pub fn duplicate(path: &Path, value: &Value) -> FieldError {
    FieldError {
        cause: Cause::Duplicate,
        path: path.to_string(),
        value: Some(shown(value)),
        detail: String::new(),
    }
}
pub fn not_found(path: &Path, value: &Value) -> FieldError {
    FieldError {
        cause: Cause::NotFound,
        path: path.to_string(),
        value: Some(shown(value)),
        detail: String::new(),
    }
}
pub fn forbidden(path: &Path, detail: impl Into<String>) -> FieldError {
    FieldError { cause: Cause::Forbidden, path: path.to_string(), value: None, detail: detail.into() }
}
/// `supported` is printed in the order given, each quoted.
pub fn not_supported(path: &Path, value: &Value, supported: &[&str]) -> FieldError {
    let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
    let detail =
        if list.is_empty() { String::new() } else { format!("supported values: {}", list.join(", ")) };
    FieldError { cause: Cause::NotSupported, path: path.to_string(), value: Some(shown(value)), detail }
}
pub fn too_long(path: &Path, max: usize) -> FieldError {
    FieldError {
        cause: Cause::TooLong,
        path: path.to_string(),
        value: None,
        detail: format!("may not be more than {max} bytes"),
    }
}
pub fn too_many(path: &Path, actual: usize, max: usize) -> FieldError {
    FieldError {
        cause: Cause::TooMany,
        path: path.to_string(),
        value: Some(actual.to_string()),
        detail: format!("must have at most {max} items"),
    }
}
