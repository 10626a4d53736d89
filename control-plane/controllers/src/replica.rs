//! Making and removing the pods of a controller.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};

use crate::event::Recorder;
use crate::{owner, pod};

/// The most pods one sync creates or deletes.
pub const BURST: usize = 500;

/// The pod that `template` describes, controlled by `owner`, named by the API server after the owner.
#[must_use]
pub fn compose<K: Resource<DynamicType = ()>>(owner: &K, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.meta().name.as_deref().unwrap_or_default())),
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner::reference(owner)]),
            ..Default::default()
        },
        spec: Some(template.spec.clone().unwrap_or_default()),
        status: None,
    }
}

/// The words of an API error as events carry them.
#[must_use]
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether a creation failed because its namespace is going away.
#[must_use]
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
        || (status.is_forbidden() && status.message.ends_with("because it is being terminated"))
}

/// Creates one pod and tells about it. An error is returned unless the namespace is going away.
///
/// # Errors
/// What the API answered.
pub async fn create<K: Resource<DynamicType = ()>>(
    client: &Client,
    recorder: &Recorder,
    owner: &K,
    pod: &Pod,
) -> Result<(), kube::Error> {
    let namespace = owner.meta().namespace.clone().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    match api.create(&PostParams::default(), pod).await {
        Ok(created) => {
            let message = format!("Created pod: {}", created.name_any());
            recorder.normal(owner, "SuccessfulCreate", message);
            Ok(())
        }
        Err(error) => {
            if !is_namespace_terminating(&error) {
                recorder.warning(owner, "FailedCreate", format!("Error creating: {}", words(&error)));
            }
            Err(error)
        }
    }
}

/// Deletes one pod and tells about it; false when it was gone already, so that no informer will show it going.
///
/// # Errors
/// What the API answered.
pub async fn delete<K: Resource<DynamicType = ()>>(
    client: &Client,
    recorder: &Recorder,
    owner: &K,
    pod: &pod::Pod,
) -> Result<bool, kube::Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let name = pod.name_any();
    let api: Api<pod::Pod> = Api::namespaced(client.clone(), &namespace);
    let same = Preconditions { uid: pod.uid(), resource_version: None };
    match api.delete(&name, &DeleteParams::default().preconditions(same)).await {
        Ok(_) => {
            recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}"));
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        Err(error) => {
            recorder.warning(owner, "FailedDelete", format!("Error deleting: {}", words(&error)));
            Err(error)
        }
    }
}

/// Runs `one` for 0..count in batches of 1, 2, 4, …, so that what cannot work fails once and not `count` times.
/// Returns how many succeeded and the first error; after a batch with an error no other starts.
pub async fn slow_start<F, W, E>(count: usize, one: F) -> (usize, Option<E>)
where
    F: Fn(usize) -> W,
    W: Future<Output = Result<(), E>>,
{
    let mut succeeded = 0;
    let mut started = 0;
    let mut batch = 1;
    while started < count {
        let size = batch.min(count - started);
        let mut first_error = None;
        for answer in join_all((started..started + size).map(&one)).await {
            match answer {
                Ok(()) => succeeded += 1,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if first_error.is_some() {
            return (succeeded, first_error);
        }
        started += size;
        batch *= 2;
    }
    (succeeded, None)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn creation_doubles_its_batches_and_stops_after_a_failed_one() {
        let calls = Cell::new(0);
        let (done, error) = slow_start(100, |index| {
            calls.set(calls.get() + 1);
            async move { if index == 4 { Err("quota") } else { Ok(()) } }
        })
        .await;
        // Batches of 1, 2 and 4: the fifth call fails, the rest of its batch still runs.
        assert_eq!((calls.get(), done, error), (7, 6, Some("quota")));
    }
}
