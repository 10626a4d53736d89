//! NamespaceLifecycle: nothing is made in a namespace that is missing or terminating, and the namespaces that the
//! system lives in stay.

use fairlead_api::{
    registry,
    status::{self, Status},
};
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::api::{Api, behind};

pub const PLUGIN: Plugin =
    Plugin { name: "NamespaceLifecycle", mutate: Some(mutate), validate: Some(validate) };

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

fn mutate<'a>(
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    _object: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        if !attributes.kind.namespaced
            || attributes.operation != Operation::Create
            || attributes.kind.plural.ends_with("accessreviews")
        {
            return Ok(());
        }
        match phase(api, attributes.namespace).await? {
            None => Err(status::not_found("", "namespaces", attributes.namespace)),
            Some(phase) if phase == "Terminating" => Err(terminating(attributes)),
            Some(_) => Ok(()),
        }
    }
    .boxed()
}

fn terminating(attributes: &Attributes<'_>) -> Status {
    let namespace = attributes.namespace;
    let message =
        format!("unable to create new content in namespace {namespace} because it is being terminated");
    let words = format!("namespace {namespace} is being terminated");
    attributes.forbidden(&message).with_cause("NamespaceTerminating", &words, "metadata.namespace")
}

/// The phase of a namespace; asks again, freshly, before it says that there is none.
async fn phase(api: &Api, namespace: &str) -> Result<Option<String>, Status> {
    let Some(cache) = registry::find("", "v1", "namespaces").and_then(|kind| api.caches.of(kind)) else {
        return Ok(None);
    };
    let read = || {
        let item = cache.get(namespace)?;
        Some(item.field(cache.kind, "status.phase").unwrap_or("Active").to_owned())
    };
    if let Some(phase) = read() {
        return Ok(Some(phase));
    }
    api.caches.fresh().await.map_err(behind)?;
    Ok(read())
}

fn validate<'a>(
    _api: &'a Api,
    attributes: &'a Attributes<'a>,
    _object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let immortal = attributes.operation == Operation::Delete
        && attributes.is("namespaces")
        && IMMORTAL.contains(&attributes.name);
    let answer =
        if immortal { Err(attributes.forbidden("this namespace may not be deleted")) } else { Ok(()) };
    std::future::ready(answer).boxed()
}
