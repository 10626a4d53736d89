//! events.k8s.io/v1 Event.

use super::{event, fields::label, strategy};
use crate::kind::Kind;
use crate::kind::{Conversion, FieldLabel};
use crate::validate::Field;
use crate::{
    field::{self, ErrorList},
    pod::defaults as d,
};
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "events.k8s.io",
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    schema: "io.k8s.api.events.v1.Event",
    message: "api.events.v1.Event",
    storage: "events",
    convert: Some(Conversion { to_storage, lift: to_storage, from_storage }),
    default,
    validate,
    validate_update,
    cells: |o, p| {
        let mut core = o.clone();
        to_storage(&mut core);
        (event::KIND.cells)(&core, p)
    },
    create_on_update: true,
    fields: FIELDS,
    ..Kind::BASE
};

const FIELDS: &[FieldLabel] = &[
    FieldLabel { label: "regarding.kind", value: |o| label(&o["regarding"]["kind"]) },
    FieldLabel { label: "regarding.namespace", value: |o| label(&o["regarding"]["namespace"]) },
    FieldLabel { label: "regarding.name", value: |o| label(&o["regarding"]["name"]) },
    FieldLabel { label: "regarding.uid", value: |o| label(&o["regarding"]["uid"]) },
    FieldLabel { label: "regarding.apiVersion", value: |o| label(&o["regarding"]["apiVersion"]) },
    FieldLabel { label: "regarding.resourceVersion", value: |o| label(&o["regarding"]["resourceVersion"]) },
    FieldLabel { label: "regarding.fieldPath", value: |o| label(&o["regarding"]["fieldPath"]) },
    FieldLabel { label: "reason", value: |o| label(&o["reason"]) },
    FieldLabel { label: "reportingController", value: |o| label(&o["reportingController"]) },
    FieldLabel { label: "type", value: |o| label(&o["type"]) },
];

/// Names here and in the core version, which is stored.
const RENAMED: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn rename(v: &mut Value, from: &str, to: &str) {
    if let Some(map) = v.as_object_mut()
        && let Some(value) = map.remove(from)
    {
        map.insert(to.into(), value);
    }
}

fn to_storage(v: &mut Value) {
    for (here, core) in RENAMED {
        rename(v, here, core);
    }
    for (name, blank) in [
        ("source", json!({})),
        ("involvedObject", json!({})),
        ("reportingComponent", json!("")),
        ("reportingInstance", json!("")),
    ] {
        d::unset(v, name, blank);
    }
    let map = v.as_object_mut().into_iter();
    for map in map {
        for name in ["firstTimestamp", "lastTimestamp", "eventTime"] {
            map.entry(name).or_insert(Value::Null);
        }
        map.insert("apiVersion".into(), json!("v1"));
        map.insert("kind".into(), json!("Event"));
    }
}

fn from_storage(v: &mut Value) {
    for (here, core) in RENAMED {
        rename(v, core, here);
    }
    let Some(map) = v.as_object_mut() else { return };
    // What this version leaves out when it is empty.
    for name in ["reportingController", "reportingInstance", "note"] {
        if map.get(name).is_some_and(|t| *t == "") {
            map.remove(name);
        }
    }
    if map.get("regarding").is_some_and(|r| *r == json!({})) {
        map.remove("regarding");
    }
    if map.get("deprecatedCount").is_some_and(|c| *c == 0) {
        map.remove("deprecatedCount");
    }
    map.insert("apiVersion".into(), json!("events.k8s.io/v1"));
}

fn default(v: &mut Value) {
    d::object(v, "deprecatedSource");
}

fn validate(v: &Value) -> ErrorList {
    let mut core = v.clone();
    to_storage(&mut core);
    let mut e = ErrorList::new();
    let f = Field::root(&core);
    event::modern(&f, &f.get("reportingComponent"), &mut e);
    const OLD: &[(&str, &str)] = &[
        ("count", "deprecatedCount"),
        ("firstTimestamp", "deprecatedFirstTimestamp"),
        ("lastTimestamp", "deprecatedLastTimestamp"),
    ];
    // An old Event read in this version carries them; a new one may not.
    for (name, _) in OLD {
        if f.get("eventTime").is_set() && f.get(name).is_set() && f.get(name).value != &json!(0) {
            e.push(field::invalid_str(&field::Path::new(name), "", "needs to be unset"));
        }
    }
    e
}

fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let (mut now, mut was) = (new.clone(), old.clone());
    to_storage(&mut now);
    to_storage(&mut was);
    const FIXED: &[&str] = &[
        "involvedObject",
        "reason",
        "message",
        "source",
        "reason",
        "reportingInstance",
        "action",
        "related",
        "type",
        "eventTime",
    ];
    let mut e = strategy::immutable(&now, &was, FIXED);
    let controller = strategy::immutable(&now, &was, &["reportingComponent"]);
    e.extend(controller.into_iter().map(|mut x| {
        x.path = "reportingController".into();
        x
    }));
    e
}
