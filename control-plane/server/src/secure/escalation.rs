//! Nobody grants rights that they do not hold (`pkg/registry/rbac/{role,rolebinding}/policybased`), unless they may
//! `escalate` the role or `bind` it.

use fairlead_api::status::{self, Status, quoted};
use serde::Deserialize;
use serde_json::Value;

use super::authorize::{Attributes, Authorizer};
use super::rbac::RoleRef;
use super::rules::{Rule, merge_verbs, missing, quoted_list};
use super::{MASTERS, User};

const GROUP: &str = "rbac.authorization.k8s.io";

/// A write of an RBAC object.
pub struct RbacWrite<'a> {
    pub user: &'a User,
    /// `roles`, `clusterroles`, `rolebindings`, `clusterrolebindings`; any other is let through.
    pub resource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub new: &'a Value,
    /// `None` for a creation.
    pub old: Option<&'a Value>,
}

impl RbacWrite<'_> {
    /// Call it for every create, update, patch and apply in the group `rbac.authorization.k8s.io`, before the write.
    ///
    /// # Errors
    /// The 403 that names what the user lacks, or the 404 of the role that a binding refers to.
    pub fn check(&self, authorizer: &Authorizer) -> Result<(), Status> {
        if self.user.is_in(MASTERS) {
            return Ok(());
        }
        match self.resource {
            "roles" | "clusterroles" => self.check_role(authorizer),
            "rolebindings" | "clusterrolebindings" => self.check_binding(authorizer),
            _ => Ok(()),
        }
    }

    fn unchanged(&self, fields: &[&str]) -> bool {
        let part = |of: &Value, field: &str| {
            let value = of.get(field).cloned().unwrap_or_default();
            // An empty list and none are the same.
            if value.as_array().is_some_and(Vec::is_empty) { Value::Null } else { value }
        };
        self.old.is_some_and(|old| fields.iter().all(|field| part(old, field) == part(self.new, field)))
    }

    fn may(&self, authorizer: &Authorizer, verb: &str, resource: &str, name: &str) -> bool {
        let attributes = Attributes {
            group: GROUP,
            version: "v1",
            resource,
            namespace: self.namespace,
            name,
            ..Attributes::new(self.user, verb)
        };
        authorizer.authorize(&attributes).is_allowed()
    }

    fn check_role(&self, authorizer: &Authorizer) -> Result<(), Status> {
        if self.unchanged(&["rules", "aggregationRule"])
            || self.may(authorizer, "escalate", self.resource, self.name)
        {
            return Ok(());
        }
        let mut wanted: Vec<Rule> = self
            .new
            .get("rules")
            .map(|rules| Option::<Vec<Rule>>::deserialize(rules))
            .transpose()
            .map_err(|error| status::bad_request(error.to_string()))?
            .flatten()
            .unwrap_or_default();
        // An aggregated role can come to hold anything.
        if self.new.get("aggregationRule").is_some_and(|rule| !rule.is_null())
            && !self.unchanged(&["aggregationRule"])
        {
            let all = || vec!["*".to_owned()];
            wanted.push(Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() });
            wanted.push(Rule { verbs: all(), urls: all(), ..Rule::default() });
        }
        self.confirm(authorizer, &wanted)
    }

    fn check_binding(&self, authorizer: &Authorizer) -> Result<(), Status> {
        if self.unchanged(&["roleRef", "subjects"]) {
            return Ok(());
        }
        let reference: RoleRef = self
            .new
            .get("roleRef")
            .map(RoleRef::deserialize)
            .transpose()
            .map_err(|error| status::bad_request(error.to_string()))?
            .unwrap_or_default();
        let roles = if reference.kind == "Role" { "roles" } else { "clusterroles" };
        if self.may(authorizer, "bind", roles, &reference.name) {
            return Ok(());
        }
        let rules = authorizer.referenced_rules(&reference, self.namespace);
        let rules = rules.ok_or_else(|| status::not_found(GROUP, roles, &reference.name))?;
        self.confirm(authorizer, &rules)
    }

    fn confirm(&self, authorizer: &Authorizer, wanted: &[Rule]) -> Result<(), Status> {
        let held = authorizer.rules_of(self.user, self.namespace);
        let lacking = missing(&held, wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let mut words: Vec<String> = merge_verbs(lacking).iter().map(Rule::compact).collect();
        words.sort();
        words.dedup();
        let message = format!(
            "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            quoted(&self.user.name),
            quoted_list(&self.user.groups),
            words.join("\n")
        );
        Err(status::forbidden(GROUP, self.resource, self.name, &message))
    }
}

#[cfg(test)]
#[path = "escalation_tests.rs"]
mod tests;
