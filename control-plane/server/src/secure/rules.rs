//! RBAC rules and whether one set of them covers another (`k8s.io/component-helpers/auth/rbac/validation`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::authorize::Attributes;

/// `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    #[serde(default, deserialize_with = "super::rbac::list")]
    pub verbs: Vec<String>,
    #[serde(default, deserialize_with = "super::rbac::list", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(default, deserialize_with = "super::rbac::list", skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(default, deserialize_with = "super::rbac::list", skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(
        default,
        rename = "nonResourceURLs",
        deserialize_with = "super::rbac::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
}

const ALL: &str = "*";

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == ALL || entry == wanted)
}

impl Rule {
    /// Whether this rule alone allows the request.
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has(&self.verbs, attributes.verb) {
            return false;
        }
        if let Some(path) = attributes.path {
            return self.urls.iter().any(|pattern| covers_path(pattern, path));
        }
        has(&self.api_groups, attributes.group)
            && self.has_resource(attributes.resource, attributes.subresource)
            && (self.resource_names.is_empty()
                || self.resource_names.iter().any(|name| name == attributes.name))
    }

    /// `pods`, `pods/log`, `*`, or `*/log`; `pods` does not mean its subresources.
    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|entry| {
            entry == ALL
                || match entry.split_once('/') {
                    None => subresource.is_empty() && entry == resource,
                    Some((ALL, of)) => !subresource.is_empty() && of == subresource,
                    Some((parent, of)) => parent == resource && of == subresource && !of.is_empty(),
                }
        })
    }

    /// Whether this rule covers the whole of `part`, a rule of one verb and one target.
    fn covers(&self, part: &Rule) -> bool {
        let subset = |own: &[String], of: &[String]| of.iter().all(|entry| own.contains(entry));
        let any = |own: &[String], of: &[String]| own.iter().any(|entry| entry == ALL) || subset(own, of);
        let resources = any(&self.resources, &part.resources)
            || part.resources.iter().all(|wanted| {
                self.resources.contains(wanted)
                    || wanted
                        .split_once('/')
                        .is_some_and(|(_, sub)| self.resources.contains(&format!("*/{sub}")))
            });
        let names = self.resource_names.is_empty()
            || (!part.resource_names.is_empty() && subset(&self.resource_names, &part.resource_names));
        let urls = part.urls.iter().all(|wanted| self.urls.iter().any(|own| covers_path(own, wanted)));
        any(&self.verbs, &part.verbs) && any(&self.api_groups, &part.api_groups) && resources && names && urls
    }

    /// One rule for each verb and target.
    fn parts(&self) -> Vec<Rule> {
        let mut parts = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let part = Rule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        parts.push(part);
                        continue;
                    }
                    for name in &self.resource_names {
                        parts.push(Rule { resource_names: vec![name.clone()], ..part.clone() });
                    }
                }
            }
        }
        for url in &self.urls {
            for verb in &self.verbs {
                parts.push(Rule { verbs: vec![verb.clone()], urls: vec![url.clone()], ..Rule::default() });
            }
        }
        parts
    }

    /// The rule in upstream's short words: `{APIGroups:["apps"], Resources:["*"], Verbs:["get"]}`.
    pub fn compact(&self) -> String {
        let fields = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("NonResourceURLs", &self.urls),
            ("Verbs", &self.verbs),
        ];
        let set = fields.iter().filter(|(_, values)| !values.is_empty());
        let parts: Vec<String> =
            set.map(|(name, values)| format!("{name}:{}", quoted_list(values))).collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// A list as Go prints it with `%q`: `["a" "b"]`.
pub fn quoted_list(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| fairlead_api::status::quoted(value)).collect();
    format!("[{}]", quoted.join(" "))
}

/// `/api/*` covers what starts with `/api/`, `*` everything.
pub fn covers_path(pattern: &str, path: &str) -> bool {
    pattern == ALL
        || pattern == path
        || pattern.strip_suffix(ALL).is_some_and(|start| path.starts_with(start))
}

/// The parts of `wanted` that no rule in `held` covers.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::parts);
    parts.filter(|part| !held.iter().any(|rule| rule.covers(part))).collect()
}

