//! v1 Event.

use super::{cells as c, fields::label};
use crate::kind::Kind;
use crate::kind::{FieldLabel, Printing};
use crate::validate::{Field, names};
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
    table,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    schema: "io.k8s.api.core.v1.Event",
    message: "api.core.v1.Event",
    storage: "events",
    default,
    validate,
    validate_update,
    cells,
    create_on_update: true,
    fields: FIELDS,
    ..Kind::BASE
};

/// What an Event is about, and its own words.
pub(super) const FIELDS: &[FieldLabel] = &[
    FieldLabel { label: "involvedObject.kind", value: |o| label(&o["involvedObject"]["kind"]) },
    FieldLabel { label: "involvedObject.namespace", value: |o| label(&o["involvedObject"]["namespace"]) },
    FieldLabel { label: "involvedObject.name", value: |o| label(&o["involvedObject"]["name"]) },
    FieldLabel { label: "involvedObject.uid", value: |o| label(&o["involvedObject"]["uid"]) },
    FieldLabel { label: "involvedObject.apiVersion", value: |o| label(&o["involvedObject"]["apiVersion"]) },
    FieldLabel {
        label: "involvedObject.resourceVersion",
        value: |o| label(&o["involvedObject"]["resourceVersion"]),
    },
    FieldLabel { label: "involvedObject.fieldPath", value: |o| label(&o["involvedObject"]["fieldPath"]) },
    FieldLabel { label: "reason", value: |o| label(&o["reason"]) },
    FieldLabel { label: "reportingComponent", value: |o| label(&o["reportingComponent"]) },
    FieldLabel { label: "source", value: source },
    FieldLabel { label: "type", value: |o| label(&o["type"]) },
];

fn source(o: &Value) -> String {
    match o["source"]["component"].as_str() {
        Some(s) if !s.is_empty() => s.into(),
        _ => label(&o["reportingComponent"]),
    }
}

fn default(v: &mut Value) {
    d::object(v, "source");
    d::object(v, "involvedObject");
    for name in ["reportingComponent", "reportingInstance"] {
        d::unset(v, name, json!(""));
    }
}

/// Events without an `eventTime` are of the old kind, which is hardly checked.
fn validate(v: &Value) -> ErrorList {
    let mut e = ErrorList::new();
    let f = Field::root(v);
    place(&f, &f.get("involvedObject"), &mut e);
    if f.get("eventTime").is_set() {
        modern(&f, &f.get("reportingComponent"), &mut e);
    }
    e
}

/// The object's namespace is the Event's own; cluster-wide objects have theirs in `default` or `kube-system`.
fn place(f: &Field, object: &Field, e: &mut ErrorList) {
    let own = f.get("metadata").get("namespace").str();
    let theirs = object.get("namespace");
    let path = field::Path::new("involvedObject").child("namespace");
    if theirs.is_empty() {
        if !["", "default", "kube-system"].contains(&own) {
            e.push(field::invalid_str(&path, theirs.str(), "does not match event.namespace"));
        }
    } else if own != theirs.str() && !f.get("eventTime").is_set() {
        e.push(field::invalid_str(&path, theirs.str(), "does not match event.namespace"));
    }
}

/// What the events.k8s.io API asks of an Event, in the names of the core one.
pub(super) fn modern(f: &Field, controller: &Field, e: &mut ErrorList) {
    let named = |name: &str| Field::at(f.get(name).value, field::Path::new(name));
    if !f.get("eventTime").is_set() {
        named("eventTime").required(e, "");
    }
    let at = Field::at(controller.value, field::Path::new("reportingController"));
    if at.present(e) {
        at.all(e, names::qualified(at.str()));
    }
    for (name, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        let at = named(name);
        if at.present(e) && at.len() > max {
            e.push(field::invalid_str(&at.path, "", format!("can have at most {max} characters")));
        }
    }
    if f.get("message").len() > 1024 {
        let path = field::Path::new("message");
        e.push(field::invalid_str(&path, "", "can have at most 1024 characters"));
    }
    let kind = f.get("type").str();
    if !["Normal", "Warning"].contains(&kind) {
        e.push(field::invalid_str(&field::Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    let series = f.get("series");
    if series.is_set() {
        if series.get("count").num() < 2 {
            let path = field::Path::new("series").child("count");
            e.push(field::invalid_str(&path, "", "should be at least 2"));
        }
        if !series.get("lastObservedTime").is_set() {
            let path = field::Path::new("series").child("lastObservedTime");
            e.push(field::required(&path, ""));
        }
    }
}

/// Of a modern Event only its series and labels may change.
fn validate_update(new: &Value, old: &Value) -> ErrorList {
    if new["eventTime"].is_null() {
        return ErrorList::new();
    }
    const FIXED: &[&str] = &[
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ];
    super::strategy::immutable(new, old, FIXED)
}

fn cells(o: &Value, p: &Printing) -> Vec<Value> {
    let first = if o["firstTimestamp"].is_null() { &o["eventTime"] } else { &o["firstTimestamp"] };
    let series = &o["series"];
    let last = if !series.is_null() {
        &series["lastObservedTime"]
    } else if o["lastTimestamp"].is_null() {
        first
    } else {
        &o["lastTimestamp"]
    };
    let count = match (series["count"].as_i64(), o["count"].as_i64()) {
        (Some(n), _) => n,
        (None, Some(n)) if n > 0 => n,
        _ => 1,
    };
    let object = &o["involvedObject"];
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    let target = match object["name"].as_str() {
        Some(name) if !name.is_empty() => format!("{kind}/{name}"),
        _ => kind,
    };
    let (component, host) = (&o["source"]["component"], &o["source"]["host"]);
    let component = if component.is_string() { component } else { &o["reportingComponent"] };
    let host = if component.is_string() && host.is_null() { &o["reportingInstance"] } else { host };
    let mut from = component.as_str().unwrap_or_default().to_owned();
    if let Some(host) = host.as_str().filter(|h| !h.is_empty()) {
        from.push_str(", ");
        from.push_str(host);
    }
    vec![
        json!(table::age(last, p)),
        c::text(&o["type"]),
        c::text(&o["reason"]),
        json!(target),
        c::text(&object["fieldPath"]),
        json!(from),
        json!(o["message"].as_str().unwrap_or_default().trim()),
        json!(table::age(first, p)),
        json!(count),
        c::name(o),
    ]
}
