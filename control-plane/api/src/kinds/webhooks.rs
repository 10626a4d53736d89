//! Admission webhooks: what the mutating and the validating configuration share.

use serde_json::{Value, json};

use super::cells as c;
use crate::{
    field::ErrorList,
    kind::Printing,
    pod::defaults as d,
    validate::{Field, Seen, names, selector},
};

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REVIEWS: &[&str] = &["v1", "v1beta1"];

pub fn default(v: &mut Value) {
    d::each(v, "webhooks", |w| {
        d::unset(w, "failurePolicy", json!("Fail"));
        d::unset(w, "matchPolicy", json!("Equivalent"));
        d::object(w, "namespaceSelector");
        d::object(w, "objectSelector");
        d::unset(w, "timeoutSeconds", json!(10));
        d::with(w, "clientConfig", |c| d::with(c, "service", |s| d::unset(s, "port", json!(443))));
        d::each(w, "rules", |r| d::unset(r, "scope", json!("*")));
    });
}

pub fn default_mutating(v: &mut Value) {
    default(v);
    d::each(v, "webhooks", |w| d::unset(w, "reinvocationPolicy", json!("Never")));
}

pub fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let mut seen = Seen::default();
    for w in Field::root(v).get("webhooks").items() {
        seen.once_if_set(&w.get("name"), &mut e);
        webhook(&w, &mut e);
    }
    e
}

fn webhook(w: &Field, e: &mut ErrorList) {
    let name = w.get("name");
    let wrong = names::dns_subdomain(name.str());
    if name.is_empty() {
        name.required(e, "");
    } else if !wrong.is_empty() {
        name.joined(e, &wrong);
    } else if name.str().split('.').count() < 3 {
        name.invalid(e, "should be a domain with at least three segments separated by dots");
    }
    for rule in w.get("rules").items() {
        self::rule(&rule, e);
    }
    w.get("failurePolicy").one_of(e, &["Fail", "Ignore"]);
    w.get("matchPolicy").one_of(e, &["Equivalent", "Exact"]);
    w.get("reinvocationPolicy").one_of(e, &["IfNeeded", "Never"]);
    let effects = w.get("sideEffects");
    if effects.is_set() {
        effects.one_of(e, &["None", "NoneOnDryRun"]);
    } else {
        effects.required(e, "must specify one of None, NoneOnDryRun");
    }
    let seconds = w.get("timeoutSeconds");
    if seconds.is_set() && !(1..=30).contains(&seconds.num()) {
        seconds.invalid(e, "the timeout value must be between 1 and 30 seconds");
    }
    selector::label_selector(&w.get("namespaceSelector"), e);
    selector::label_selector(&w.get("objectSelector"), e);
    reviews(&w.get("admissionReviewVersions"), e);
    client(&w.get("clientConfig"), e);
    conditions(&w.get("matchConditions"), e);
}

pub fn reviews(f: &Field, e: &mut ErrorList) {
    if f.is_empty() {
        f.required(e, "must specify one of v1, v1beta1");
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for version in f.items() {
        if seen.contains(&version.str()) {
            version.invalid(e, "duplicate version");
        }
        seen.push(version.str());
        version.all(e, names::dns1035_label(version.str()));
    }
    if !seen.iter().any(|v| REVIEWS.contains(v)) {
        f.invalid(e, "must include at least one of v1, v1beta1");
    }
}

/// A URL over TLS, or a service of the cluster.
pub fn client(f: &Field, e: &mut ErrorList) {
    let (url, service) = (f.get("url"), f.get("service"));
    match (url.is_set(), service.is_set()) {
        (true, true) | (false, false) => f.required(e, "exactly one of url or service is required"),
        (true, false) => webhook_url(&url, e),
        (false, true) => {
            service.get("name").present(e);
            service.get("namespace").present(e);
            let port = service.get("port");
            if port.is_set() && !(1..=65535).contains(&port.num()) {
                port.invalid(e, "port is not valid: must be between 1 and 65535, inclusive");
            }
            service_path(&service.get("path"), e);
        }
    }
}

/// Segments that are subdomains each.
fn service_path(f: &Field, e: &mut ErrorList) {
    let path = f.str();
    if path.is_empty() || path == "/" {
        return;
    }
    if path == "//" {
        f.invalid(e, "segment[0] may not be empty");
        return;
    }
    if !path.starts_with('/') {
        f.invalid(e, "must start with a '/'");
    }
    let inner = path.get(1..).unwrap_or_default();
    for (i, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            f.invalid(e, format!("segment[{i}] may not be empty"));
            continue;
        }
        for words in names::dns_subdomain(step) {
            f.invalid(e, format!("segment[{i}]: {words}"));
        }
    }
}

