//! The ReplicaSet that a deployment's template stands for.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::plan::Limits;
use super::revision;
use crate::owner;

/// The label that tells the pods of one revision from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Whether the ReplicaSet was made from the deployment's current template.
pub fn is_current(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let current = deployment.spec.as_ref().map(|spec| without_hash(&spec.template));
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref()).map(without_hash);
    current == template
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    // The API writes neither of these in a template, but both forms of "none" occur.
    meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
    meta.annotations = meta.annotations.take().filter(|annotations| !annotations.is_empty());
    meta.creation_timestamp = None;
    template
}

/// A short name for a template: FNV-1a over its JSON, in letters that spell no words.
pub fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let text = serde_json::to_vec(template).unwrap_or_default();
    let salt = collisions.map(i32::to_le_bytes);
    let bytes = text.iter().chain(salt.iter().flatten());
    let sum = bytes.fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    safe(&sum.to_string())
}

/// Maps digits to letters as upstream's names do: no vowels, nothing that reads as another letter.
fn safe(digits: &str) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    digits.bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// The ReplicaSet of the current template, at that revision and size.
pub fn compose(deployment: &Deployment, limits: &Limits, revision: i64, size: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template;
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels,
            annotations: Some(revision::first_annotations(deployment, limits, revision)),
            owner_references: Some(vec![owner::reference(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(size),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(image: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": image}]}}}
        }))
        .unwrap()
    }

    #[test]
    fn a_set_is_current_until_the_template_changes() {
        let web = deployment("a");
        let set = compose(&web, &Limits::of(&web), 1, 3);
        assert!(is_current(&set, &web));
        assert!(!is_current(&set, &deployment("b")));
    }

    #[test]
    fn a_collision_changes_the_name_and_nothing_else_does() {
        let web = deployment("a");
        let template = &web.spec.as_ref().unwrap().template;
        assert_eq!(hash(template, None), hash(template, None));
        assert_ne!(hash(template, None), hash(template, Some(1)));
        assert!(hash(template, None).bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte)));
    }
}
