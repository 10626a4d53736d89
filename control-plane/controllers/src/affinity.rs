//! Which nodes a pod asks for: `nodeSelector` and required or preferred node affinity.

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec,
};
use kube::ResourceExt;

use crate::selector;

/// The one field that node affinity can name.
pub const NAME_FIELD: &str = "metadata.name";

/// Whether the node is one that the pod's selector and required affinity ask for.
#[must_use]
pub fn required(spec: &PodSpec, node: &Node) -> bool {
    let selected =
        spec.node_selector.as_ref().is_none_or(|wanted| selector::covers(wanted, Some(node.labels())));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| any_term(selector, node))
}

/// Whether one of the terms holds; a selector without terms holds nowhere.
#[must_use]
pub fn any_term(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|wanted| term(wanted, node))
}

/// Whether every requirement of the term holds; an empty term holds nowhere.
#[must_use]
pub fn term(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.name_any();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    expressions.iter().all(|wanted| requirement(wanted, node.labels().get(&wanted.key).map(String::as_str)))
        && fields.iter().all(|wanted| wanted.key == NAME_FIELD && requirement(wanted, Some(&name)))
}

fn requirement(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let among = || value.is_some_and(|value| values.iter().any(|known| known == value));
    let number = || value.and_then(|value| value.parse::<i64>().ok());
    let bound = || values.first().filter(|_| values.len() == 1).and_then(|bound| bound.parse::<i64>().ok());
    match wanted.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number().zip(bound()).is_some_and(|(number, bound)| number > bound),
        "Lt" => number().zip(bound()).is_some_and(|(number, bound)| number < bound),
        _ => false,
    }
}

/// The one node that a daemon pod is meant for, by required affinity to the node's name.
#[must_use]
pub fn named_node(affinity: &Affinity) -> Option<&str> {
    let affinity = affinity.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut named = fields.filter(|field| field.key == NAME_FIELD && field.operator == "In");
    match named.next()?.values.as_deref()? {
        [only] => Some(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(wanted: Value, expected: bool) {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n1", "labels": {"zone": "a", "cores": "8"}}}),
        )
        .unwrap();
        assert_eq!(term(&serde_json::from_value(wanted).unwrap(), &node), expected);
    }

    #[test]
    fn terms_hold_by_labels_and_by_name() {
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        check(json!({}), false);
        check(expression("zone", "In", json!(["a", "b"])), true);
        check(expression("zone", "NotIn", json!(["a"])), false);
        check(expression("none", "NotIn", json!(["a"])), true);
        check(expression("zone", "Exists", json!(null)), true);
        check(expression("zone", "DoesNotExist", json!(null)), false);
        check(expression("cores", "Gt", json!(["4"])), true);
        check(expression("cores", "Lt", json!(["4"])), false);
        check(expression("zone", "Gt", json!(["4"])), false);
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), true);
        check(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}), false);
    }
}
