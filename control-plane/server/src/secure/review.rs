//! The reviews that ask authorization instead of acting: `authorization.k8s.io/v1` and SelfSubjectReview.
//!
//! Each takes the decoded body and gives the body of the answer (201).

use std::collections::BTreeMap;

use fairlead_api::field::{self, ErrorList, Path};
use fairlead_api::status::{self, Status};
use serde_json::{Map, Value, json};

use super::User;
use super::authorize::{Attributes, Authorizer, Decision};
use super::node::node_name;

const GROUP: &str = "authorization.k8s.io";
const VERSION: &str = "authorization.k8s.io/v1";

/// Which of the three access reviews is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// SelfSubjectAccessReview: about the one who asks.
    Own(&'a User),
    /// SubjectAccessReview: about anybody.
    Any,
    /// LocalSubjectAccessReview in this namespace.
    Local(&'a str),
}

/// Answers a SelfSubjectAccessReview, SubjectAccessReview or LocalSubjectAccessReview.
///
/// # Errors
/// 422 for a review that asks about nothing or nobody.
pub fn access(authorizer: &Authorizer, of: Access<'_>, body: &Value) -> Result<Value, Status> {
    let errors = validate(of, body);
    if !errors.is_empty() {
        return Err(status::invalid(GROUP, "", "", &errors));
    }
    let spec = body.get("spec").unwrap_or(&Value::Null);
    let asked;
    let user = match of {
        Access::Own(user) => user,
        Access::Any | Access::Local(_) => {
            asked = subject(spec);
            &asked
        }
    };
    let (decision, problem) = decide(authorizer, user, spec);
    let mut result = Map::new();
    result.insert("allowed".to_owned(), decision.is_allowed().into());
    let (Decision::Allow(reason) | Decision::Refuse(reason)) = decision;
    for (key, words) in [("reason", reason), ("evaluationError", problem)] {
        if !words.is_empty() {
            result.insert(key.to_owned(), words.into());
        }
    }
    let kind = match of {
        Access::Own(_) => "SelfSubjectAccessReview",
        Access::Any => "SubjectAccessReview",
        Access::Local(_) => "LocalSubjectAccessReview",
    };
    Ok(answer(body, kind, Value::Object(result)))
}

/// Answers a SelfSubjectRulesReview.
///
/// # Errors
/// 400 without a namespace.
pub fn rules(authorizer: &Authorizer, user: &User, body: &Value) -> Result<Value, Status> {
    let namespace = text(body, "/spec/namespace");
    if namespace.is_empty() {
        return Err(status::bad_request("no namespace on request"));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in authorizer.rules_of(user, namespace) {
        let mut shown = Map::new();
        shown.insert("verbs".to_owned(), rule.verbs.into());
        let lists = [
            ("apiGroups", rule.api_groups),
            ("resources", rule.resources),
            ("resourceNames", rule.resource_names),
        ];
        if rule.urls.is_empty() {
            let set = lists.into_iter().filter(|(_, list)| !list.is_empty());
            shown.extend(set.map(|(key, list)| (key.to_owned(), list.into())));
            resources.push(Value::Object(shown));
        } else {
            shown.insert("nonResourceURLs".to_owned(), rule.urls.into());
            paths.push(Value::Object(shown));
        }
    }
    let is_node = node_name(user).is_some();
    let mut result = json!({"incomplete": is_node, "nonResourceRules": paths, "resourceRules": resources});
    if is_node {
        result["evaluationError"] = "node authorizer does not support user rule resolution".into();
    }
    let mut reply = answer(body, "SelfSubjectRulesReview", result);
    // Upstream answers without the question.
    reply["spec"] = json!({});
    Ok(reply)
}

/// Answers a SelfSubjectReview; `now` is its creation time in RFC 3339.
pub fn who_am_i(user: &User, now: &str) -> Value {
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "SelfSubjectReview",
        "metadata": {"creationTimestamp": now},
        "status": {"userInfo": user.to_json()},
    })
}

fn answer(body: &Value, kind: &str, result: Value) -> Value {
    let mut answer = json!({"apiVersion": VERSION, "kind": kind, "status": result});
    answer["metadata"] = body.get("metadata").filter(|m| !m.is_null()).cloned().unwrap_or_else(|| json!({}));
    answer["spec"] = body.get("spec").filter(|s| !s.is_null()).cloned().unwrap_or_else(|| json!({}));
    answer
}

fn subject(spec: &Value) -> User {
    let extra: BTreeMap<String, Vec<String>> = spec
        .get("extra")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.to_ascii_lowercase(), strings(Some(values))))
        .collect();
    User {
        name: text(spec, "/user").to_owned(),
        uid: text(spec, "/uid").to_owned(),
        groups: strings(spec.get("groups")),
        extra,
    }
}

