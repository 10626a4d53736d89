//! Label selectors of the scheduler's API: node selector terms and `metav1.LabelSelector`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::model::NodeInfo;

type Labels = BTreeMap<String, String>;

/// Whether one requirement holds for the value of its key.
fn holds(operator: &str, values: &[String], value: Option<&String>) -> bool {
    let number = |text: &String| text.parse::<i64>().ok();
    match operator {
        "In" => value.is_some_and(|v| values.contains(v)),
        "NotIn" => value.is_none_or(|v| !values.contains(v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" | "Lt" => match (value.and_then(number), values.first().and_then(number)) {
            (Some(have), Some(bound)) => {
                (operator == "Gt" && have > bound) || (operator == "Lt" && have < bound)
            }
            _ => false,
        },
        // The API server refuses other operators; one that is not known selects nothing.
        _ => false,
    }
}

fn requirement(node: &NodeInfo, r: &NodeSelectorRequirement, field: bool) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let value = match (field, r.key.as_str()) {
        (true, "metadata.name") => Some(&node.name),
        (true, _) => None,
        (false, key) => node.labels.get(key),
    };
    holds(&r.operator, values, value)
}

/// Whether a node fits one term; an empty term fits none.
pub fn term_fits(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!labels.is_empty() || !fields.is_empty())
        && labels.iter().all(|r| requirement(node, r, false))
        && fields.iter().all(|r| requirement(node, r, true))
}

/// Whether a node fits any term.
pub fn node_fits(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|term| term_fits(term, node))
}

/// Whether labels fit a selector; no selector fits nothing, an empty one everything.
pub fn labels_fit(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions
            .into_iter()
            .all(|r| holds(&r.operator, r.values.as_deref().unwrap_or_default(), labels.get(&r.key)))
}
