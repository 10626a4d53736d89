//! Writes of RBAC objects grant nothing that the writer does not hold.

use fairlead_api::status::Status;
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::{api::Api, secure::escalation::RbacWrite};

pub const PLUGIN: Plugin = Plugin { name: "RBACEscalation", validate: Some(validate), ..Plugin::BASE };

fn validate<'a>(
    api: &'a Api,
    attributes: &'a Attributes<'a>,
    object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    let answer = if writes && attributes.kind.group == "rbac.authorization.k8s.io" {
        let write = RbacWrite {
            user: attributes.user,
            resource: attributes.kind.plural,
            namespace: attributes.namespace,
            name: attributes.name,
            new: object,
            old: attributes.old,
        };
        write.check(&api.authorizer)
    } else {
        Ok(())
    };
    std::future::ready(answer).boxed()
}
