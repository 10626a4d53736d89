//! Revisions of a DaemonSet's template, kept as ControllerRevisions for `kubectl rollout history` and `undo`.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{Controller, HASH_LABEL};
use crate::deployment::template::hash;
use crate::pod::Pod;
use crate::queue::{Failure, Step};
use crate::{owner, selector, write};

/// The patch that `rollout undo` applies to the DaemonSet.
fn data_of(set: &DaemonSet) -> Value {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Value::Object(map) = &mut template {
        map.insert("$patch".to_owned(), json!("replace"));
    }
    json!({"spec": {"template": template}})
}

fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn is_current(revision: &ControllerRevision, set: &DaemonSet) -> bool {
    template_of(revision)
        .is_some_and(|template| set.spec.as_ref().is_some_and(|spec| spec.template == template))
}

impl Controller {
    fn revisions_of(&self, set: &DaemonSet) -> Vec<Arc<ControllerRevision>> {
        let uid = set.uid().unwrap_or_default();
        let mut mine = self.revisions.list_in(&set.namespace().unwrap_or_default());
        let selected = set.spec.as_ref().map(|spec| &spec.selector);
        mine.retain(|revision| {
            owner::is_controlled_by(&**revision, &uid)
                && selected
                    .is_some_and(|selected| selector::matches(selected, revision.metadata.labels.as_ref()))
        });
        mine
    }

    /// The hash of the current template's revision, which is made or moved to the front when needed.
    pub(super) async fn current_revision(&self, set: &DaemonSet) -> Result<String, Failure> {
        let known = self.revisions_of(set);
        let last = known.iter().map(|revision| revision.revision).max().unwrap_or_default();
        let api: Api<ControllerRevision> =
            Api::namespaced(self.context.client.clone(), &set.namespace().unwrap_or_default());
        let current = known.iter().filter(|revision| is_current(revision, set));
        if let Some(current) = current.max_by_key(|revision| revision.revision) {
            if current.revision < last {
                let patch = json!({"revision": last + 1});
                write::guarded(&api, &**current, patch, "move the revision to the front").await?;
            }
            return Ok(current.labels().get(HASH_LABEL).cloned().unwrap_or_default());
        }
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let hash = hash(&template, collisions);
        let revision = compose(set, &template, &hash, last + 1);
        match api.create(&PostParams::default(), &revision).await {
            Ok(_) => Ok(hash),
            Err(kube::Error::Api(answer)) if answer.is_already_exists() => {
                self.reuse_or_collide(set, &api, &revision.name_any()).await.map(|()| hash)
            }
            Err(error) => Err(error).step("create a revision"),
        }
    }

    async fn reuse_or_collide(
        &self,
        set: &DaemonSet,
        api: &Api<ControllerRevision>,
        name: &str,
    ) -> Result<(), Failure> {
        let taken = api.get(name).await.step("read the revision that has the name")?;
        let uid = set.uid().unwrap_or_default();
        if owner::is_controlled_by(&taken, &uid) && is_current(&taken, set) {
            return Ok(());
        }
        let mut status = set.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or_default().saturating_add(1));
        let sets: Api<DaemonSet> =
            Api::namespaced(self.context.client.clone(), &set.namespace().unwrap_or_default());
        write::status(&sets, set, set.status.as_ref(), &status).await?;
        Err(Failure::Object(format!("the name {name} is taken by another template")))
    }

    /// Deletes the oldest revisions that no pod stands for, beyond the history limit.
    pub(super) async fn forget_revisions(&self, set: &DaemonSet, pods: &[Arc<Pod>]) -> Result<(), Failure> {
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let live: HashSet<&String> = pods.iter().filter_map(|pod| pod.labels().get(HASH_LABEL)).collect();
        let mut old = self.revisions_of(set);
        old.retain(|revision| {
            let in_use = revision.labels().get(HASH_LABEL).is_some_and(|hash| live.contains(hash));
            !in_use && !is_current(revision, set)
        });
        old.sort_by_key(|revision| revision.revision);
        let surplus = old.len().saturating_sub(limit);
        let api: Api<ControllerRevision> =
            Api::namespaced(self.context.client.clone(), &set.namespace().unwrap_or_default());
        for revision in old.into_iter().take(surplus) {
            match api.delete(&revision.name_any(), &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error).step("delete an old revision"),
            }
        }
        Ok(())
    }
}

fn compose(set: &DaemonSet, template: &PodTemplateSpec, hash: &str, revision: i64) -> ControllerRevision {
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let mut labels = labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", set.name_any())),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![owner::reference(set)]),
            ..Default::default()
        },
        data: Some(RawExtension(data_of(set))),
        revision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_current_until_the_template_changes() {
        let make = |image: &str| -> DaemonSet {
            serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "n", "uid": "u"},
                "spec": {"selector": {}, "template": {"metadata": {"labels": {"a": "b"}},
                    "spec": {"containers": [{"name": "c", "image": image}]}}}}))
            .unwrap()
        };
        let set = make("a");
        let revision = compose(&set, &set.spec.as_ref().unwrap().template, "h", 1);
        assert!(is_current(&revision, &set));
        assert!(!is_current(&revision, &make("b")));
        assert_eq!(revision.data.unwrap().0["spec"]["template"]["$patch"], "replace");
    }
}
