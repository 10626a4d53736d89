//! StorageObjectInUseProtection: volumes and claims stay as long as somebody uses them.

use fairlead_api::status::Status;
use futures::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::api::Api;

pub const PLUGIN: Plugin =
    Plugin { name: "StorageObjectInUseProtection", mutate: Some(mutate), ..Plugin::BASE };

/// Which finalizer holds which resource.
const FINALIZERS: [(&str, &str); 3] = [
    ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("persistentvolumes", "kubernetes.io/pv-protection"),
    ("volumeattributesclasses", "kubernetes.io/vac-protection"),
];

fn mutate<'a>(
    _api: &'a Api,
    attributes: &'a Attributes<'a>,
    object: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let own = FINALIZERS.iter().find(|(storage, _)| attributes.is(storage));
    if let (Operation::Create, Some((_, finalizer))) = (attributes.operation, own) {
        hold(object, finalizer);
    }
    std::future::ready(Ok(())).boxed()
}

fn hold(object: &mut Value, finalizer: &str) {
    if !object["metadata"]["finalizers"].is_array() {
        object["metadata"]["finalizers"] = json!([]);
    }
    let Some(list) = object["metadata"]["finalizers"].as_array_mut() else { return };
    if !list.iter().any(|own| own == finalizer) {
        list.push(finalizer.into());
    }
}
