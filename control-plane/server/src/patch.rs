//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply, over the main resource, `/status` and
//! the other writable parts.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::{
    decode::{self, Expected, FieldValidation},
    field::{Cause, FieldError},
    kind::Kind,
    patch,
    schema::{self, Schema},
    status::{self, Status},
};
use http::HeaderMap;
use serde_json::Value;

use crate::{
    api::{Api, Call},
    ingest::{self, Verb, WriteOptions},
    managed,
    reply::Answer,
    verbatim,
    write::{Current, Part, Writing},
};

/// A patch as the client sent it.
pub enum Patch {
    Json(Bytes),
    Merge(Value, Vec<String>),
    Strategic(Value, Vec<String>),
    Apply(Bytes),
}

const ACCEPTED: [&str; 5] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];

impl Patch {
    /// Reads a patch by its media type.
    ///
    /// # Errors
    /// 415 for other media types, 400 for what does not parse.
    pub fn parse(headers: &HeaderMap, body: Bytes) -> Result<Patch, Status> {
        let media = ingest::media(headers);
        match media {
            "application/json-patch+json" => Ok(Patch::Json(body)),
            "application/merge-patch+json" => {
                let decoded = decode::json(&body)
                    .map_err(|error| status::bad_request(format!("error decoding patch: {error}")))?;
                Ok(Patch::Merge(decoded.value, decoded.strict))
            }
            "application/strategic-merge-patch+json" => {
                let decoded = decode::json(&body).map_err(|error| status::bad_request(error.to_string()))?;
                Ok(Patch::Strategic(decoded.value, decoded.strict))
            }
            "application/apply-patch+yaml" => Ok(Patch::Apply(body)),
            _ => Err(status::unsupported_media_type(&ACCEPTED)),
        }
    }

    pub fn verb(&self) -> Verb {
        if matches!(self, Patch::Apply(_)) { Verb::Apply } else { Verb::Patch }
    }

    /// The object that the patch makes of `old`, not yet checked; and duplicate fields of the patch.
    ///
    /// # Errors
    /// Patches that do not fit.
    pub fn apply(&self, schema: &str, old: &Value) -> Result<(Value, &[String]), Status> {
        let patched = match self {
            Patch::Json(body) => (patch::json(old, body), [].as_slice()),
            Patch::Merge(tree, strict) => (patch::merge(old, tree), strict.as_slice()),
            Patch::Strategic(tree, strict) => match schema::of(schema) {
                Some(schema) => (patch::strategic(schema, old, tree), strict.as_slice()),
                None => return Err(status::unsupported_media_type(&ACCEPTED[..2])),
            },
            Patch::Apply(_) => return Err(status::unsupported_media_type(&ACCEPTED[..3])),
        };
        let (result, strict) = patched;
        Ok((result.map_err(|error| error.status())?, strict))
    }

    /// What a 422 shows of the patch: strategic patches are printed as Go prints maps, others show the result.
    fn shown(&self, schema: &Schema, patched: &Value) -> String {
        match self {
            Patch::Strategic(tree, _) => patch::go_text(tree),
            Patch::Merge(tree, _) => patch::merged(schema, patched, tree),
            Patch::Json(body) => patch::changed(schema, patched, body),
            Patch::Apply(_) => patched.to_string(),
        }
    }

    /// What is wrong with a patched object that says it is of another kind. Strategic patches change a Go struct, whose
    /// type stays what it is whatever the struct says.
    fn foreign(&self, kind: &Kind, patched: &Value) -> Option<String> {
        if matches!(self, Patch::Strategic(..)) {
            return None;
        }
        let text = |field: &str| patched[field].as_str().filter(|text| !text.is_empty());
        let expected = Expected::from(kind);
        let own = expected.api_version();
        expected.foreign(text("apiVersion").unwrap_or(&own), text("kind").unwrap_or(kind.kind))
    }

    /// Whether the patched object is of its type, in the words that upstream has for this kind of patch.
    fn check(&self, schema: &Schema, patched: &Value) -> Result<(), String> {
        match self {
            Patch::Strategic(..) => schema::check_converted(schema, patched),
            _ => schema::check(schema, patched),
        }
    }
}

/// 422 about the patch itself.
fn unfit(patch: &Patch, schema: &Schema, patched: &Value, words: &str) -> Status {
    let error = FieldError {
        cause: Cause::Invalid,
        path: "patch".into(),
        value: Some(status::quoted(&patch.shown(schema, patched))),
        detail: words.into(),
    };
    status::invalid("", "", "", &vec![error])
}

/// Checks, prunes and completes a patched object; returns warnings.
///
/// # Errors
/// 422 for wrong types, and under Strict for fields that do not belong.
pub fn checked(
    kind: &Kind,
    patch: &Patch,
    mut patched: Value,
    strict: &[String],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let mut findings: Vec<String> = strict.to_vec();
    if let Some(schema) = schema::of(kind.schema) {
        if let Err(words) = patch.check(schema, &patched) {
            return Err(unfit(patch, schema, &patched, &words));
        }
        if let Some(words) = patch.foreign(kind, &patched) {
            return Err(unfit(patch, schema, &patched, &words));
        }
        let before = if validation == FieldValidation::Strict { Some(patched.clone()) } else { None };
        findings.extend(schema::prune(schema, &mut patched));
        if let (Some(before), false) = (before, findings.is_empty()) {
            let words = format!("strict decoding error: {}", findings.join(", "));
            return Err(unfit(patch, schema, &before, &words));
        }
    }
    ingest::complete(kind, &mut patched);
    if validation == FieldValidation::Ignore {
        findings.clear();
    }
    Ok((patched, findings))
}

/// PATCH of the main resource or of `/status`.
pub async fn patch(api: &Arc<Api>, call: &Call, part: Part, headers: &HeaderMap, body: Bytes) -> Answer {
    let patch = Patch::parse(headers, body)?;
    let options = WriteOptions::parse(patch.verb(), &call.params)?;
    let mut writing = Writing::new(api, call, options, part);
    writing.derived = true;
    if let Patch::Apply(body) = &patch {
        return managed::apply(&mut writing, body).await;
    }
    let name = call.resource.name.clone();
    let written = writing.update(&name, |writing, current| patched(writing, &patch, current)).await?;
    writing.answer(written)
}

fn patched(writing: &mut Writing<'_>, patch: &Patch, current: &Current) -> Result<Value, Status> {
    let call = writing.call;
    let (new, strict) = patch.apply(call.kind.schema, &current.object)?;
    let (new, warnings) = checked(call.kind, patch, new, strict, writing.options.validation)?;
    ingest::check_identity(&new, &call.resource.name, &call.resource.namespace)?;
    writing.warnings.extend(warnings);
    // These two leave what they do not touch as the object's own encoding has it; the others write it anew.
    if let (Patch::Json(_) | Patch::Merge(..), Some(field)) = (patch, call.kind.verbatim) {
        let same = new[field] == current.object[field];
        writing.verbatim = current.verbatim.as_deref().filter(|_| same).map(verbatim::compact);
    }
    Ok(new)
}