/// Puts the verbs of parts with the same target together, as they are shown.
pub fn merge_verbs(parts: Vec<Rule>) -> Vec<Rule> {
    let mut merged: BTreeMap<Rule, Vec<String>> = BTreeMap::new();
    let mut out = Vec::new();
    for mut part in parts {
        if !part.urls.is_empty() {
            out.push(part);
            continue;
        }
        let verbs = std::mem::take(&mut part.verbs);
        merged.entry(part).or_default().extend(verbs);
    }
    out.extend(merged.into_iter().map(|(target, verbs)| Rule { verbs, ..target }));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        if text.is_empty() {
            Vec::new()
        } else {
            text.split(',').map(|t| t.trim_matches('"').to_owned()).collect()
        }
    }

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str, urls: &str) -> Rule {
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            urls: list(urls),
        }
    }

    #[track_caller]
    fn check(rule: &Rule, verb: &str, target: (&str, &str, &str, &str), allowed: bool) {
        let (group, resource, subresource, name) = target;
        let user = super::super::User::default();
        let attributes = Attributes { group, resource, subresource, name, ..Attributes::new(&user, verb) };
        assert_eq!(rule.allows(&attributes), allowed, "{verb} {target:?} by {rule:?}");
    }

    #[test]
    fn a_rule_names_verbs_groups_resources_and_names() {
        let pods = rule("get,list", "\"\"", "pods", "", "");
        check(&pods, "get", ("", "pods", "", "x"), true);
        check(&pods, "delete", ("", "pods", "", "x"), false);
        check(&pods, "get", ("", "pods", "log", "x"), false);
        check(&pods, "get", ("apps", "pods", "", "x"), false);
        let only = rule("get,list", "\"\"", "configmaps", "only", "");
        check(&only, "get", ("", "configmaps", "", "only"), true);
        check(&only, "list", ("", "configmaps", "", ""), false);
        let scales = rule("*", "*", "*/scale", "", "");
        check(&scales, "patch", ("apps", "deployments", "scale", "d"), true);
        check(&scales, "patch", ("apps", "deployments", "", "d"), false);
        let all = rule("*", "*", "*", "", "");
        check(&all, "get", ("", "pods", "log", "x"), true);
    }

    #[test]
    fn paths_match_by_name_or_by_prefix() {
        assert!(covers_path("/api/*", "/api/v1"));
        assert!(!covers_path("/api/*", "/api"));
        assert!(covers_path("*", "/anything"));
        assert!(!covers_path("/healthz", "/healthz/etcd"));
    }

    #[track_caller]
    fn check_missing(held: &[Rule], wanted: &Rule, expected: &[&str]) {
        let parts = merge_verbs(missing(held, std::slice::from_ref(wanted)));
        let words: Vec<String> = parts.iter().map(Rule::compact).collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn what_is_not_held_is_named_in_short_words() {
        let held = [rule("get,list", "\"\"", "pods", "", ""), rule("*", "apps", "*/scale", "", "")];
        check_missing(&held, &rule("get", "\"\"", "pods", "", ""), &[]);
        check_missing(&held, &rule("get", "\"\"", "pods", "x", ""), &[]);
        check_missing(&held, &rule("patch", "apps", "deployments/scale", "", ""), &[]);
        check_missing(
            &held,
            &rule("get,delete,watch", "\"\"", "pods", "", ""),
            &[r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#],
        );
        check_missing(
            &held,
            &rule("*", "*", "*", "", ""),
            &[r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#],
        );
        let named = [rule("get", "\"\"", "secrets", "a", "")];
        check_missing(
            &named,
            &rule("get", "\"\"", "secrets", "", ""),
            &[r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#],
        );
        let paths = [rule("get", "", "", "", "/api/*")];
        check_missing(&paths, &rule("get", "", "", "", "/api/v1"), &[]);
        check_missing(
            &paths,
            &rule("get", "", "", "", "/healthz"),
            &[r#"{NonResourceURLs:["/healthz"], Verbs:["get"]}"#],
        );
    }
}
