//! Admission policies and their bindings: what the validating and the mutating ones share.

use serde_json::{Value, json};

use super::{cells as c, webhooks};
use crate::{
    field::ErrorList,
    kind::Printing,
    pod::defaults as d,
    validate::{Field, Seen, names, selector},
};

fn default_match(v: &mut Value) {
    d::unset(v, "matchPolicy", json!("Equivalent"));
    d::object(v, "namespaceSelector");
    d::object(v, "objectSelector");
    for list in ["resourceRules", "excludeResourceRules"] {
        d::each(v, list, |r| d::unset(r, "scope", json!("*")));
    }
}

pub fn default(v: &mut Value) {
    let Some(spec) = d::object(v, "spec") else { return };
    d::unset(spec, "failurePolicy", json!("Fail"));
    d::with(spec, "matchConstraints", default_match);
}

pub fn default_binding(v: &mut Value) {
    d::with(v, "spec", |s| d::with(s, "matchResources", default_match));
}

fn match_resources(f: &Field, e: &mut ErrorList) {
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in f.get(list).items() {
            let mut seen = Seen::default();
            for name in rule.get("resourceNames").items() {
                name.all(e, names::path_segment(name.str()));
                seen.once(&name, e);
            }
            webhooks::rule(&rule, e);
        }
    }
    f.get("matchPolicy").one_of(e, &["Equivalent", "Exact"]);
    selector::label_selector(&f.get("namespaceSelector"), e);
    selector::label_selector(&f.get("objectSelector"), e);
}

/// An expression; `absent` is what is said when there is none.
fn expression(f: &Field, absent: &str, e: &mut ErrorList) {
    if f.str().trim().is_empty() {
        f.required(e, absent);
    } else if let Err(words) = webhooks::balanced(f.str()) {
        f.invalid(e, words);
    }
}

const NO_EXPRESSION: &str = "expression is not specified";

/// Group, version and kind of what parameters are.
fn param_kind_of(f: &Field, e: &mut ErrorList) {
    let (version, kind) = (f.get("apiVersion"), f.get("kind"));
    if version.present(e) {
        let (group, name) = version.str().rsplit_once('/').unwrap_or(("", version.str()));
        let at = |text: &Value, e: &mut ErrorList, wrong: Vec<String>| {
            Field::at(text, version.path.clone()).joined(e, &wrong);
        };
        if group.contains('/') {
            version.invalid(e, format!("unexpected GroupVersion string: {}", version.str()));
        } else {
            if !group.is_empty() {
                at(&Value::from(group), e, names::dns_subdomain(group));
            }
            if name.is_empty() {
                version.invalid(e, "version must be specified");
            } else {
                at(&Value::from(name), e, names::dns1035_label(name));
            }
        }
    }
    if kind.present(e) {
        let wrong = names::dns1035_label(&kind.str().to_lowercase());
        if !wrong.is_empty() {
            let words = "may have mixed case, but should otherwise match: ";
            kind.invalid(e, format!("{words}{}", wrong.join(",")));
        }
    }
}

fn common(s: &Field, e: &mut ErrorList) {
    s.get("failurePolicy").one_of(e, &["Fail", "Ignore"]);
    let kind = s.get("paramKind");
    if kind.is_set() {
        param_kind_of(&kind, e);
    }
    let constraints = s.get("matchConstraints");
    if constraints.is_set() {
        if constraints.get("resourceRules").is_empty() {
            constraints.get("resourceRules").required(e, "");
        }
        match_resources(&constraints, e);
    } else {
        constraints.required(e, "");
    }
    webhooks::conditions(&s.get("matchConditions"), e);
    let mut seen = Seen::default();
    for variable in s.get("variables").items() {
        let name = variable.get("name");
        if name.str().trim().is_empty() {
            name.required(e, "name is not specified");
        } else if !is_identifier(name.str()) {
            name.invalid(e, "name is not a valid CEL identifier");
        }
        seen.once_if_set(&name, e);
        expression(&variable.get("expression"), NO_EXPRESSION, e);
    }
}

