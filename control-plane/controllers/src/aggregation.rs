//! Aggregated ClusterRoles: a role that has an aggregation rule holds the rules of the roles that it selects.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::Context;
use crate::informer::{Informer, Key};
use crate::queue::{Outcome, Queue, Step, work};
use crate::selector;

/// Who applies the rules.
const MANAGER: &str = "clusterrole-aggregation-controller";

/// Starts the controller.
pub fn start(context: &Context) -> BoxFuture<'static, ()> {
    let roles: Informer<ClusterRole> = context.informers.get(|_| {});
    let queue: Queue<Key> = Queue::default();
    let (target, known) = (queue.clone(), roles.clone());
    // Any role may be selected by any other.
    roles.on_change(move |_| {
        let aggregated = known.list().into_iter().filter(|role| role.aggregation_rule.is_some());
        target.add_all(aggregated.map(|role| Key::of(&*role)));
    });
    let context = context.clone();
    async move {
        roles.synced().await;
        work("clusterrole-aggregation", &queue, 1, &context.shutdown, |key| sync(&context, &roles, key))
            .await;
    }
    .boxed()
}

async fn sync(context: &Context, roles: &Informer<ClusterRole>, key: Key) -> Outcome {
    let Some(role) = roles.get(&key) else { return Ok(None) };
    let Some(rules) = aggregate(&role, &roles.list()) else { return Ok(None) };
    if role.rules.as_deref().unwrap_or_default() == rules {
        return Ok(None);
    }
    let api: Api<ClusterRole> = Api::all(context.client.clone());
    let apply = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": key.name}, "rules": rules,
    });
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&key.name, &params, &Patch::Apply(apply)).await.step("write the aggregated rules")?;
    Ok(None)
}

/// The rules that `role` is to hold: those of the roles that each of its selectors selects, by name, each once.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for wanted in selectors {
        // `all` is in the order of names.
        for other in all.iter().filter(|other| selector::matches(wanted, Some(other.labels()))) {
            if other.name_any() == role.name_any() {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, labels: serde_json::Value, verbs: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<_> = verbs
            .iter()
            .map(|verb| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}))
            .collect();
        let role = json!({"metadata": {"name": name, "labels": labels}, "rules": rules});
        Arc::new(serde_json::from_value(role).unwrap())
    }

    #[test]
    fn rules_come_from_selected_roles_by_name_and_once() {
        let selects =
            json!({"clusterRoleSelectors": [{"matchLabels": {"to": "x"}}, {"matchLabels": {"also": "y"}}]});
        let own = json!({"metadata": {"name": "own", "labels": {"to": "x"}}, "aggregationRule": selects});
        let own: Arc<ClusterRole> = Arc::new(serde_json::from_value(own).unwrap());
        let all = [
            role("a", json!({"to": "x"}), &["get", "list"]),
            role("b", json!({"to": "x", "also": "y"}), &["list", "watch"]),
            role("c", json!({}), &["delete"]),
            own.clone(),
        ];
        let rules = aggregate(&own, &all).unwrap();
        let verbs: Vec<&str> = rules.iter().map(|rule| rule.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["get", "list", "watch"]);
        assert_eq!(aggregate(&all[0], &all), None);
    }
}
