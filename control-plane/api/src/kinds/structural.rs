//! Schemas of custom resources: which JSON schemas are taken, and that they are structural.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    field::{Cause, ErrorList},
    validate::{self, Field},
};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// JSON schema that is not for custom resources.
const REFUSED: &[&str] =
    &["id", "patternProperties", "definitions", "dependencies", "$ref", "additionalItems"];
const OF_LISTS: &str = "x-kubernetes-list-type";
const OF_MAPS: &str = "x-kubernetes-map-type";
const KEYS: &str = "x-kubernetes-list-map-keys";
const RULES: &str = "x-kubernetes-validations";
const ANYTHING: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
/// Schemas within schemas that are followed.
const DEPTH_MAX: usize = 100;

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Checks the schema of one version. An absent one is the caller's to judge.
pub fn root(f: &Field, e: &mut ErrorList) {
    if !f.is_set() {
        return;
    }
    if f.get("nullable").is_true() {
        f.get("nullable").forbidden(e, "nullable cannot be true at the root");
    }
    let before = e.len();
    plain(f, 0, e);
    let whole = e[before..].iter().all(|error| {
        !REFUSED.iter().any(|word| error.path.ends_with(word)) && !error.detail.starts_with("items must be")
    });
    // What cannot be read as a structural schema is not judged as one.
    if whole {
        structural(f, Level::Root, 0, e);
    }
}

/// Schemas directly within this one, whatever holds them.
fn children<'a>(f: &Field<'a>) -> Vec<Field<'a>> {
    let mut all: Vec<Field> = Vec::new();
    for key in ["properties", "patternProperties", "definitions"] {
        all.extend(f.get(key).entries().map(|(_, child)| child));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        all.extend(f.get(key).items());
    }
    for key in ["not", "items", "additionalProperties"] {
        let child = f.get(key);
        match child.value {
            Value::Array(_) => all.extend(child.items()),
            Value::Object(_) => all.push(child),
            _ => {}
        }
    }
    all
}

/// What no schema may say.
fn plain(f: &Field, depth: usize, e: &mut ErrorList) {
    if depth > DEPTH_MAX {
        f.forbidden(e, format!("schemas may not be nested more than {DEPTH_MAX} deep"));
        return;
    }
    for word in REFUSED.iter().filter(|word| !f.get(word).is_empty()) {
        f.get(word).forbidden(e, format!("{word} is not supported"));
    }
    let kind = f.get("type");
    if kind.str() == "null" {
        kind.forbidden(e, "type cannot be set to null, use nullable as an alternative");
    } else if !kind.is_empty() {
        kind.one_of(e, TYPES);
    }
    if f.get("items").value.is_array() {
        f.get("items").forbidden(e, "items must be a schema object and not an array");
    }
    if f.get("uniqueItems").is_true() {
        let words = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        f.get("uniqueItems").forbidden(e, words);
    }
    let more = f.get("additionalProperties");
    if !f.get("properties").is_empty() && more.is_set() && more.value != &Value::Bool(true) {
        more.forbidden(e, "additionalProperties and properties are mutual exclusive");
    }
    if let Some(words) = regex_error(f.get("pattern").str()) {
        let words = format!("must be a valid regular expression, but isn't: error parsing regexp: {words}");
        f.get("pattern").invalid(e, words);
    }
    if f.get(ANYTHING).value == &Value::Bool(false) {
        f.get(ANYTHING).invalid(e, "must be true or undefined");
    }
    f.get(OF_MAPS).one_of(e, &["atomic", "granular"]);
    lists(f, e);
    rules(&f.get(RULES), e);
    for child in children(f) {
        plain(&child, depth + 1, e);
    }
}

