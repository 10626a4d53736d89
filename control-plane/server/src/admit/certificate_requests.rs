//! Certificate requests carry who asks, whatever the client says; and nobody asks for a certificate that is almighty.

use fairlead_api::status::Status;
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::{api::Api, secure::User};

pub const PLUGIN: Plugin = Plugin { name: "CertificateRequester", mutate: Some(mutate), ..Plugin::BASE };

fn mutate<'a>(
    _api: &'a Api,
    attributes: &'a Attributes<'a>,
    object: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    if attributes.is("certificatesigningrequests") && attributes.operation == Operation::Create {
        sign(object, attributes.user);
    }
    std::future::ready(Ok(())).boxed()
}

fn sign(object: &mut Value, user: &User) {
    let mut who = user.to_json();
    for field in ["username", "uid", "groups", "extra"] {
        match who.get_mut(field).map(Value::take) {
            Some(value) => object["spec"][field] = value,
            None => {
                if let Some(spec) = object["spec"].as_object_mut() {
                    spec.remove(field);
                }
            }
        }
    }
}
