//! `namespaces/finalize`: who empties a namespace says here that it is done.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::{
    field::{Path, invalid_str},
    status,
};
use http::HeaderMap;
use serde_json::Value;

use crate::{
    api::{Api, Call},
    ingest::{self, Verb, WriteOptions},
    reply::Answer,
    write::{Part, Writing},
};

/// PUT.
pub async fn finalize(api: &Arc<Api>, call: &Call, headers: &HeaderMap, body: &Bytes) -> Answer {
    let options = WriteOptions::parse(Verb::Update, &call.params)?;
    let (sent, _) = ingest::object(call.kind, ingest::media(headers), body, options.validation)?;
    ingest::check_identity(&sent, &call.resource.name, "")?;
    let finalizers = sent["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
    let mut writing = Writing::new(api, call, options, Part::Inner);
    writing.derived = true;
    let name = call.resource.name.clone();
    let path = Path::new("spec").child("finalizers");
    let errors: Vec<_> = finalizers
        .iter()
        .enumerate()
        .filter_map(|(i, name)| Some((i, name.as_str()?)))
        .filter(|(_, name)| {
            !name.contains('/') && !matches!(*name, "kubernetes" | "orphan" | "foregroundDeletion")
        })
        .map(|(i, name)| {
            let words = "name is neither a standard finalizer name nor is it fully qualified";
            invalid_str(&path.index(i), name, words)
        })
        .collect();
    let written = writing
        .update(&name, |_, current| {
            if !errors.is_empty() {
                return Err(status::invalid("", "Namespace", &name, &errors));
            }
            let mut new = current.object.clone();
            if let Some(version) = sent["metadata"].get("resourceVersion") {
                new["metadata"]["resourceVersion"] = version.clone();
            }
            if finalizers.is_empty() {
                new["spec"] = Value::Object(serde_json::Map::new());
            } else {
                new["spec"]["finalizers"] = finalizers.clone().into();
            }
            Ok(new)
        })
        .await?;
    writing.answer(written)
}