/// What makes a pattern no regular expression, in the words of Go's parser. This is the coarse half of it: classes,
/// groups, repetitions and escapes that do not stand for anything.
fn regex_error(pattern: &str) -> Option<String> {
    let mut groups = 0;
    // The byte at which the last thing that can be repeated ended, and whether it was a repetition.
    let (mut repeatable, mut repeated) = (false, None);
    let mut rest = pattern.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let tail = pattern.get(at..).unwrap_or_default();
        match c {
            '\\' => {
                let Some((_, escaped)) = rest.next() else {
                    return Some("trailing backslash at end of expression: ``".into());
                };
                if escaped.is_ascii_digit() {
                    return Some(format!("invalid escape sequence: `\\{escaped}`"));
                }
            }
            '[' => {
                let inner = tail.get(1..).unwrap_or_default().trim_start_matches('^');
                let first = usize::from(inner.starts_with(']'));
                let closed = class_end(inner.get(first..).unwrap_or_default());
                let Some(length) = closed else { return Some(format!("missing closing ]: `{tail}`")) };
                let end = at + tail.len() - inner.len() + first + length;
                while rest.next_if(|(next, _)| *next <= end).is_some() {}
            }
            '(' if ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|look| tail.starts_with(look)) => {
                let look: String = tail.chars().take(if tail.starts_with("(?<") { 4 } else { 3 }).collect();
                return Some(format!("invalid or unsupported Perl syntax: `{look}`"));
            }
            '(' => {
                groups += 1;
                rest.next_if(|(_, next)| *next == '?');
            }
            ')' if groups == 0 => return Some(format!("unexpected ): `{pattern}`")),
            ')' => groups -= 1,
            '*' | '+' | '?' if !repeatable => match repeated {
                // `a*?` is lazy; what repeats that repeats a repetition.
                Some((_, false)) if c == '?' => {}
                Some((from, _)) => {
                    let twice = pattern.get(from..at + 1).unwrap_or_default();
                    return Some(format!("invalid nested repetition operator: `{twice}`"));
                }
                None => return Some(format!("missing argument to repetition operator: `{c}`")),
            },
            _ => {}
        }
        repeated = matches!(c, '*' | '+' | '?').then(|| match (repeatable, repeated) {
            (false, Some((from, _))) => (from, true),
            _ => (at, false),
        });
        repeatable = !matches!(c, '*' | '+' | '?' | '(' | '|' | '^');
    }
    (groups > 0).then(|| format!("missing closing ): `{pattern}`"))
}

/// Where the class ends that begins before this text.
fn class_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == ']' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

/// Lists as sets and as maps.
fn lists(f: &Field, e: &mut ErrorList) {
    let (kind, keys, items) = (f.get(OF_LISTS), f.get(KEYS), f.get("items"));
    if !keys.is_empty() && kind.str() != "map" {
        let words = "must be map if x-kubernetes-list-map-keys is non-empty";
        if kind.is_set() { kind.invalid(e, words) } else { kind.required(e, words) }
    }
    if !kind.is_set() {
        return;
    }
    if f.get("type").str() != "array" {
        let (at, words) = (f.get("type"), format!("must be array if {OF_LISTS} is {}", kind.str()));
        if at.is_empty() { at.required(e, &words) } else { at.invalid(e, words) }
    }
    match kind.str() {
        "atomic" => {}
        "set" => set_items(&items, e),
        "map" => map_items(&keys, &items, e),
        _ => kind.not_supported(e, &["atomic", "set", "map"]),
    }
}

fn set_items(items: &Field, e: &mut ErrorList) {
    if !items.is_set() {
        items.required(e, "must have a schema if x-kubernetes-list-type is set");
        return;
    }
    if items.get("nullable").is_true() {
        items.get("nullable").forbidden(e, "cannot be nullable when x-kubernetes-list-type is set");
    }
    let wanted = match items.get("type").str() {
        "object" => OF_MAPS,
        "array" => OF_LISTS,
        _ => return,
    };
    let at = items.get(wanted);
    if at.str() != "atomic" {
        at.invalid(e, format!("must be atomic as item of a list with {OF_LISTS}=set"));
    }
}