fn webhook_url(f: &Field, e: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    let text = f.str();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let part = |value: &str| Value::from(value);
    let mut wrong = |value: &str, words: String| e.push(crate::field::invalid(&f.path, &part(value), words));
    if scheme != "https" {
        wrong(scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() {
        wrong(host, format!("host must be specified{FORM}"));
    }
    if let Some((user, _)) = host.rsplit_once('@') {
        wrong(user, "user information is not permitted in the URL".into());
    }
    if !fragment.is_empty() {
        wrong(fragment, "fragments are not permitted in the URL".into());
    }
    if !query.is_empty() {
        wrong(query, "query parameters are not permitted in the URL".into());
    }
}

/// Conditions have unique names and an expression; whether it compiles is not known here.
pub fn conditions(f: &Field, e: &mut ErrorList) {
    if f.len() > 64 {
        f.too_many(e, 64);
    }
    let mut seen = Seen::default();
    for condition in f.items() {
        let (name, expression) = (condition.get("name"), condition.get("expression"));
        if expression.str().trim().is_empty() {
            expression.required(e, "");
        } else if let Err(words) = balanced(expression.str()) {
            expression.invalid(e, words);
        }
        if name.is_empty() {
            name.required(e, "");
            continue;
        }
        name.joined(e, &names::qualified(name.str()));
        seen.once(&name, e);
    }
}

/// The coarse half of a compiler: brackets and quotes that do not close.
pub fn balanced(expression: &str) -> Result<(), String> {
    let mut open = Vec::new();
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for ch in expression.chars() {
        if let Some(q) = quote {
            match ch {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == q => quote = None,
                _ => {}
            }
            continue;
        }
        match ch {
            '"' | '\'' => quote = Some(ch),
            '(' => open.push(')'),
            '[' => open.push(']'),
            '{' => open.push('}'),
            ')' | ']' | '}' if open.pop() != Some(ch) => {
                return Err(format!("compilation failed: ERROR: <input>: Syntax error: unexpected '{ch}'"));
            }
            _ => {}
        }
    }
    if quote.is_some() || !open.is_empty() {
        return Err("compilation failed: ERROR: <input>: Syntax error: mismatched input '<EOF>'".into());
    }
    Ok(())
}

/// Operations and resources that a webhook or policy is asked about.
pub fn rule(f: &Field, e: &mut ErrorList) {
    let operations = f.get("operations");
    operations.present(e);
    if operations.len() > 1 && operations.items().any(|o| o.str() == "*") {
        operations.invalid(e, "if '*' is present, must not specify other operations");
    }
    for operation in operations.items() {
        operation.one_of(e, OPERATIONS);
    }
    for (name, word) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let list = f.get(name);
        list.present(e);
        if list.len() > 1 && list.items().any(|o| o.str() == "*") {
            list.invalid(e, format!("if '*' is present, must not specify other {word}"));
        }
        if name == "apiVersions" {
            for version in list.items().filter(|v| v.is_empty()) {
                version.required(e, "");
            }
        }
    }
    resources(&f.get("resources"), e);
    f.get("scope").one_of(e, &["*", "Cluster", "Namespaced"]);
}

/// Resources and subresources, none of them meant by another one of the list.
fn resources(f: &Field, e: &mut ErrorList) {
    f.present(e);
    let all: Vec<&str> = f.items().map(|r| r.str()).collect();
    let (mut whole, mut everywhere) = (Vec::new(), Vec::new());
    for item in f.items() {
        item.present(e);
        let Some((resource, sub)) = item.str().split_once('/') else { continue };
        if whole.contains(&resource) {
            item.invalid(e, format!("if '{resource}/*' is present, must not specify {}", item.str()));
        }
        if everywhere.contains(&sub) {
            item.invalid(e, format!("if '*/{sub}' is present, must not specify {}", item.str()));
        }
        if sub == "*" {
            whole.push(resource);
        }
        if resource == "*" {
            everywhere.push(sub);
        }
    }
    if all.contains(&"*/*") && all.len() > 1 {
        f.invalid(e, "if '*/*' is present, must not specify other resources");
    }
    if all.contains(&"*") && all.iter().any(|r| *r != "*" && !r.contains('/')) {
        f.invalid(e, "if '*' is present, must not specify other resources without subresources");
    }
}

pub fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    vec![c::name(o), json!(o["webhooks"].as_array().map_or(0, Vec::len)), c::age(o, p)]
}
