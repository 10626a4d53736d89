//! Roles and bindings in memory, indexed by subject (`plugin/pkg/auth/authorizer/rbac`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fairlead_api::status::quoted;
use serde::{Deserialize, Deserializer};

use super::authorize::Attributes;
use super::rules::Rule;
use super::{SERVICE_ACCOUNT_PREFIX, User};

/// Reads `null` as an empty list.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

/// What counts of a Role or ClusterRole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default, deserialize_with = "list")]
    pub rules: Vec<Rule>,
    #[serde(default)]
    aggregation_rule: Option<Aggregation>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Metadata {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Aggregation {
    #[serde(default, deserialize_with = "list")]
    cluster_role_selectors: Vec<Selector>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "list")]
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Expression {
    key: String,
    operator: String,
    #[serde(default, deserialize_with = "list")]
    values: Vec<String>,
}

impl Selector {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let labelled = self.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
        labelled && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }
}

impl Expression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            // What is not understood selects nothing: rights are never widened by mistake.
            _ => false,
        }
    }
}

/// What counts of a RoleBinding or ClusterRoleBinding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    #[serde(default)]
    pub role_ref: RoleRef,
    #[serde(default, deserialize_with = "list")]
    pub subjects: Vec<Subject>,
}

/// `roleRef`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RoleRef {
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub name: String,
}

/// An entry of `subjects`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Subject {
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub namespace: String,
}

/// Namespace (empty for the whole cluster) and name.
type Key = (Box<str>, Box<str>);

/// Roles, bindings, and who is bound by which.
#[derive(Default)]
pub struct Index {
    roles: HashMap<Key, Arc<Role>>,
    bindings: HashMap<Key, Arc<Binding>>,
    users: HashMap<Box<str>, BTreeSet<Key>>,
    groups: HashMap<Box<str>, BTreeSet<Key>>,
    /// ClusterRoles whose rules are those of others.
    aggregates: usize,
}

/// A binding that applies to a user in a namespace.
struct Bound<'a> {
    key: &'a Key,
    binding: &'a Binding,
    subject: &'a Subject,
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.into(), name.into())
}

impl Index {
    /// Puts, replaces or (with `None`) removes a role; `namespace` is empty for a ClusterRole.
    pub fn set_role(&mut self, namespace: &str, name: &str, role: Option<Role>) {
        let key = key(namespace, name);
        let before = match role {
            Some(role) => {
                self.aggregates += usize::from(role.aggregation_rule.is_some());
                self.roles.insert(key, Arc::new(role))
            }
            None => self.roles.remove(&key),
        };
        self.aggregates -= usize::from(before.is_some_and(|role| role.aggregation_rule.is_some()));
    }

