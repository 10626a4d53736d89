//! DefaultStorageClass: a claim that names no class gets the default one.

use fairlead_api::{registry, status::Status};
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::api::Api;

pub const PLUGIN: Plugin = Plugin { name: "DefaultStorageClass", mutate: Some(mutate), ..Plugin::BASE };

const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// How claims named their class before they had a field for it.
const OLD_FIELD: &str = "volume.beta.kubernetes.io/storage-class";

fn mutate<'a>(
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    claim: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let wanted = attributes.is("persistentvolumeclaims") && attributes.operation == Operation::Create;
    let named = claim["spec"].get("storageClassName").is_some() || annotated(claim, OLD_FIELD).is_some();
    if wanted
        && !named
        && let Some(class) = default_class(api, ("storage.k8s.io", "storageclasses"), &DEFAULT)
    {
        claim["spec"]["storageClassName"] = class.into();
    }
    std::future::ready(Ok(())).boxed()
}

/// An annotation of an object.
pub fn annotated<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"].get(key)?.as_str()
}

/// The name of the class that one of these annotations marks: of several the newest, then the first by name.
pub fn default_class(api: &Api, (group, plural): (&str, &str), marks: &[&str]) -> Option<String> {
    let kind = registry::find(group, "v1", plural)?;
    let classes = api.caches.of(kind)?.all("");
    let text = |class: &Value, field: &str| class["metadata"][field].as_str().unwrap_or_default().to_owned();
    classes
        .iter()
        .map(|item| item.value(kind))
        .filter(|class| marks.iter().any(|mark| annotated(class, mark) == Some("true")))
        .map(|class| (text(&class, "creationTimestamp"), text(&class, "name")))
        .max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.cmp(&a.1)))
        .map(|(_, name)| name)
}
