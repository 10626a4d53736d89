//! Labels and selectors over them.

use serde_json::Value;

use super::{Field, names};
use crate::field::{self, ErrorList};

/// The labels of a map: keys are qualified names, values label values; errors name the map, not the key.
pub fn labels(f: &Field, errors: &mut ErrorList) {
    for (key, value) in f.entries() {
        errors.extend(names::qualified(key).into_iter().map(|m| field::invalid_str(&f.path, key, m)));
        let text = value.str();
        errors.extend(names::label_value(text).into_iter().map(|m| field::invalid_str(&f.path, text, m)));
    }
}

/// A `metav1.LabelSelector`.
pub fn label_selector(f: &Field, errors: &mut ErrorList) {
    labels(&f.get("matchLabels"), errors);
    for requirement in f.get("matchExpressions").items() {
        let values = requirement.get("values");
        match requirement.get("operator").str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    values.forbidden(
                        errors,
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            _ => requirement.get("operator").invalid_text(errors, "not a valid selector operator"),
        }
        requirement.get("key").all(errors, names::qualified(requirement.get("key").str()));
        for value in values.items() {
            value.all(errors, names::label_value(value.str()));
        }
    }
}

/// Whether the selector object matches these labels; `None` when it cannot be understood. A null selector matches
/// nothing, an empty one everything.
pub fn matches(selector: &Value, labels: &Value) -> Option<bool> {
    let Some(selector) = selector.as_object() else { return Some(false) };
    let has = |k: &str| labels.get(k).and_then(Value::as_str);
    for (k, v) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        if !names::qualified(k).is_empty() {
            return None;
        }
        if has(k) != v.as_str() {
            return Some(false);
        }
    }
    for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = e["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let found = match e["operator"].as_str()? {
            "In" if !values.is_empty() => has(key).is_some_and(|v| values.contains(&v)),
            "NotIn" if !values.is_empty() => !has(key).is_some_and(|v| values.contains(&v)),
            "Exists" if values.is_empty() => has(key).is_some(),
            "DoesNotExist" if values.is_empty() => has(key).is_none(),
            _ => return None,
        };
        if !found {
            return Some(false);
        }
    }
    Some(true)
}

/// A selector without any requirement.
pub fn selects_all(selector: &Value) -> bool {
    ["matchLabels", "matchExpressions"].iter().all(|k| Field::root(selector).get(k).is_empty())
}

/// The selector as `kubectl` prints it: `a=b,c in (d,e)`, `<none>` when it selects all.
pub fn printed(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> = Vec::new();
    for (k, v) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push((k.clone(), format!("{k}={}", v.as_str().unwrap_or_default())));
    }
    for e in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = e["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> =
            e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let list = values.join(",");
        let text = match e["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({list})"),
            "NotIn" => format!("{key} notin ({list})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".into(),
        };
        parts.push((key.to_owned(), text));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    if parts.is_empty() && selector.is_object() {
        return "<none>".into();
    }
    if selector.is_null() {
        return "<none>".into();
    }
    parts.into_iter().map(|p| p.1).collect::<Vec<_>>().join(",")
}

/// A map of labels as printed: `a=b,c=d`, `<none>` when empty.
pub fn printed_labels(map: &Value) -> String {
    let parts: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if parts.is_empty() { "<none>".into() } else { parts.join(",") }
}