    /// Puts, replaces or (with `None`) removes a binding; `namespace` is empty for a ClusterRoleBinding.
    pub fn set_binding(&mut self, namespace: &str, name: &str, binding: Option<Binding>) {
        let key = key(namespace, name);
        if let Some(before) = self.bindings.remove(&key) {
            for subject in &before.subjects {
                let (map, name) = self.subjects_of(subject);
                if let Some(keys) = map.get_mut(name.as_str()) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        map.remove(name.as_str());
                    }
                }
            }
        }
        let Some(binding) = binding else { return };
        for subject in &binding.subjects {
            let (map, name) = self.subjects_of(subject);
            map.entry(name.into()).or_default().insert(key.clone());
        }
        self.bindings.insert(key, Arc::new(binding));
    }

    fn subjects_of(&mut self, subject: &Subject) -> (&mut HashMap<Box<str>, BTreeSet<Key>>, String) {
        match subject.kind.as_str() {
            "Group" => (&mut self.groups, subject.name.clone()),
            "ServiceAccount" => {
                (&mut self.users, format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", subject.namespace, subject.name))
            }
            _ => (&mut self.users, subject.name.clone()),
        }
    }

    /// The bindings that apply to `user` in `namespace`: those of the cluster first.
    fn bound<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = Bound<'a>> {
        let of_user = self.users.get(user.name.as_str()).into_iter().flatten();
        let of_groups = user.groups.iter().filter_map(|group| self.groups.get(group.as_str())).flatten();
        let keys: BTreeSet<&Key> = of_user
            .chain(of_groups)
            .filter(|(of, _)| of.is_empty() || (!namespace.is_empty() && of.as_ref() == namespace))
            .collect();
        keys.into_iter().filter_map(move |key| {
            let binding = self.bindings.get(key)?;
            let subject = binding.subjects.iter().find(|subject| subject.is(user))?;
            Some(Bound { key, binding, subject })
        })
    }

    /// The role that a binding in `namespace` (empty: of the cluster) refers to.
    pub fn referenced(&self, reference: &RoleRef, namespace: &str) -> Option<Arc<Role>> {
        let namespace = match (reference.kind.as_str(), namespace) {
            ("ClusterRole", _) => "",
            ("Role", namespace) if !namespace.is_empty() => namespace,
            _ => return None,
        };
        self.roles.get(&key(namespace, &reference.name)).cloned()
    }

    /// Visits a role's rules, and for an aggregated ClusterRole those of the roles that it selects, until `visit`
    /// answers true.
    pub fn visit_rules(&self, role: &Role, visit: &mut dyn FnMut(&Rule) -> bool) -> bool {
        if role.rules.iter().any(&mut *visit) {
            return true;
        }
        let Some(aggregation) = &role.aggregation_rule else { return false };
        let mut seen = Vec::new();
        self.visit_aggregated(aggregation, &mut seen, visit)
    }

    fn visit_aggregated<'a>(
        &'a self,
        aggregation: &Aggregation,
        seen: &mut Vec<&'a Role>,
        visit: &mut dyn FnMut(&Rule) -> bool,
    ) -> bool {
        for ((namespace, _), role) in &self.roles {
            let labels = role.metadata.labels.as_ref();
            let selected = namespace.is_empty()
                && labels.is_some_and(|labels| {
                    aggregation.cluster_role_selectors.iter().any(|s| s.matches(labels))
                });
            if !selected || seen.iter().any(|other| std::ptr::eq(*other, role.as_ref())) {
                continue;
            }
            seen.push(role);
            if role.rules.iter().any(&mut *visit) {
                return true;
            }
            if let Some(more) = &role.aggregation_rule
                && self.visit_aggregated(more, seen, visit)
            {
                return true;
            }
        }
        false
    }

    /// Why the request is allowed; `None` if no binding allows it.
    pub fn allowed_by(&self, attributes: &Attributes<'_>) -> Option<String> {
        for bound in self.bound(attributes.user, attributes.namespace) {
            let Some(role) = self.referenced(&bound.binding.role_ref, &bound.key.0) else { continue };
            if self.visit_rules(&role, &mut |rule| rule.allows(attributes)) {
                return Some(bound.reason());
            }
        }
        None
    }

    /// All rules that apply to `user` in `namespace`.
    pub fn rules_of(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        for bound in self.bound(user, namespace) {
            if let Some(role) = self.referenced(&bound.binding.role_ref, &bound.key.0) {
                self.visit_rules(&role, &mut |rule| {
                    rules.push(rule.clone());
                    false
                });
            }
        }
        rules
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.is_in(&self.name),
            "ServiceAccount" => user.service_account() == Some((&self.namespace, &self.name)),
            _ => false,
        }
    }
}

impl Bound<'_> {
    fn reason(&self) -> String {
        let (namespace, name) = self.key;
        let (kind, binding) = if namespace.is_empty() {
            ("ClusterRoleBinding", quoted(name))
        } else {
            ("RoleBinding", quoted(&format!("{name}/{namespace}")))
        };
        let role = &self.binding.role_ref;
        let subject = match self.subject.kind.as_str() {
            "ServiceAccount" => quoted(&format!("{}/{}", self.subject.name, self.subject.namespace)),
            _ => quoted(&self.subject.name),
        };
        format!(
            "RBAC: allowed by {kind} {binding} of {} {} to {} {subject}",
            role.kind,
            quoted(&role.name),
            self.subject.kind
        )
    }
}
