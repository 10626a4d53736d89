//! Where a pod may run: tolerations, affinity, spread, gates.

use super::{Field, names, selector};
use crate::field::{self, ErrorList};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// The effect of a taint or toleration.
pub fn effect(f: &Field, may_be_empty: bool, errors: &mut ErrorList) {
    if f.is_empty() {
        if !may_be_empty {
            f.required(errors, "");
        }
    } else {
        f.one_of(errors, EFFECTS);
    }
}

pub fn tolerations(f: &Field, errors: &mut ErrorList) {
    for t in f.items() {
        let (key, operator, value) = (t.get("key"), t.get("operator"), t.get("value"));
        if !key.is_empty() {
            key.all(errors, names::qualified(key.str()));
        } else if operator.str() != "Exists" {
            operator.invalid_text(
                errors,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if t.get("tolerationSeconds").is_set() && t.get("effect").str() != "NoExecute" {
            t.get("effect")
                .invalid_text(errors, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.str() {
            "" | "Equal" => {
                let at = Field::at(value.value, operator.path.clone());
                at.all(errors, names::label_value(value.str()));
            }
            "Exists" => {
                if !value.is_empty() {
                    operator.invalid(errors, "value must be empty when `operator` is 'Exists'");
                }
            }
            _ => operator.not_supported(errors, &["Equal", "Exists"]),
        }
        effect(&t.get("effect"), true, errors);
    }
}

/// `core/v1.NodeSelector`.
pub fn node_selector(f: &Field, errors: &mut ErrorList) {
    let terms = f.get("nodeSelectorTerms");
    if terms.is_empty() {
        terms.required(errors, "must have at least one node selector term");
    }
    for term in terms.items() {
        node_selector_term(&term, errors);
    }
}

fn node_selector_term(term: &Field, errors: &mut ErrorList) {
    for r in term.get("matchExpressions").items() {
        let values = r.get("values");
        match r.get("operator").str() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    values.required(errors, "must be specified when `operator` is 'In' or 'NotIn'");
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    values.forbidden(
                        errors,
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    values.required(errors, "must be specified single value when `operator` is 'Lt' or 'Gt'");
                }
            }
            _ => r.get("operator").invalid_text(errors, "not a valid selector operator"),
        }
        r.get("key").all(errors, names::qualified(r.get("key").str()));
    }
    for r in term.get("matchFields").items() {
        let (operator, values) = (r.get("operator"), r.get("values"));
        if !["In", "NotIn"].contains(&operator.str()) {
            operator.invalid_text(errors, "not a valid selector operator");
        } else if values.len() != 1 {
            values.required(
                errors,
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            );
        }
        if r.get("key").str() != "metadata.name" {
            r.get("key").invalid_text(errors, "not a valid field selector key");
        } else {
            for value in values.items() {
                value.all(errors, names::dns_subdomain(value.str()));
            }
        }
    }
}

fn weight(f: &Field, errors: &mut ErrorList) {
    if !(1..=100).contains(&f.num()) {
        errors.push(field::invalid(&f.path, &f.num().into(), "must be in the range 1-100"));
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn affinity(f: &Field, errors: &mut ErrorList) {
    let node = f.get("nodeAffinity");
    if node.get(REQUIRED).is_set() {
        node_selector(&node.get(REQUIRED), errors);
    }
    for term in node.get(PREFERRED).items() {
        weight(&term.get("weight"), errors);
        node_selector_term(&term.get("preference"), errors);
    }
    for name in ["podAffinity", "podAntiAffinity"] {
        for term in f.get(name).get(REQUIRED).items() {
            pod_term(&term, errors);
        }
        for term in f.get(name).get(PREFERRED).items() {
            weight(&term.get("weight"), errors);
            pod_term(&term.get("podAffinityTerm"), errors);
        }
    }
}

fn pod_term(t: &Field, errors: &mut ErrorList) {
    selector::label_selector(&t.get("labelSelector"), errors);
    selector::label_selector(&t.get("namespaceSelector"), errors);
    for namespace in t.get("namespaces").items() {
        // Upstream's path is `namespace`, without an index.
        let at = Field::at(namespace.value, t.path.child("namespace"));
        at.all(errors, names::dns_label(namespace.str()));
    }
    label_keys(t, errors);
    let topology = t.get("topologyKey");
    if topology.is_empty() {
        topology.required(errors, "can not be empty");
    }
    topology.all(errors, names::qualified(topology.str()));
}

pub fn spread(f: &Field, errors: &mut ErrorList) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for c in f.items() {
        let (skew, key, action) = (c.get("maxSkew"), c.get("topologyKey"), c.get("whenUnsatisfiable"));
        if skew.num() <= 0 {
            errors.push(field::invalid(&skew.path, &skew.num().into(), "must be greater than zero"));
        }
        if key.is_empty() {
            key.required(errors, "can not be empty");
        } else {
            key.all(errors, names::qualified(key.str()));
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action.str()) {
            action.not_supported(errors, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if seen.contains(&(key.str(), action.str())) {
            let at = c.path.child("{topologyKey, whenUnsatisfiable}");
            let value = format!("{{{}, {}}}", key.str(), action.str());
            errors.push(field::duplicate(&at, &value.into()));
        }
        seen.push((key.str(), action.str()));
        let domains = c.get("minDomains");
        if domains.is_set() {
            if domains.num() <= 0 {
                domains.invalid(errors, "must be greater than zero");
            }
            if action.str() != "DoNotSchedule" {
                domains.invalid(
                    errors,
                    format!(
                        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                        action.str()
                    ),
                );
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            c.get(policy).one_of(errors, &["Honor", "Ignore"]);
        }
        selector::label_selector(&c.get("labelSelector"), errors);
        label_keys(&c, errors);
    }
}

/// Keys of the pod's own labels that a selector of pods is narrowed by. A new pod's selectors have them already: a key
/// that is there twice was asked for twice.
fn label_keys(f: &Field, errors: &mut ErrorList) {
    let (matched, selector) = (f.get("matchLabelKeys"), f.get("labelSelector"));
    let unmatched = f.get("mismatchLabelKeys");
    for keys in [&matched, &unmatched] {
        if !keys.is_empty() && !selector.is_set() {
            keys.forbidden(errors, "must not be specified when labelSelector is not set");
        }
        for key in keys.items() {
            key.all(errors, names::qualified(key.str()));
        }
    }
    for key in matched.items().filter(|key| unmatched.items().any(|other| other.str() == key.str())) {
        key.invalid_text(errors, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
    for (name, keys) in [("matchLabelKeys", &matched), ("mismatchLabelKeys", &unmatched)] {
        for key in keys.items() {
            let labels =
                selector.get("matchLabels").entries().filter(|(label, _)| *label == key.str()).count();
            let expressions = selector.get("matchExpressions");
            let required = expressions.items().filter(|e| e.get("key").str() == key.str()).count();
            if labels + required > 1 {
                key.invalid_text(errors, format!("exists in both {name} and labelSelector"));
            }
        }
    }
}

/// Readiness and scheduling gates are qualified names; the latter unique.
pub fn gates(spec: &Field, errors: &mut ErrorList) {
    for gate in spec.get("readinessGates").items() {
        gate.get("conditionType").all(errors, names::qualified(gate.get("conditionType").str()));
    }
    let mut seen = Vec::new();
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name");
        name.all(errors, names::qualified(name.str()));
        if seen.contains(&name.str()) {
            name.duplicate(errors);
        }
        seen.push(name.str());
    }
}

/// Taints of a node: key, value, effect; unique by key and effect.
pub fn taints(f: &Field, errors: &mut ErrorList) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for t in f.items() {
        let (key, value) = (t.get("key"), t.get("value"));
        key.all(errors, names::qualified(key.str()));
        value.all(errors, names::label_value(value.str()));
        effect(&t.get("effect"), false, errors);
        let pair = (key.str(), t.get("effect").str());
        if seen.contains(&pair) {
            errors.push(super::error(
                crate::field::Cause::Duplicate,
                &t.path,
                Some(format!(
                    "{{\"Key\":{:?},\"Value\":{:?},\"Effect\":{:?},\"TimeAdded\":null}}",
                    pair.0,
                    value.str(),
                    pair.1
                )),
                "taints must be unique by key and effect pair",
            ));
        }
        seen.push(pair);
    }
}
