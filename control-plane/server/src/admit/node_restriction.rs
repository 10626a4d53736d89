//! NodeRestriction: kubelets write only what is theirs.

use fairlead_api::status::Status;
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::{api::Api, secure::restriction::Admission};

pub const PLUGIN: Plugin = Plugin { name: "NodeRestriction", mutate: Some(mutate), validate: Some(validate) };

fn check(api: &Api, attributes: &Attributes<'_>, object: Option<&Value>) -> Result<(), Status> {
    let operation = match attributes.operation {
        Operation::Create => "create",
        Operation::Update => "update",
        Operation::Delete => "delete",
        Operation::Connect => return Ok(()),
    };
    let admission = Admission {
        user: attributes.user,
        operation,
        group: attributes.kind.group,
        resource: attributes.kind.plural,
        subresource: attributes.subresource,
        namespace: attributes.namespace,
        name: attributes.name,
        new: object,
        old: attributes.old,
    };
    admission.check(&*api.caches)
}

fn mutate<'a>(
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    object: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    // It changes nothing, but must refuse before later plugins complete the object.
    std::future::ready(check(api, attributes, Some(object))).boxed()
}

fn validate<'a>(
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    _object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let answer = match attributes.operation {
        Operation::Delete => check(api, attributes, None),
        _ => Ok(()),
    };
    std::future::ready(answer).boxed()
}
