//! `metadata.managedFields`: who set what, and server-side apply.

use bytes::Bytes;
use fairlead_api::{
    apply::{self, Actor, Config, Fields},
    schema,
    status::{self, Status},
};
use serde_json::Value;

use crate::{
    api::Api,
    ingest,
    reply::Answer,
    secure::Attributes,
    write::{Current, Writing, now},
};

const RETRIES: usize = 20;

/// Who tracks the fields of an object: the client that writes it, apply by itself, or nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracking {
    Writer,
    Done,
    Nobody,
}

/// Follows a create (`old` is `None`) or an update, before admission completes the object: what plugins add is
/// nobody's.
pub fn track(writing: &Writing<'_>, new: &mut Value, old: Option<&Value>) {
    match writing.tracking {
        Tracking::Done => return,
        Tracking::Nobody => {
            if let Some(old) = old {
                new["metadata"]["managedFields"] = old["metadata"]["managedFields"].clone();
            }
        }
        Tracking::Writer => {
            let call = writing.call;
            if let Some(fields) = Fields::of(call.kind, &call.resource.subresource) {
                let (now, api_version) = (now(), call.kind.api_version());
                fields.update(old, new, &actor(writing, &now, &api_version));
            }
        }
    }
    tidy(new);
}

/// An absent list is absent.
fn tidy(object: &mut Value) {
    let empty = object["metadata"]["managedFields"].as_array().is_none_or(Vec::is_empty);
    if let (true, Some(meta)) = (empty, object["metadata"].as_object_mut()) {
        meta.remove("managedFields");
    }
}

fn actor<'a>(writing: &'a Writing<'_>, now: &'a str, api_version: &'a str) -> Actor<'a> {
    Actor { manager: writing.manager(), api_version, subresource: &writing.call.resource.subresource, now }
}

/// PATCH with `application/apply-patch+yaml`.
///
/// # Errors
/// 409 for fields that others own, and whatever validation refuses.
pub async fn apply(writing: &mut Writing<'_>, body: &Bytes) -> Answer {
    let call = writing.call;
    let fields = Fields::of(call.kind, &call.resource.subresource).ok_or_else(status::method_not_allowed)?;
    let config = apply::config(&call.kind.api_version(), call.kind.kind, body)?;
    writing.tracking = Tracking::Done;
    for _ in 0..RETRIES {
        let Some(current) = writing.current(&call.key()).await? else {
            match create(writing, &fields, &config).await {
                Err(refused) if refused.reason() == "AlreadyExists" => continue,
                done => return done,
            }
        };
        let new = applied(writing, &fields, &config, Some(&current))?;
        if let Some(written) = writing.attempt(new, &current).await? {
            return writing.answer(written);
        }
    }
    Err(status::timeout("the write kept losing against others", 1))
}

fn applied(
    writing: &Writing<'_>,
    fields: &Fields,
    config: &Config,
    current: Option<&Current>,
) -> Result<Value, Status> {
    let call = writing.call;
    let (now, api_version) = (now(), call.kind.api_version());
    let actor = actor(writing, &now, &api_version);
    let live = current.map(|current| &current.object);
    let mut object = fields.apply(live, &config.value, writing.options.force, &actor)?;
    config.strict(writing.options.validation)?;
    // Apply knows containers and scalars; which texts are times or quantities the types know.
    if let Some(schema) = schema::of(call.kind.schema) {
        schema::check(schema, &object).map_err(status::bad_request)?;
    }
    ingest::complete(call.kind, &mut object);
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    if current.is_none() && !uid.is_empty() {
        let words = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(status::conflict(call.kind.group, call.kind.plural, &call.resource.name, &words));
    }
    ingest::check_namespace(&object, &call.resource.namespace)?;
    if call.kind.namespaced {
        object["metadata"]["namespace"] = call.resource.namespace.as_str().into();
    }
    ingest::check_identity(&object, &call.resource.name, &call.resource.namespace)?;
    Ok(object)
}

/// Apply of an object that does not exist creates it, for those who may create.
async fn create(writing: &mut Writing<'_>, fields: &Fields, config: &Config) -> Answer {
    let call = writing.call;
    if !call.resource.subresource.is_empty() {
        return Err(call.not_found());
    }
    let object = applied(writing, fields, config, None)?;
    may_create(writing.api, writing)?;
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if !matches!(version, "" | "0") {
        let (kind, name) = (call.kind, &call.resource.name);
        return Err(status::conflict(kind.group, kind.plural, name, status::MODIFIED));
    }
    let written = writing.create(object).await?;
    writing.answer(written)
}

/// Whether the caller may create what its update or apply would create.
pub fn may_create(api: &Api, writing: &Writing<'_>) -> Result<(), Status> {
    let call = writing.call;
    let attributes = Attributes {
        group: &call.resource.group,
        version: &call.resource.version,
        resource: &call.resource.plural,
        namespace: &call.resource.namespace,
        name: &call.resource.name,
        ..Attributes::new(&call.user, "create")
    };
    api.authorizer.check(&attributes)
}
