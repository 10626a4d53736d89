//! Pod templates and the selectors of the workloads that own them.

use super::{Field, meta, pod, selector};
use crate::field::{self, ErrorList};

/// A pod template: labels, annotations, spec.
pub fn template(f: &Field, errors: &mut ErrorList) {
    meta::template(f, errors);
    let spec = f.get("spec");
    pod::spec(&spec, errors);
    if !spec.get("ephemeralContainers").is_empty() {
        spec.get("ephemeralContainers").forbidden(errors, "ephemeral containers not allowed in pod template");
    }
}

/// The template of a workload that keeps pods running (`owner` is its kind in messages): its labels match the
/// selector, its pods restart always and have no deadline.
pub fn workload(f: &Field, selector: &Field, owner: &str, errors: &mut ErrorList) {
    match_labels(f, selector, errors);
    template(f, errors);
    running(f, owner, errors);
}

/// The labels of the template satisfy the selector; says nothing when the selector cannot be understood.
pub fn match_labels(f: &Field, selector: &Field, errors: &mut ErrorList) {
    let labels = f.get("metadata").get("labels");
    if selector::matches(selector.value, labels.value) == Some(false) {
        errors.push(field::invalid(
            &labels.path,
            labels.value,
            "`selector` does not match template `labels`",
        ));
    }
}

/// What a template of pods that never finish may say.
pub fn running(f: &Field, owner: &str, errors: &mut ErrorList) {
    let spec = f.get("spec");
    let policy = spec.get("restartPolicy");
    if !["", "Always"].contains(&policy.str()) {
        policy.not_supported(errors, &["Always"]);
    }
    if spec.get("activeDeadlineSeconds").is_set() {
        spec.get("activeDeadlineSeconds")
            .forbidden(errors, format!("activeDeadlineSeconds in {owner} is not Supported"));
    }
}

/// A selector that a workload must have: there, well-formed, not empty.
pub fn required_selector(f: &Field, owner: &str, errors: &mut ErrorList) {
    if !f.is_set() {
        f.required(errors, "");
        return;
    }
    selector::label_selector(f, errors);
    if selector::selects_all(f.value) {
        f.invalid(errors, format!("empty selector is invalid for {owner}"));
    }
}
