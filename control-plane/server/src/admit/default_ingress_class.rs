//! DefaultIngressClass: an Ingress that names no class gets the default one.

use fairlead_api::status::Status;
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;

use super::{
    Attributes, Operation, Plugin,
    default_storage_class::{annotated, default_class},
};
use crate::api::Api;

pub const PLUGIN: Plugin = Plugin { name: "DefaultIngressClass", mutate: Some(mutate), ..Plugin::BASE };

const DEFAULT: [&str; 1] = ["ingressclass.kubernetes.io/is-default-class"];
/// How an Ingress named its class before it had a field for it.
const OLD_FIELD: &str = "kubernetes.io/ingress.class";

fn mutate<'a>(
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    ingress: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let wanted = attributes.is("ingresses") && attributes.operation == Operation::Create;
    let named = ingress["spec"].get("ingressClassName").is_some() || annotated(ingress, OLD_FIELD).is_some();
    if wanted
        && !named
        && let Some(class) = default_class(api, ("networking.k8s.io", "ingressclasses"), &DEFAULT)
    {
        ingress["spec"]["ingressClassName"] = class.into();
    }
    std::future::ready(Ok(())).boxed()
}
