//! The default ClusterRoles, Roles and their bindings, from the table `bootstrap.txt`.
//!
//! They are made at start, and rights that somebody took away are given back, unless the object says
//! `rbac.authorization.kubernetes.io/autoupdate: "false"` (upstream's post-start hook `rbac/bootstrap-roles`).
//!
//! A line of the table is one of
//! `role NAME`, `role NAMESPACE/NAME`: rules follow;
//! `  VERBS GROUPS RESOURCES [NAMES]`: a rule, lists with commas, `core` for the core group;
//! `  VERBS urls PATHS`: a rule about paths;
//! `label KEY VALUE`: a further label of the role; `aggregate KEY VALUE`: a label of the roles whose rules it has;
//! `bind NAME ROLE SUBJECT…`, `bind NAMESPACE/NAME ROLE SUBJECT…`: a binding; a subject is `user:NAME`,
//! `group:NAME` or `account:NAMESPACE/NAME`.

use serde_json::{Map, Value, json};

use super::rules::{Rule, missing};

const TABLE: &str = include_str!("bootstrap.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// A default object, as it is made when it does not exist.
#[derive(Clone, Debug, PartialEq)]
pub struct Default {
    /// Plural: `clusterroles`, `roles`, `clusterrolebindings`, `rolebindings`.
    pub resource: &'static str,
    /// Empty for the whole cluster.
    pub namespace: &'static str,
    pub name: &'static str,
    pub object: Value,
}

/// All default objects, roles before bindings.
pub fn objects() -> Vec<Default> {
    let (mut roles, mut bindings) = (Vec::new(), Vec::new());
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("role") => roles.extend(words.next().map(new_role)),
            Some("bind") => bindings.extend(new_binding(words)),
            Some(keyword @ ("label" | "aggregate")) => {
                if let (Some(role), Some(key), Some(value)) = (roles.last_mut(), words.next(), words.next()) {
                    add_label(&mut role.object, keyword, key, value);
                }
            }
            _ => {
                if let (Some(role), Some(rule)) = (roles.last_mut(), read_rule(line)) {
                    match role.object["rules"].as_array_mut() {
                        Some(rules) => rules.push(json!(rule)),
                        None => role.object["rules"] = json!([rule]),
                    }
                }
            }
        }
    }
    roles.extend(bindings);
    roles
}

/// The rules of a default ClusterRole.
pub fn rules_of(role: &str) -> Vec<Rule> {
    let mut lines = TABLE.lines().skip_while(|line| line.strip_prefix("role ") != Some(role)).skip(1);
    let own = std::iter::from_fn(|| lines.next().filter(|line| line.starts_with("  ")));
    own.filter_map(read_rule).collect()
}

/// What the object must become, `None` if it is good as it is. Only adds: what an administrator added stays.
pub fn reconcile(wanted: &Default, existing: &Value) -> Option<Value> {
    let annotations = existing.pointer("/metadata/annotations");
    if annotations.and_then(|a| a.get(AUTOUPDATE)).and_then(Value::as_str) == Some("false") {
        return None;
    }
    let mut result = existing.clone();
    for kind in ["labels", "annotations"] {
        let wanted = wanted.object.pointer(&format!("/metadata/{kind}")).and_then(Value::as_object);
        for (key, value) in wanted.into_iter().flatten() {
            let map = &mut result["metadata"][kind];
            if !map.is_object() {
                *map = json!({});
            }
            if map.get(key).is_none() {
                map[key] = value.clone();
            }
        }
    }
    if wanted.resource.ends_with("bindings") {
        add_subjects(&mut result, &wanted.object);
    } else if wanted.object.get("aggregationRule").is_some() {
        result["aggregationRule"] = wanted.object["aggregationRule"].clone();
    } else {
        add_rules(&mut result, &wanted.object);
    }
    (result != *existing).then_some(result)
}

/// A binding's role cannot be changed: one that refers to another role must be deleted and made anew.
pub fn refers_elsewhere(wanted: &Default, existing: &Value) -> bool {
    wanted.resource.ends_with("bindings") && existing.get("roleRef") != wanted.object.get("roleRef")
}

