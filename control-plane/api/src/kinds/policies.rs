//! Admission policies and their bindings: what the validating and the mutating ones share.

use serde_json::{Value, json};

use super::{cells as c, webhooks};
use crate::{
    field::ErrorList,
    kind::Printing,
    pod::defaults as d,
    validate::{Field, names, selector},
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
            webhooks::rule(&rule, e);
        }
    }
    f.get("matchPolicy").one_of(e, &["Equivalent", "Exact"]);
    selector::label_selector(&f.get("namespaceSelector"), e);
    selector::label_selector(&f.get("objectSelector"), e);
}

fn expression(f: &Field, e: &mut ErrorList) {
    if f.str().trim().is_empty() {
        f.required(e, "");
    } else if let Err(words) = webhooks::balanced(f.str()) {
        f.invalid(e, words);
    }
}

fn common(s: &Field, e: &mut ErrorList) {
    s.get("failurePolicy").one_of(e, &["Fail", "Ignore"]);
    let kind = s.get("paramKind");
    if kind.is_set() {
        kind.get("apiVersion").present(e);
        kind.get("kind").present(e);
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
    let mut seen: Vec<&str> = Vec::new();
    for variable in s.get("variables").items() {
        let name = variable.get("name");
        if name.present(e) && seen.contains(&name.str()) {
            name.duplicate(e);
        }
        seen.push(name.str());
        expression(&variable.get("expression"), e);
    }
}

pub fn validating(v: &Value) -> ErrorList {
    const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    common(&s, &mut e);
    if s.get("validations").is_empty() && s.get("auditAnnotations").is_empty() {
        s.get("validations")
            .required(&mut e, "validations or auditAnnotations must contain at least one item");
    }
    for check in s.get("validations").items() {
        expression(&check.get("expression"), &mut e);
        check.get("reason").one_of(&mut e, REASONS);
        let message = check.get("messageExpression");
        if !message.is_empty() {
            expression(&message, &mut e);
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for note in s.get("auditAnnotations").items() {
        let key = note.get("key");
        if key.present(&mut e) {
            key.all(&mut e, names::qualified(key.str()));
        }
        if seen.contains(&key.str()) {
            key.duplicate(&mut e);
        }
        seen.push(key.str());
        expression(&note.get("valueExpression"), &mut e);
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
        let part = match kind.str() {
            "ApplyConfiguration" => "applyConfiguration",
            "JSONPatch" => "jsonPatch",
            _ => {
                kind.required_one_of(&mut e, &["ApplyConfiguration", "JSONPatch"]);
                continue;
            }
        };
        if m.get(part).is_set() {
            expression(&m.get(part).get("expression"), &mut e);
        } else {
            m.get(part).required(&mut e, "");
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
        if !by_name.is_empty() && by_label.is_set() {
            by_name.forbidden(e, "name and selector are mutually exclusive");
        } else if by_name.is_empty() && !by_label.is_set() {
            parameters.required(e, "one of name or selector must be specified");
        }
        let action = parameters.get("parameterNotFoundAction");
        action.required_one_of(e, &["Allow", "Deny"]);
    }
    if s.get("matchResources").is_set() {
        match_resources(&s.get("matchResources"), e);
    }
}

pub fn validating_binding(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    binding(&s, &mut e);
    let actions = s.get("validationActions");
    actions.present(&mut e);
    let mut seen: Vec<&str> = Vec::new();
    for action in actions.items() {
        action.one_of(&mut e, &["Audit", "Deny", "Warn"]);
        if seen.contains(&action.str()) {
            action.duplicate(&mut e);
        }
        seen.push(action.str());
    }
    if seen.contains(&"Deny") && seen.contains(&"Warn") {
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