fn map_items(keys: &Field, items: &Field, e: &mut ErrorList) {
    if keys.is_empty() {
        keys.required(e, "must not be empty if x-kubernetes-list-type is map");
    }
    if !items.is_set() {
        items.required(e, "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    if items.get("type").str() != "object" {
        items.get("type").invalid_text(e, "must be object if parent array's x-kubernetes-list-type is map");
    }
    let needed: BTreeSet<&str> = items.get("required").items().map(|name| name.str()).collect();
    let mut seen = BTreeSet::new();
    for key in keys.items() {
        if !seen.insert(key.str()) {
            keys.invalid(e, "must not contain duplicate entries");
        }
        let properties = items.get("properties");
        let Some((_, property)) = properties.entries().find(|(name, _)| *name == key.str()) else {
            let words = "entries must all be names of item properties";
            key.invalid(e, words);
            continue;
        };
        if ["array", "object"].contains(&property.get("type").str()) {
            let words = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            property.get("type").invalid(e, words);
        }
        if property.get("nullable").is_true() {
            let words = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            property.get("nullable").forbidden(e, words);
        }
        if !needed.contains(key.str()) && !property.get("default").is_set() {
            let words = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            property.get("default").required(e, words);
        }
    }
}

/// Validation rules, as far as they can be judged without compiling them.
fn rules(f: &Field, e: &mut ErrorList) {
    const REASONS: &[&str] =
        &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    for rule in f.items() {
        let (expression, message) = (rule.get("rule"), rule.get("message"));
        if expression.str().trim().is_empty() {
            expression.required(e, "rule is not specified");
        }
        if message.is_set() && message.str().trim().is_empty() && !message.str().is_empty() {
            message.invalid(e, "message must be non-empty if specified");
        } else if message.str().contains(['\n', '\r']) {
            message.invalid(e, "must not contain line breaks");
        } else if message.is_empty() && expression.str().contains(['\n', '\r']) {
            message.required(e, "message must be specified if rule contains line breaks");
        }
        let reason = rule.get("reason");
        if !reason.is_empty() {
            reason.one_of(e, REASONS);
        }
    }
}

/// A structural schema says the type of everything it names, outside of what only validates.
fn structural(f: &Field, level: Level, depth: usize, e: &mut ErrorList) {
    let kind = f.get("type");
    if level == Level::Root && f.get("additionalProperties").value.is_object() {
        f.get("additionalProperties").forbidden(e, "must not be used at the root");
    }
    for (_, child) in f.get("properties").entries() {
        structural(&child, Level::Field, depth + 1, e);
    }
    for (key, level) in [("items", Level::Item), ("additionalProperties", Level::Field)] {
        if f.get(key).value.is_object() {
            structural(&f.get(key), level, depth + 1, e);
        }
    }
    if kind.str() == "array" && !f.get("items").is_set() {
        f.get("items").required(e, "must be specified");
    }
    if f.get(INT_OR_STRING).is_true() && !kind.is_empty() {
        kind.invalid(e, "must be empty if x-kubernetes-int-or-string is true");
    }
    typed(f, level, e);
    if level == Level::Root || f.get(EMBEDDED).is_true() {
        identity(f, e);
    }
    defaults(f, e);
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, only) in f.get(key).items().enumerate() {
            if !(f.get(INT_OR_STRING).is_true() && int_or_string(f, key, index)) {
                validating(&only, e);
            }
        }
    }
    if f.get("not").is_set() {
        validating(&f.get("not"), e);
    }
}

/// `anyOf: [{type: integer}, {type: string}]`, alone or as the first of `allOf`: what int-or-string may say.
fn int_or_string(f: &Field, key: &str, index: usize) -> bool {
    let pair = |list: &Field| {
        let types: Vec<&str> = list.items().map(|one| one.get("type").str()).collect();
        types == ["integer", "string"] && list.items().all(|one| one.len() == 1)
    };
    match key {
        "anyOf" => pair(&f.get("anyOf")),
        "allOf" if index == 0 => f.get("allOf").items().next().is_some_and(|first| pair(&first.get("anyOf"))),
        _ => false,
    }
}