fn add_rules(result: &mut Value, wanted: &Value) {
    let rules = |of: &Value| -> Vec<Rule> {
        serde_json::from_value(of.get("rules").cloned().unwrap_or_default()).unwrap_or_default()
    };
    let lacking = missing(&rules(result), &rules(wanted));
    if lacking.is_empty() {
        return;
    }
    if !result["rules"].is_array() {
        result["rules"] = json!([]);
    }
    if let Some(list) = result["rules"].as_array_mut() {
        list.extend(super::rules::merge_verbs(lacking).iter().map(|rule| json!(rule)));
    }
}

fn add_subjects(result: &mut Value, wanted: &Value) {
    let wanted = wanted.get("subjects").and_then(Value::as_array).into_iter().flatten();
    for subject in wanted {
        if !result["subjects"].is_array() {
            result["subjects"] = json!([]);
        }
        if let Some(list) = result["subjects"].as_array_mut()
            && !list.contains(subject)
        {
            list.push(subject.clone());
        }
    }
}

fn split(name: &'static str) -> (&'static str, &'static str) {
    name.split_once('/').unwrap_or(("", name))
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn new_role(name: &'static str) -> Default {
    let (namespace, name) = split(name);
    let (kind, resource) =
        if namespace.is_empty() { ("ClusterRole", "clusterroles") } else { ("Role", "roles") };
    let object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": metadata(namespace, name),
        "rules": null,
    });
    Default { resource, namespace, name, object }
}

fn add_label(role: &mut Value, keyword: &str, key: &str, value: &str) {
    if keyword == "label" {
        role["metadata"]["labels"][key] = value.into();
        return;
    }
    let mut labels = Map::new();
    labels.insert(key.to_owned(), value.into());
    let selector = json!({"matchLabels": labels});
    match role.pointer_mut("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array_mut) {
        Some(selectors) => selectors.push(selector),
        None => role["aggregationRule"] = json!({"clusterRoleSelectors": [selector]}),
    }
}

fn new_binding(mut words: impl Iterator<Item = &'static str>) -> Option<Default> {
    let (namespace, name) = split(words.next()?);
    let role = words.next()?;
    let (kind, resource) = match namespace {
        "" => ("ClusterRoleBinding", "clusterrolebindings"),
        _ => ("RoleBinding", "rolebindings"),
    };
    let role_kind = if role.contains('/') { "Role" } else { "ClusterRole" };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": metadata(namespace, name),
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": split(role).1},
    });
    let subjects: Vec<Value> = words.filter_map(read_subject).collect();
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    Some(Default { resource, namespace, name, object })
}

fn read_subject(word: &'static str) -> Option<Value> {
    let (kind, name) = word.split_once(':')?;
    match kind {
        "user" => Some(json!({"kind": "User", "apiGroup": GROUP, "name": name})),
        "group" => Some(json!({"kind": "Group", "apiGroup": GROUP, "name": name})),
        "account" => {
            let (namespace, name) = split(name);
            Some(json!({"kind": "ServiceAccount", "name": name, "namespace": namespace}))
        }
        _ => None,
    }
}

fn read_rule(line: &str) -> Option<Rule> {
    let mut words = line.split_whitespace();
    let list = |word: &str| -> Vec<String> { word.split(',').map(str::to_owned).collect() };
    let verbs = list(words.next()?);
    let groups = words.next()?;
    let targets = list(words.next()?);
    if groups == "urls" {
        return Some(Rule { verbs, urls: targets, ..Rule::default() });
    }
    let core = |group: String| if group == "core" { String::new() } else { group };
    Some(Rule {
        verbs,
        api_groups: list(groups).into_iter().map(core).collect(),
        resources: targets,
        resource_names: words.next().map(list).unwrap_or_default(),
        urls: Vec::new(),
    })
}

#[cfg(test)]
#[path = "bootstrap_tests.rs"]
mod tests;
