//! Label selectors, as the API writes them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether `labels` are selected. An operator that nobody knows selects nothing.
#[must_use]
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value_of = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| value_of(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let value = value_of(&requirement.key);
            let among = || {
                let values = requirement.values.as_deref().unwrap_or_default();
                value.is_some_and(|value| values.contains(value))
            };
            match requirement.operator.as_str() {
                "In" => among(),
                "NotIn" => !among(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// Whether every pair of `selector` is among `labels`.
#[must_use]
pub fn covers(selector: &Labels, labels: Option<&Labels>) -> bool {
    selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// Whether the selector has no requirement, and so selects everything.
#[must_use]
pub fn is_everything(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: serde_json::Value, expected: bool) {
        let selector: LabelSelector = serde_json::from_value(selector).unwrap();
        let labels = Labels::from([("app".into(), "web".into()), ("tier".into(), "front".into())]);
        assert_eq!(matches(&selector, Some(&labels)), expected);
    }

    #[test]
    fn selectors_match_labels_and_expressions() {
        use serde_json::json;
        check(json!({}), true);
        check(json!({"matchLabels": {"app": "web"}}), true);
        check(json!({"matchLabels": {"app": "db"}}), false);
        check(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", "web"]}]}), true);
        check(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}), false);
        check(json!({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["web"]}]}), true);
        check(json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), true);
        check(json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}), false);
        check(json!({"matchExpressions": [{"key": "tier", "operator": "Like"}]}), false);
    }
}
