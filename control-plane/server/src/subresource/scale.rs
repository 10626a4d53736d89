//! `/scale`: replicas of any kind whose descriptor says where they stand.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::{
    decode::FieldValidation,
    field::{Path, invalid},
    kind::Act,
    patch, schema,
    selector::LabelSelector,
    status::{self, Status},
};
use http::HeaderMap;
use serde_json::{Value, json};

use super::SCALE;
use crate::{
    api::{Api, Call},
    cache::parse,
    ingest::{self, Verb, WriteOptions},
    patch::Patch,
    reply::{self, Answer},
    write::{self, Part, Writing},
};

/// JSON pointers of a kind's replicas and selector.
#[derive(Clone, Copy)]
struct Places {
    spec: &'static str,
    status: &'static str,
    selector: &'static str,
}

fn places(act: Act) -> Result<Places, Status> {
    match act {
        Act::Scale { spec, status, selector } => Ok(Places { spec, status, selector }),
        _ => Err(status::method_not_allowed()),
    }
}

/// The Scale of an object.
fn scale_of(places: Places, object: &Value) -> Value {
    let meta = &object["metadata"];
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta.get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let number = |at: &str| object.pointer(at).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = serde_json::Map::new();
    if number(places.spec) != 0 {
        spec.insert("replicas".into(), number(places.spec).into());
    }
    let mut state = json!({"replicas": number(places.status)});
    let selector = object.pointer(places.selector).map(selector_text).unwrap_or_default();
    if !selector.is_empty() {
        state["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": state})
}

/// A selector as text: a LabelSelector, or the plain map of a ReplicationController.
fn selector_text(selector: &Value) -> String {
    let object = selector.get("matchLabels").or_else(|| selector.get("matchExpressions")).is_some()
        || selector == &json!({});
    let wrapped = if object { selector.clone() } else { json!({"matchLabels": selector}) };
    LabelSelector::from_object(&wrapped).map(|selector| selector.to_string()).unwrap_or_default()
}

/// GET.
pub async fn get(api: &Api, call: &Call, act: Act) -> Answer {
    let places = places(act)?;
    let current = write::current(api, call.kind, &call.key()).await?.ok_or_else(|| call.not_found())?;
    Ok(reply::value(call.form, 200, &scale_of(places, &current.object)))
}

/// PUT and PATCH.
pub async fn write(api: &Arc<Api>, call: &Call, act: Act, headers: &HeaderMap, body: Bytes) -> Answer {
    let places = places(act)?;
    let change = if call.info.verb == "patch" {
        Change::Patch(Patch::parse(headers, body)?)
    } else {
        let options = WriteOptions::parse(Verb::Update, &call.params)?;
        let (scale, _) = ingest::typed(&SCALE, ingest::media(headers), &body, options.validation)?;
        ingest::check_identity(&scale, &call.resource.name, &call.resource.namespace)?;
        Change::Put(scale)
    };
    let verb = if matches!(change, Change::Put(_)) { Verb::Update } else { Verb::Patch };
    let options = WriteOptions::parse(verb, &call.params)?;
    let mut writing = Writing::new(api, call, options, Part::Main);
    writing.derived = true;
    let name = call.resource.name.clone();
    let written = writing
        .update(&name, |writing, current| {
            let scale = change.apply(places, &current.object, writing.options.validation)?;
            scaled(call, places, &current.object, &scale)
        })
        .await?;
    Ok(reply::value(call.form, 200, &scale_of(places, &parse(&written.bytes))))
}

enum Change {
    Put(Value),
    Patch(Patch),
}

impl Change {
    fn apply(&self, places: Places, object: &Value, _validation: FieldValidation) -> Result<Value, Status> {
        let old = scale_of(places, object);
        let patched = match self {
            Change::Put(scale) => return Ok(scale.clone()),
            Change::Patch(Patch::Json(body)) => patch::json(&old, body),
            Change::Patch(Patch::Merge(tree, _) | Patch::Strategic(tree, _)) => patch::merge(&old, tree),
            Change::Patch(Patch::Apply(_)) => return Err(super::unsupported("apply of a scale")),
        };
        let patched = patched.map_err(|error| error.status())?;
        if let Some(schema) = schema::of(SCALE.schema) {
            schema::check(schema, &patched).map_err(status::bad_request)?;
        }
        Ok(patched)
    }
}

/// The object with the replicas of a Scale.
fn scaled(call: &Call, places: Places, object: &Value, scale: &Value) -> Result<Value, Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let path = Path::new("spec").child("replicas");
        let error = invalid(&path, &json!(replicas), "must be greater than or equal to 0");
        return Err(status::invalid("autoscaling", "Scale", &call.resource.name, &vec![error]));
    }
    let mut new = object.clone();
    if let Some(version) = scale["metadata"].get("resourceVersion") {
        new["metadata"]["resourceVersion"] = version.clone();
    }
    match new.pointer_mut(places.spec) {
        Some(place) => *place = replicas.into(),
        None => new["spec"]["replicas"] = replicas.into(),
    }
    Ok(new)
}
