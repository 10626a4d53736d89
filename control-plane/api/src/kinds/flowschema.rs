//! flowcontrol.apiserver.k8s.io/v1 FlowSchema.

use super::{cells as c, strategy};
use crate::kind::Printing;
use crate::kind::{Act, Kind, Subresource};
use crate::validate::{Field, Seen, error, names};
use crate::{
    field::{self, Cause, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "flowcontrol.apiserver.k8s.io",
    kind: "FlowSchema",
    plural: "flowschemas",
    singular: "flowschema",
    namespaced: false,
    schema: "io.k8s.api.flowcontrol.v1.FlowSchema",
    message: "api.flowcontrol.v1.FlowSchema",
    storage: "flowschemas",
    subresources: &[Subresource { name: "status", verbs: &["get", "patch", "update"], act: Act::Status }],
    default: |v| {
        if let Some(s) = d::object(v, "spec") {
            d::zero(s, "matchingPrecedence", json!(1000));
        }
    },
    prepare_create: strategy::create_blank_counted,
    prepare_update: strategy::update_counted,
    prepare_status: strategy::status_only,
    validate,
    validate_status,
    cells,
    generation: true,
    ..Kind::BASE
};

fn validate(v: &Value) -> ErrorList {
    const LAST: i64 = 10_000;
    let mut e = ErrorList::new();
    let s = Field::root(v).get("spec");
    let precedence = s.get("matchingPrecedence");
    if precedence.num() <= 0 {
        precedence.invalid(&mut e, "must be a positive value");
    }
    if precedence.num() > LAST {
        precedence.invalid(&mut e, format!("must not be greater than {LAST}"));
    }
    if precedence.num() == 1 && v["metadata"]["name"] != "exempt" {
        precedence.invalid(&mut e, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let method = s.get("distinguisherMethod");
    if method.is_set() && !["ByNamespace", "ByUser"].contains(&method.get("type").str()) {
        let printed = Some(format!("{{\"Type\":{}}}", field::shown(&Value::from(method.get("type").str()))));
        let words = "supported values: \"ByNamespace\", \"ByUser\"";
        e.push(error(Cause::NotSupported, &method.path, printed, words));
    }
    let level = s.get("priorityLevelConfiguration").get("name");
    if level.is_empty() {
        level.required(&mut e, "must reference a priority level");
    } else {
        level.all(&mut e, names::dns_subdomain(level.str()));
    }
    for rule in s.get("rules").items() {
        self::rule(&rule, &mut e);
    }
    e
}

fn validate_status(new: &Value, _: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let mut seen = Seen::default();
    for condition in Field::root(new).get("status").get("conditions").items() {
        seen.once(&condition.get("type"), &mut e);
        condition.get("type").present(&mut e);
    }
    e
}

fn rule(f: &Field, e: &mut ErrorList) {
    let (subjects, resources, plain) = (f.get("subjects"), f.get("resourceRules"), f.get("nonResourceRules"));
    if subjects.is_empty() {
        subjects.required(e, "subjects must contain at least one value");
    }
    for one in subjects.items() {
        subject(&one, e);
    }
    if resources.is_empty() && plain.is_empty() {
        f.required(e, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for one in resources.items() {
        resource_rule(&one, e);
    }
    for one in plain.items() {
        verbs(&one.get("verbs"), e);
        let urls = one.get("nonResourceURLs");
        if filled(&urls, "nonResourceURLs must contain at least one value", "non-resource URLs", e) {
            urls.items().for_each(|url| url_path(&url, e));
        }
    }
}

/// Who: one of three, and nothing of the others.
fn subject(f: &Field, e: &mut ErrorList) {
    const KINDS: [(&str, &str); 3] =
        [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let kind = f.get("kind").str();
    if !KINDS.iter().any(|(known, _)| *known == kind) {
        f.get("kind").not_supported(e, &KINDS.map(|(known, _)| known));
        return;
    }
    for (known, part) in KINDS {
        let at = f.get(part);
        match (known == kind, at.is_set()) {
            (true, false) => at.required(e, &format!("{part} is required when subject kind is '{known}'")),
            (false, true) => {
                at.forbidden(e, format!("{part} is forbidden when subject kind is not '{known}'"));
            }
            (true, true) if known == "ServiceAccount" => service_account(&at, e),
            (true, true) => {
                at.get("name").present(e);
            }
            (false, false) => {}
        }
    }
}

fn service_account(f: &Field, e: &mut ErrorList) {
    let (name, space) = (f.get("name"), f.get("namespace"));
    if name.present(e) && name.str() != "*" {
        name.all(e, names::dns_subdomain(name.str()));
    }
    if space.is_empty() {
        space.required(e, "must specify namespace for service account");
    } else {
        space.all(e, names::dns_label(space.str()));
    }
}

/// A list with something in it, in which `*` stands alone. Says whether its elements are to be looked at.
fn filled(f: &Field, absent: &str, others: &str, e: &mut ErrorList) -> bool {
    if f.is_empty() {
        f.required(e, absent);
        return false;
    }
    let any = f.items().any(|item| item.str() == "*");
    if any && f.len() > 1 {
        f.invalid(e, format!("if '*' is present, must not specify other {others}"));
    }
    !any
}

fn verbs(f: &Field, e: &mut ErrorList) {
    const VERBS: &[&str] =
        &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
    if filled(f, "verbs must contain at least one value", "verbs", e)
        && f.items().any(|verb| !VERBS.contains(&verb.str()))
    {
        f.not_supported(e, VERBS);
    }
}

fn resource_rule(f: &Field, e: &mut ErrorList) {
    verbs(&f.get("verbs"), e);
    let one = "resource rules must supply at least one";
    filled(&f.get("apiGroups"), &format!("{one} api group"), "api groups", e);
    filled(&f.get("resources"), &format!("{one} resource"), "resources", e);
    let spaces = f.get("namespaces");
    if spaces.is_empty() && f.get("clusterScope").is_true() {
        return;
    }
    let absent = "resource rules that are not cluster scoped must supply at least one namespace";
    if filled(&spaces, absent, "namespaces", e) {
        for space in spaces.items() {
            for words in names::dns_label(space.str()) {
                space
                    .invalid(e, format!("each member of this list must be '*' or a DNS-1123 label; {words}"));
            }
        }
    }
}

fn url_path(f: &Field, e: &mut ErrorList) {
    let path = f.str();
    match path {
        "" => f.invalid(e, "must not be empty"),
        "/" => {}
        _ => {
            for (wrong, words) in [
                (!path.starts_with('/'), "must start with slash"),
                (path.contains(' '), "must not contain white-space"),
                (path.contains("//"), "must not contain double slash"),
            ] {
                if wrong {
                    f.invalid(e, words);
                }
            }
            let stars = path.matches('*').count();
            if stars > 1 || (stars == 1 && !path.ends_with("/*")) {
                f.invalid(e, "wildcard can only do suffix matching");
            }
        }
    }
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let s = &o["spec"];
    let dangling =
        o["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Dangling");
    vec![
        c::name(o),
        c::text_or(&s["priorityLevelConfiguration"]["name"], "<none>"),
        c::int(&s["matchingPrecedence"]),
        c::text_or(&s["distinguisherMethod"]["type"], "<none>"),
        c::age(o, p),
        c::text_or(dangling.map_or(&Value::Null, |d| &d["status"]), "?"),
    ]
}