fn typed(f: &Field, level: Level, e: &mut ErrorList) {
    let kind = f.get("type");
    let (embedded, anything) = (f.get(EMBEDDED).is_true(), f.get(ANYTHING).is_true());
    if embedded && kind.str() != "object" {
        let words = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() { kind.required(e, words) } else { kind.invalid(e, words) }
    } else if kind.is_empty() && !f.get(INT_OR_STRING).is_true() && !anything {
        kind.required(
            e,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if embedded && f.get("additionalProperties").is_set() {
        let words = "must not be used if x-kubernetes-embedded-resource is set";
        f.get("additionalProperties").forbidden(e, words);
    }
    if embedded && !anything && f.get("properties").is_empty() {
        f.get("properties").required(e, "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields");
    }
    if level == Level::Root && !kind.is_empty() && kind.str() != "object" {
        kind.invalid(e, "must be object at the root");
    }
}

/// What an object's own fields may be called: their types are given, and of metadata only names can be restricted.
fn identity(f: &Field, e: &mut ErrorList) {
    for (name, property) in f.get("properties").entries() {
        let (kind, wanted) = match name {
            "kind" | "apiVersion" => (property.get("type"), "string"),
            "metadata" => (property.get("type"), "object"),
            _ => continue,
        };
        if kind.str() != wanted {
            kind.invalid_text(e, format!("must be {wanted}"));
        }
        if name == "metadata"
            && property.get("properties").entries().any(|(name, _)| !["name", "generateName"].contains(&name))
        {
            let words = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            property.get("properties").forbidden(e, words);
        }
    }
}

/// A default is of the type that it stands for.
fn defaults(f: &Field, e: &mut ErrorList) {
    let (default, wanted) = (f.get("default"), f.get("type").str());
    let found = match default.value {
        Value::Null => return,
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Number(n) if n.is_f64() && n.as_f64().is_some_and(|x| x.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
    };
    if wanted.is_empty() || found == wanted || (found == "integer" && wanted == "number") {
        return;
    }
    let words = format!(" in body must be of type {wanted}: {found:?}");
    e.push(validate::error(Cause::TypeInvalid, &default.path, Some(format!("{found:?}")), words));
}

/// Below allOf, anyOf, oneOf and not, a schema only validates: it types, names and defaults nothing.
fn validating(f: &Field, e: &mut ErrorList) {
    const EMPTY: &[&str] = &["type", "title", "description", KEYS];
    const UNDEFINED: &[&str] = &["additionalProperties", "default", OF_LISTS, OF_MAPS];
    const FALSE: &[&str] = &["nullable", ANYTHING, EMBEDDED, INT_OR_STRING];
    for (names, words) in [(EMPTY, "empty"), (UNDEFINED, "undefined"), (FALSE, "false")] {
        for name in
            names.iter().filter(|name| !f.get(name).is_empty() && f.get(name).value != &Value::Bool(false))
        {
            f.get(name).forbidden(e, format!("must be {words} to be structural"));
        }
    }
    if !f.get(RULES).is_empty() {
        f.get(RULES).forbidden(e, "must be empty to be structural");
    }
    let inner = ["allOf", "anyOf", "oneOf"].iter().flat_map(|key| f.get(key).items().collect::<Vec<_>>());
    let named = f.get("properties").entries().map(|(_, child)| child).collect::<Vec<_>>();
    let single = ["items", "not"].iter().map(|key| f.get(key)).filter(|child| child.value.is_object());
    for child in inner.chain(named).chain(single.collect::<Vec<_>>()) {
        validating(&child, e);
    }
}

#[cfg(test)]
mod tests {
    use super::regex_error;

    #[test]
    fn patterns_that_are_no_regular_expressions_are_told_as_go_tells_them() {
        for good in [
            "",
            "^[a-z]+$",
            "a*?",
            "[]a]",
            "[^]]",
            r"\d{2}\.[\]x]",
            "(a|b)*",
            "(?i)x",
            "a{2,3}",
            "(?P<n>x)",
            r"[[:alpha:]]+",
        ] {
            assert_eq!(regex_error(good), None, "{good}");
        }
        for (bad, words) in [
            ("[", "missing closing ]: `[`"),
            ("a[b", "missing closing ]: `[b`"),
            ("(a", "missing closing ): `(a`"),
            ("a)", "unexpected ): `a)`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a\\", "trailing backslash at end of expression: ``"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ] {
            assert_eq!(regex_error(bad).as_deref(), Some(words), "{bad}");
        }
    }
}
