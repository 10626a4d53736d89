//! Builds answers: objects, lists and refusals in the form that the client asked for.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fairlead_api::{
    encode,
    kind::{Kind, Printing},
    proto,
    status::Status,
    table::{self, Include},
    yaml,
};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    accept::{Form, Media, Shape},
    body::{self, Body},
    cache::{Item, parse},
};

/// What an endpoint answers: a response, or a refusal that the router renders.
pub type Answer = Result<Response<Body>, Status>;

/// Answers longer than this are compressed for clients that take gzip.
pub const GZIP_FROM: usize = 128 << 10;

/// A response with the headers that all API answers carry.
pub fn respond(code: u16, content_type: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body::full(content));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text.
pub fn text(code: u16, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = respond(code, "text/plain; charset=utf-8", content);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// A refusal (or a success that is a Status).
pub fn status(form: Form, status: &Status) -> Response<Body> {
    let mut response = value(form, status.code(), &status.0);
    if let Some(seconds) = status.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status.code() == 401 {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// Any API object that is not kept by the cache: statuses, reviews, scales, tables.
pub fn value(form: Form, code: u16, object: &Value) -> Response<Body> {
    respond(code, form.media.content_type(), encoded(form, object))
}

/// Bytes of a parsed object.
fn encoded(form: Form, object: &Value) -> Vec<u8> {
    let name = |field: &str| object[field].as_str().unwrap_or_default();
    match form.media {
        Media::Yaml => yaml::write(object).into_bytes(),
        Media::Protobuf => {
            let message = proto::message_of(name("apiVersion"), name("kind"));
            let binary =
                message.and_then(|m| encode::protobuf(m.name, name("apiVersion"), name("kind"), object));
            binary.unwrap_or_else(|| json_bytes(object, false))
        }
        Media::Json => json_bytes(object, form.pretty),
    }
}

fn json_bytes(object: &Value, pretty: bool) -> Vec<u8> {
    let mut bytes = if pretty { serde_json::to_vec_pretty(object) } else { serde_json::to_vec(object) }
        .unwrap_or_default();
    if pretty {
        bytes.push(b'\n');
    }
    bytes
}

/// One object, given as JSON bytes with its type.
pub fn object(form: Form, kind: &Kind, code: u16, include: Include, typed: Bytes) -> Response<Body> {
    if form == Form::JSON {
        return respond(code, form.media.content_type(), typed);
    }
    let parsed = parse(&typed);
    match form.shape {
        Shape::Object if form.media == Media::Protobuf => {
            match encode::protobuf(kind.message, &kind.api_version(), kind.kind, &parsed) {
                Some(binary) => respond(code, form.media.content_type(), binary),
                None => value(Form { media: Media::Json, ..form }, code, &parsed),
            }
        }
        Shape::Object => value(form, code, &parsed),
        Shape::Partial(version) => value(form, code, &partial(version, &parsed)),
        Shape::Table(version) => {
            let meta = json!({"resourceVersion": parsed["metadata"]["resourceVersion"]});
            let table = table::table(kind, std::slice::from_ref(&parsed), include, meta, &printing(), true);
            value(form, code, &versioned(table, version))
        }
    }
}

/// `PartialObjectMetadata` of an object.
pub fn partial(version: &str, object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": object["metadata"]})
}

/// A table in another version of its group.
pub fn versioned(mut table: Value, version: &str) -> Value {
    table["apiVersion"] = version.into();
    table
}

pub fn printing() -> Printing {
    Printing { now: jiff::Timestamp::now().as_second() }
}

/// The objects of a list: as the cache keeps them, or parsed where the served version is not the stored one.
pub enum Items {
    Kept(Vec<Arc<Item>>),
    Parsed(Vec<Value>),
}

impl Items {
    fn values(self, stored: &Kind) -> Vec<Value> {
        match self {
            Items::Kept(items) => items.iter().map(|item| item.value(stored)).collect(),
            Items::Parsed(values) => values,
        }
    }
}

/// A LIST, with the metadata of the list.
pub struct List {
    pub stored: &'static Kind,
    pub items: Items,
    pub meta: Value,
    pub gzip: bool,
}

/// Writes a list in the form asked for.
pub fn list(form: Form, kind: &'static Kind, include: Include, list: List) -> Response<Body> {
    match (form.shape, list.items) {
        (Shape::Object, Items::Kept(items)) if form == Form::JSON => {
            let head = list_head(kind, &list.meta);
            chunks(head, items, list.gzip)
        }
        (shape, items) => {
            let values = items.values(list.stored);
            let document = listed(shape, kind, include, values, list.meta);
            if form.media == Media::Protobuf && shape == Shape::Object {
                let (message, name) = (format!("{}List", kind.message), format!("{}List", kind.kind));
                if let Some(binary) = encode::protobuf(&message, &kind.api_version(), &name, &document) {
                    return respond(200, form.media.content_type(), binary);
                }
                return value(Form::JSON, 200, &document);
            }
            let bytes = encoded(form, &document);
            if list.gzip && bytes.len() > GZIP_FROM {
                return compressed(form.media.content_type(), &bytes);
            }
            respond(200, form.media.content_type(), bytes)
        }
    }
}

fn listed(shape: Shape, kind: &Kind, include: Include, values: Vec<Value>, meta: Value) -> Value {
    match shape {
        Shape::Table(version) => {
            versioned(table::table(kind, &values, include, meta, &printing(), true), version)
        }
        Shape::Partial(version) => {
            let items: Vec<Value> = values.iter().map(|object| partial(version, object)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": meta, "items": items})
        }
        Shape::Object => {
            let untyped = |mut object: Value| {
                if let Some(fields) = object.as_object_mut() {
                    fields.remove("kind");
                    fields.remove("apiVersion");
                }
                object
            };
            let items: Vec<Value> = values.into_iter().map(untyped).collect();
            json!({
                "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
                "metadata": meta, "items": items,
            })
        }
    }
}

fn list_head(kind: &Kind, meta: &Value) -> String {
    format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{meta},"items":["#,
        kind.kind,
        kind.api_version()
    )
}

/// Bytes put into one frame of a streamed list.
const FRAME: usize = 64 << 10;

/// A JSON list from kept bytes: in one piece when it is small, else in frames, so that no second copy of the whole
/// list is ever made.
fn chunks(head: String, items: Vec<Arc<Item>>, gzip: bool) -> Response<Body> {
    let size: usize = items.iter().map(|item| item.body.len() + 2).sum::<usize>() + head.len() + 3;
    let mut frames = Frames { head: Some(head), items: items.into_iter(), first: true, done: false };
    if size <= GZIP_FROM {
        let mut whole = BytesMut::with_capacity(size);
        while frames.fill(&mut whole, usize::MAX) {}
        return respond(200, Media::Json.content_type(), whole.freeze());
    }
    let mut response = respond(200, Media::Json.content_type(), Bytes::new());
    if gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        let mut encoder = Some(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1)));
        let stream = futures::stream::iter(std::iter::from_fn(move || {
            let writer = encoder.as_mut()?;
            let mut frame = BytesMut::with_capacity(FRAME * 2);
            let more = frames.fill(&mut frame, FRAME * 4);
            // Writing to memory cannot fail.
            let _ = std::io::Write::write_all(writer, &frame);
            let _ = std::io::Write::flush(writer);
            let mut out = std::mem::take(writer.get_mut());
            if !more {
                let rest = encoder.take().and_then(|encoder| encoder.finish().ok()).unwrap_or_default();
                out.extend_from_slice(&rest);
            }
            Some(Ok(Bytes::from(out)))
        }));
        *response.body_mut() = body::stream(stream);
    } else {
        let stream = futures::stream::iter(std::iter::from_fn(move || {
            let mut frame = BytesMut::with_capacity(FRAME + (FRAME >> 2));
            let more = frames.fill(&mut frame, FRAME);
            (more || !frame.is_empty()).then(|| Ok(frame.freeze()))
        }));
        *response.body_mut() = body::stream(stream);
    }
    response
}

struct Frames {
    head: Option<String>,
    items: std::vec::IntoIter<Arc<Item>>,
    first: bool,
    done: bool,
}

impl Frames {
    /// Writes up to about `limit` bytes; `false` when the list has ended.
    fn fill(&mut self, out: &mut BytesMut, limit: usize) -> bool {
        if self.done {
            return false;
        }
        if let Some(head) = self.head.take() {
            out.put_slice(head.as_bytes());
        }
        for item in self.items.by_ref() {
            out.put_slice(if std::mem::take(&mut self.first) { b"{" } else { b",{" });
            out.put_slice(&item.body);
            if out.len() >= limit {
                return true;
            }
        }
        out.put_slice(b"]}");
        self.done = true;
        false
    }
}

fn compressed(content_type: &'static str, bytes: &[u8]) -> Response<Body> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    let written = std::io::Write::write_all(&mut encoder, bytes).and_then(|()| encoder.finish());
    let mut response = respond(200, content_type, written.unwrap_or_default());
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// Adds `Warning` headers, each once.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let mut seen = std::collections::HashSet::new();
    for warning in warnings.iter().filter(|warning| seen.insert(warning.as_str())) {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let clean: String = text.chars().filter(|c| !c.is_control()).collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{clean}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