/// The decision, and what of the question could not be understood.
fn decide(authorizer: &Authorizer, user: &User, spec: &Value) -> (Decision, String) {
    if let Some(asked) = present(spec, "nonResourceAttributes") {
        let attributes = Attributes::path(user, text(asked, "/verb"), text(asked, "/path"));
        return (authorizer.authorize(&attributes), String::new());
    }
    let Some(asked) = present(spec, "resourceAttributes") else {
        return (Decision::Refuse(String::new()), String::new());
    };
    let mut problems = Vec::new();
    let fields = match present(asked, "fieldSelector").map(field_selector) {
        Some(Err(())) => {
            problems.push("spec.resourceAttributes.fieldSelector ignored due to parse error");
            String::new()
        }
        Some(Ok(selector)) => selector,
        None => String::new(),
    };
    if present(asked, "labelSelector").is_some_and(|selector| !understood(selector, &LABEL_OPERATORS)) {
        problems.push("spec.resourceAttributes.labelSelector ignored due to parse error");
    }
    let attributes = Attributes {
        group: text(asked, "/group"),
        version: text(asked, "/version"),
        resource: text(asked, "/resource"),
        subresource: text(asked, "/subresource"),
        namespace: text(asked, "/namespace"),
        name: text(asked, "/name"),
        field_selector: &fields,
        ..Attributes::new(user, text(asked, "/verb"))
    };
    let problems = match problems.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        more => format!("[{}]", more.join(", ")),
    };
    (authorizer.authorize(&attributes), problems)
}

const FIELD_OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];
const LABEL_OPERATORS: [&str; 4] = FIELD_OPERATORS;

fn understood(selector: &Value, operators: &[&str]) -> bool {
    requirements(selector).all(|requirement| {
        let values = strings(requirement.get("values")).len();
        match text(requirement, "/operator") {
            operator if !operators.contains(&operator) => false,
            "In" | "NotIn" => values > 0,
            _ => values == 0,
        }
    })
}

/// The field selector of a review in the form of a query parameter. What asks for one of several values is left out:
/// the Node authorizer looks for exact ones only.
fn field_selector(selector: &Value) -> Result<String, ()> {
    let raw = text(selector, "/rawSelector");
    if !raw.is_empty() {
        return if raw.split(',').all(|term| term.contains('=')) { Ok(raw.to_owned()) } else { Err(()) };
    }
    if !understood(selector, &FIELD_OPERATORS) {
        return Err(());
    }
    let exact = requirements(selector).filter(|requirement| text(requirement, "/operator") == "In");
    let terms: Vec<String> = exact
        .filter_map(|requirement| match strings(requirement.get("values")).as_slice() {
            [value] => Some(format!("{}={value}", text(requirement, "/key"))),
            _ => None,
        })
        .collect();
    Ok(terms.join(","))
}

fn requirements(selector: &Value) -> impl Iterator<Item = &Value> {
    selector.get("requirements").and_then(Value::as_array).into_iter().flatten()
}

fn validate(of: Access<'_>, body: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = body.get("spec").unwrap_or(&Value::Null);
    let (resource, other) = (present(spec, "resourceAttributes"), present(spec, "nonResourceAttributes"));
    match (resource, other) {
        (Some(_), Some(other)) => errors.push(field::invalid(
            &path.child("nonResourceAttributes"),
            other,
            "cannot be specified in combination with resourceAttributes",
        )),
        (None, None) => errors.push(field::invalid(
            &path.child("resourceAttributes"),
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    let names_nobody = text(spec, "/user").is_empty() && strings(spec.get("groups")).is_empty();
    if !matches!(of, Access::Own(_)) && names_nobody {
        let detail = "at least one of user or group must be specified";
        errors.push(field::invalid_str(&path.child("user"), "", detail));
    }
    if let Some(asked) = resource {
        validate_selectors(&path.child("resourceAttributes"), asked, &mut errors);
    }
    if let Access::Local(namespace) = of {
        validate_local(namespace, &path, spec, &mut errors);
    }
    errors
}

fn validate_selectors(path: &Path, asked: &Value, errors: &mut ErrorList) {
    for key in ["fieldSelector", "labelSelector"] {
        let Some(selector) = present(asked, key) else { continue };
        let path = path.child(key);
        let raw = text(selector, "/rawSelector");
        let any = requirements(selector).next().is_some();
        if !raw.is_empty() && any {
            let detail = "may not specified at the same time as requirements";
            errors.push(field::invalid_str(&path.child("rawSelector"), raw, detail));
        }
        if raw.is_empty() && !any {
            let detail = format!("when {} is specified, requirements or rawSelector is required", key);
            errors.push(field::required(&path.child("requirements"), &detail));
        }
        for (place, requirement) in requirements(selector).enumerate() {
            if text(requirement, "/key").is_empty() {
                let path = path.child("requirements").index(place).child("key");
                errors.push(field::required(&path, "must be specified"));
            }
        }
    }
}

fn validate_local(namespace: &str, path: &Path, spec: &Value, errors: &mut ErrorList) {
    if let Some(asked) = present(spec, "resourceAttributes") {
        let own = text(asked, "/namespace");
        if own != namespace {
            let path = path.child("resourceAttributes").child("namespace");
            errors.push(field::invalid_str(&path, own, "must match metadata.namespace"));
        }
    }
    if let Some(other) = present(spec, "nonResourceAttributes") {
        let detail = "disallowed on this kind of request";
        errors.push(field::invalid(&path.child("nonResourceAttributes"), other, detail));
    }
}

fn present<'a>(of: &'a Value, key: &str) -> Option<&'a Value> {
    of.get(key).filter(|value| !value.is_null())
}

fn text<'a>(of: &'a Value, pointer: &str) -> &'a str {
    of.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn strings(of: Option<&Value>) -> Vec<String> {
    let list = of.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
