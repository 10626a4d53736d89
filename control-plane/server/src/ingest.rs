//! Bodies of requests: read within limits, decoded, checked against the schema, defaulted.

use bytes::{Bytes, BytesMut};
use fairlead_api::{
    decode::{self, Decoded, Expected, FieldValidation},
    field::{ErrorList, Path, forbidden, invalid_str, not_supported, required, too_long},
    kind::Kind,
    schema,
    status::{self, Status},
};
use http::HeaderMap;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::{body::Body, info::Params};

/// Upstream's limit on a request's body.
pub const MAX_BODY: usize = 3 << 20;

/// What reads object bodies.
pub const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// How much of a body that is too long is read and thrown away, so that the client, still sending, gets to hear why.
const MAX_DISCARDED: usize = 32 << 20;

/// Reads a body whole.
///
/// # Errors
/// 413 for one that is longer than [`MAX_BODY`], 400 for one that breaks off.
pub async fn bytes(mut body: Body) -> Result<Bytes, Status> {
    let mut all = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            status::bad_request(format!("the body of the request could not be read: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > MAX_DISCARDED {
            break;
        }
        if length <= MAX_BODY {
            all.extend_from_slice(&data);
        } else {
            all = BytesMut::new();
        }
    }
    if length > MAX_BODY { Err(status::too_large(&format!("limit is {MAX_BODY}"))) } else { Ok(all.freeze()) }
}

/// The media type of a body, without parameters; JSON where the client says nothing.
pub fn media(headers: &HeaderMap) -> &str {
    let value =
        headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match value.split(';').next().map(str::trim) {
        None | Some("") => "application/json",
        Some(media) => media,
    }
}

/// A body as a tree.
///
/// # Errors
/// 415 for a media type that nothing reads, 400 for a body that does not parse.
pub fn tree(expected: &str, media: &str, body: &Bytes) -> Result<Decoded, Status> {
    let decoded = match media {
        "application/json" => decode::json(body),
        "application/yaml" => decode::yaml(body),
        "application/vnd.kubernetes.protobuf" => decode::protobuf(body),
        _ => return Err(status::unsupported_media_type(&MEDIA)),
    };
    decoded.map_err(|error| decode::unrecognized(expected, &error, body))
}

/// A body as an object of the expected kind, not defaulted.
///
/// # Errors
/// 400 for another kind, wrong types and (under Strict) fields that do not belong.
pub fn typed(
    expected: &Expected<'_>,
    media: &str,
    body: &Bytes,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let decoded = tree(expected.kind, media, body)?;
    decode::typed(expected, decoded, body, validation)
}

/// A body as an object of a served kind, normalized and with its defaults.
///
/// # Errors
/// As [`typed`].
pub fn object(
    kind: &Kind,
    media: &str,
    body: &Bytes,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let (mut object, warnings) = typed(&Expected::from(kind), media, body, validation)?;
    complete(kind, &mut object);
    Ok((object, warnings))
}

/// What a round trip through upstream's types does to a decoded object: empty fields go, defaults come.
///
/// The defaults come first, as where upstream decodes; an empty list of managed fields says something and stays.
pub fn complete(kind: &Kind, object: &mut Value) {
    let forget = object["metadata"]["managedFields"].as_array().is_some_and(Vec::is_empty);
    let schema = schema::of(kind.schema);
    let empties = schema.is_some_and(|schema| schema::decoded(schema, object));
    (kind.default)(object);
    if let (true, Some(schema)) = (empties, schema) {
        schema::normalize(schema, object);
    }
    if forget {
        object["metadata"]["managedFields"] = json!([]);
    }
}

/// The options of a write that stand in the query.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
    /// The field manager that the client names.
    pub manager: Option<String>,
    pub force: bool,
}

/// Which kind of options a write takes: it names them in refusals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    Create,
    Update,
    Patch,
    Apply,
}

impl WriteOptions {
    /// Reads and checks the parameters of a write.
    ///
    /// # Errors
    /// 422 with upstream's words.
    pub fn parse(verb: Verb, params: &Params) -> Result<Self, Status> {
        let mut errors = ErrorList::new();
        let name = match verb {
            Verb::Create => "CreateOptions",
            Verb::Update => "UpdateOptions",
            Verb::Patch | Verb::Apply => "PatchOptions",
        };
        let manager = params.set("fieldManager").map(str::to_owned);
        if verb == Verb::Apply && manager.is_none() {
            errors.push(required(&Path::new("fieldManager"), "is required for apply patch"));
        }
        if verb == Verb::Patch && params.get("force").is_some() {
            errors.push(forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        if manager.as_ref().is_some_and(|manager| manager.len() > 128) {
            errors.push(too_long(&Path::new("fieldManager"), 128));
        }
        for (at, c) in
            manager.iter().flat_map(|manager| manager.char_indices()).filter(|(_, c)| c.is_control())
        {
            let words = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
            errors.push(invalid_str(
                &Path::new("fieldManager"),
                manager.as_deref().unwrap_or_default(),
                words,
            ));
        }
        let dry_run: Vec<&str> = params.all("dryRun").collect();
        errors.extend(dry_run_errors(&dry_run));
        let validation = params.get("fieldValidation").unwrap_or_default();
        let parsed = FieldValidation::parse(validation).unwrap_or_else(|_| {
            let supported = ["", "Ignore", "Strict", "Warn"];
            errors.push(not_supported(&Path::new("fieldValidation"), &json!(validation), &supported));
            FieldValidation::Warn
        });
        if !errors.is_empty() {
            return Err(status::invalid("meta.k8s.io", name, "", &errors));
        }
        let force = params.flag("force");
        Ok(WriteOptions { dry_run: !dry_run.is_empty(), validation: parsed, manager, force })
    }
}

/// The only dry run there is runs all stages.
pub fn dry_run_errors(values: &[&str]) -> ErrorList {
    if values.iter().all(|value| *value == "All") {
        return ErrorList::new();
    }
    vec![not_supported(&Path::new("dryRun"), &json!(values), &["All"])]
}

/// Refuses a body that names another object than the path does.
///
/// # Errors
/// 400 with upstream's words.
pub fn check_identity(object: &Value, name: &str, namespace: &str) -> Result<(), Status> {
    let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    match meta("name") {
        "" => {
            return Err(status::bad_request(format!(
                "the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )));
        }
        own if own != name => {
            return Err(status::bad_request(format!(
                "the name of the object ({own}) does not match the name on the URL ({name})"
            )));
        }
        _ => {}
    }
    check_namespace(object, namespace)
}

/// Refuses a body of another namespace than the path's.
///
/// # Errors
/// 400 with upstream's words.
pub fn check_namespace(object: &Value, namespace: &str) -> Result<(), Status> {
    let own = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if own.is_empty() || own == namespace {
        return Ok(());
    }
    Err(status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}
