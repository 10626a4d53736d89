//! `/scale`: replicas of any kind whose descriptor says where they stand.

use std::sync::Arc;

use bytes::Bytes;
use fairlead_api::{
    apply::{self, Actor, Config, Fields, Replicas},
    field::{Path, invalid},
    kind::{Act, Kind},
    kinds::REGISTRY,
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
    managed::Tracking,
    patch::{self, Patch},
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

/// PUT and PATCH, apply included.
pub async fn write(api: &Arc<Api>, call: &Call, act: Act, headers: &HeaderMap, body: Bytes) -> Answer {
    let places = places(act)?;
    let (change, verb) = match call.info.verb {
        "patch" => match Patch::parse(headers, body)? {
            Patch::Apply(body) => {
                (Change::Apply(apply::config("autoscaling/v1", "Scale", &body)?), Verb::Apply)
            }
            patch => (Change::Patch(patch), Verb::Patch),
        },
        _ => {
            let options = WriteOptions::parse(Verb::Update, &call.params)?;
            let (scale, warnings) = ingest::typed(&SCALE, ingest::media(headers), &body, options.validation)?;
            call.warnings.lock().extend(warnings);
            ingest::check_identity(&scale, &call.resource.name, &call.resource.namespace)?;
            (Change::Put(scale), Verb::Update)
        }
    };
    let options = WriteOptions::parse(verb, &call.params)?;
    let mut writing = Writing::new(api, call, options, Part::Main);
    writing.derived = true;
    writing.tracking = Tracking::Done;
    let name = call.resource.name.clone();
    let written = writing
        .update(&name, |writing, current| {
            let scale = change.apply(writing, places, &current.object)?;
            scaled(call, places, &current.object, &scale)
        })
        .await?;
    Ok(reply::value(call.form, 200, &scale_of(places, &parse(&written.bytes))))
}

enum Change {
    Put(Value),
    Patch(Patch),
    Apply(Config),
}

impl Change {
    /// The new Scale of an object, with managed fields of its own.
    fn apply(&self, writing: &mut Writing<'_>, places: Places, object: &Value) -> Result<Value, Status> {
        let call = writing.call;
        let fields = Fields::of_scale().ok_or_else(status::method_not_allowed)?;
        let mut old = scale_of(places, object);
        old["metadata"]["managedFields"] =
            ownership(call, places, &versions(call)).to_scale(&object["metadata"]["managedFields"]);
        let now = write::now();
        let manager = writing.manager().to_owned();
        let actor =
            Actor { manager: &manager, api_version: "autoscaling/v1", subresource: "scale", now: &now };
        let mut new = match self {
            Change::Put(scale) => scale.clone(),
            Change::Apply(config) => {
                let new = fields.apply(Some(&old), &config.value, writing.options.force, &actor)?;
                config.strict(writing.options.validation)?;
                ingest::check_identity(&new, &call.resource.name, &call.resource.namespace)?;
                return Ok(new);
            }
            Change::Patch(patch) => {
                let (patched, strict) = patch.apply(SCALE.schema, &old)?;
                let validation = writing.options.validation;
                let (new, warnings) = patch::checked(&SCALE_KIND, patch, patched, strict, validation)?;
                writing.warnings.extend(warnings);
                ingest::check_identity(&new, &call.resource.name, &call.resource.namespace)?;
                new
            }
        };
        fields.update(Some(&old), &mut new, &actor);
        Ok(new)
    }
}

/// What checks of a patched Scale read.
static SCALE_KIND: Kind =
    Kind { group: SCALE.group, version: SCALE.version, kind: SCALE.kind, schema: SCALE.schema, ..Kind::BASE };

/// The served versions of the scaled kind.
fn versions(call: &Call) -> Vec<String> {
    REGISTRY
        .iter()
        .filter(|kind| kind.storage == call.kind.storage && kind.kind == call.kind.kind)
        .map(|kind| kind.api_version())
        .collect()
}

/// Who owns the replicas of the kind.
fn ownership<'a>(call: &Call, places: Places, versions: &'a [String]) -> Replicas<'a> {
    let api_version = call.kind.api_version();
    let own = versions.iter().find(|version| **version == api_version);
    Replicas { api_version: own.map_or("", String::as_str), versions, place: places.spec }
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
    let managed = ownership(call, places, &versions(call))
        .to_object(&object["metadata"]["managedFields"], &scale["metadata"]["managedFields"]);
    if managed.as_array().is_some_and(|list| !list.is_empty()) {
        new["metadata"]["managedFields"] = managed;
    } else if let Some(meta) = new["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    match new.pointer_mut(places.spec) {
        Some(place) => *place = replicas.into(),
        None => new["spec"]["replicas"] = replicas.into(),
    }
    Ok(new)
}