/// A name that an expression can use: no word of the language.
fn is_identifier(name: &str) -> bool {
    const RESERVED: &[&str] = &[
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !RESERVED.contains(&name)
}

/// One check of a validating policy.
fn validation(check: &Field, e: &mut ErrorList) {
    const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    let (rule, message, computed) =
        (check.get("expression"), check.get("message"), check.get("messageExpression"));
    let broken = |text: &str| text.contains(['\n', '\r']);
    expression(&rule, NO_EXPRESSION, e);
    if !computed.is_empty() {
        if computed.str().trim().is_empty() {
            computed.invalid(e, "must be non-empty if specified");
        } else {
            expression(&computed, "", e);
        }
    }
    if !message.is_empty() && message.str().trim().is_empty() {
        message.invalid(e, "message must be non-empty if specified");
    } else if broken(message.str().trim()) {
        message.invalid(e, "message must not contain line breaks");
    } else if message.is_empty() && broken(rule.str().trim()) {
        message.required(e, "message must be specified if expression contains line breaks");
    }
    check.get("reason").one_of(e, REASONS);
}

pub fn validating(v: &Value) -> ErrorList {
    const NOTES_MAX: usize = 20;
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    common(&s, &mut e);
    let (checks, notes) = (s.get("validations"), s.get("auditAnnotations"));
    if checks.is_empty() && notes.is_empty() {
        for list in [&checks, &notes] {
            list.required(&mut e, "validations or auditAnnotations must contain at least one item");
        }
    }
    for check in checks.items() {
        validation(&check, &mut e);
    }
    if notes.len() > NOTES_MAX {
        notes.invalid(&mut e, format!("must not have more than {NOTES_MAX} auditAnnotations"));
    }
    let policy = v["metadata"]["name"].as_str().unwrap_or_default();
    let mut seen = Seen::default();
    for note in notes.items() {
        let key = note.get("key");
        // The policy's name goes before the key in what is written down.
        let full = Value::from(format!("{policy}/{}", key.str()));
        let at = Field::at(&full, key.path.clone());
        at.all(&mut e, names::qualified(at.str()));
        seen.once(&key, &mut e);
        expression(&note.get("valueExpression"), "valueExpression is not specified", &mut e);
    }
    e
}

pub fn mutating(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    common(&s, &mut e);
    s.get("reinvocationPolicy").required_one_of(&mut e, &["IfNeeded", "Never"]);
    if s.get("mutations").is_empty() {
        s.get("mutations").required(&mut e, "mutations must contain at least one item");
    }
    for m in s.get("mutations").items() {
        let kind = m.get("patchType");
        if !kind.required_one_of(&mut e, &["ApplyConfiguration", "JSONPatch"]) {
            continue;
        }
        for (name, part) in [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")] {
            let at = m.get(part);
            match (kind.str() == name, at.is_set()) {
                (true, true) => expression(&at.get("expression"), NO_EXPRESSION, &mut e),
                (true, false) => at.required(&mut e, &format!("must be specified when patchType is {name}")),
                (false, true) => {
                    at.forbidden(&mut e, format!("must not be specified when patchType is {}", kind.str()));
                }
                (false, false) => {}
            }
        }
    }
    e
}

fn binding(s: &Field, e: &mut ErrorList) {
    let name = s.get("policyName");
    if name.present(e) {
        name.all(e, names::dns_subdomain(name.str()));
    }
    let parameters = s.get("paramRef");
    if parameters.is_set() {
        let (by_name, by_label) = (parameters.get("name"), parameters.get("selector"));
        by_name.all(e, if by_name.is_empty() { Vec::new() } else { names::path_segment(by_name.str()) });
        selector::label_selector(&by_label, e);
        match (!by_name.is_empty(), by_label.is_set()) {
            (true, true) => {
                for at in [&by_name, &by_label] {
                    at.forbidden(e, "name and selector are mutually exclusive");
                }
            }
            (false, false) => parameters.required(e, "one of name or selector must be specified"),
            _ => {}
        }
        let action = parameters.get("parameterNotFoundAction");
        action.required_one_of(e, &["Allow", "Deny"]);
    }
    if s.get("matchResources").is_set() {
        // Upstream's path has the word misspelt.
        match_resources(&Field::at(s.get("matchResources").value, s.path.child("matchResouces")), e);
    }
}

pub fn validating_binding(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    binding(&s, &mut e);
    let actions = s.get("validationActions");
    actions.present(&mut e);
    let mut seen = Seen::default();
    for action in actions.items() {
        action.one_of(&mut e, &["Audit", "Deny", "Warn"]);
        seen.once(&action, &mut e);
    }
    if seen.has("Deny") && seen.has("Warn") {
        actions.invalid(&mut e, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
    }
    e
}

pub fn mutating_binding(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    binding(&Field::root(v).get("spec"), &mut e);
    e
}

fn param_kind(s: &Value) -> Value {
    let kind = &s["paramKind"];
    if !kind.is_object() {
        return json!("<unset>");
    }
    let text = |k: &str| kind[k].as_str().unwrap_or_default();
    json!(format!("{}/{}", text("apiVersion"), text("kind")))
}

pub fn validating_cells(o: &Value, p: &Printing) -> Vec<Value> {
    let count = o["spec"]["validations"].as_array().map_or(0, Vec::len);
    vec![c::name(o), json!(count), param_kind(&o["spec"]), c::age(o, p)]
}

pub fn mutating_cells(o: &Value, p: &Printing) -> Vec<Value> {
    let count = o["spec"]["mutations"].as_array().map_or(0, Vec::len);
    vec![c::name(o), json!(count), param_kind(&o["spec"]), c::age(o, p)]
}

pub fn binding_cells(o: &Value, p: &Printing) -> Vec<Value> {
    let reference = &o["spec"]["paramRef"];
    let text = |k: &str| reference[k].as_str().unwrap_or_default();
    let words = if !reference.is_object() {
        "<unset>".into()
    } else if !text("namespace").is_empty() {
        format!("{}/{}", text("namespace"), text("name"))
    } else {
        format!("*/{}", text("name"))
    };
    vec![c::name(o), c::text(&o["spec"]["policyName"]), json!(words), c::age(o, p)]
}
