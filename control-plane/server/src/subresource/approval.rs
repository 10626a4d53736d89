//! `certificatesigningrequests/approval`: only conditions can be written.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::status::Status;
use http::HeaderMap;
use serde_json::Value;

use crate::{
    api::{Api, Call},
    ingest::{self, Verb, WriteOptions},
    patch::{Patch, checked},
    reply::Answer,
    write::{Part, Writing},
};

/// PUT and PATCH.
pub async fn write(api: &Arc<Api>, call: &Call, headers: &HeaderMap, body: Bytes) -> Answer {
    let name = call.resource.name.clone();
    if call.info.verb == "patch" {
        let patch = Patch::parse(headers, body)?;
        let options = WriteOptions::parse(patch.verb(), &call.params)?;
        let mut writing = Writing::new(api, call, options, Part::Inner);
        writing.derived = true;
        let written = writing
            .update(&name, |writing, current| {
                let (new, strict) = patch.apply(call.kind.schema, &current.object)?;
                let (new, _) = checked(call.kind, &patch, new, strict, writing.options.validation)?;
                Ok(conditions(&current.object, &new))
            })
            .await?;
        return writing.answer(written);
    }
    let options = WriteOptions::parse(Verb::Update, &call.params)?;
    let (sent, _) = ingest::object(call.kind, ingest::media(headers), &body, options.validation)?;
    ingest::check_identity(&sent, &name, "")?;
    let mut writing = Writing::new(api, call, options, Part::Inner);
    let change = |_: &mut Writing<'_>, current: &crate::write::Current| -> Result<Value, Status> {
        Ok(conditions(&current.object, &sent))
    };
    let written = writing.update(&name, change).await?;
    writing.answer(written)
}

fn conditions(old: &Value, sent: &Value) -> Value {
    let mut new = old.clone();
    new["status"]["conditions"] = sent["status"]["conditions"].clone();
    if let Some(version) = sent["metadata"].get("resourceVersion") {
        new["metadata"]["resourceVersion"] = version.clone();
    }
    new
}
