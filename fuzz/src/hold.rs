//! What must hold of every body that the decoder takes.

use fairlead_api::{
    decode::{self, Decoded, Expected, FieldValidation},
    encode,
    field::Cause,
    kind::{Kind, Printing},
    meta,
    schema::{self, Schema, Shape},
    selector::FieldSelector,
    table::{self, Include},
    yaml,
};
use serde_json::Value;

use crate::kind_of;

/// The whole way of a body, from the decoder to the forms it is answered in.
pub fn body(decoded: Decoded, bytes: &[u8]) {
    let kind = kind_of(&decoded.value, bytes);
    if let Some(object) = object(kind, decoded, bytes) {
        completed(kind, object);
    }
}

/// A decoded body as an object of the kind: of its types, without unknown fields.
pub fn object(kind: &'static Kind, mut decoded: Decoded, bytes: &[u8]) -> Option<Value> {
    if let Some(fields) = decoded.value.as_object_mut() {
        // The kind may have been chosen for a body that names none that is served.
        fields.insert("apiVersion".into(), kind.api_version().into());
        fields.insert("kind".into(), kind.kind.into());
    }
    let (mut object, _) = decode::typed(&Expected::from(kind), decoded, bytes, FieldValidation::Warn).ok()?;
    let schema = schema::of(kind.schema)?;
    assert_eq!(schema::prune(schema, &mut object), Vec::<String>::new(), "nothing unknown is left");
    Some(object)
}

/// What a round trip through the types and the defaults make of an object. Doing it again changes nothing, but where
/// validation misses something: an empty list keeps its default away and is then dropped, and the object is refused
/// before anybody completes it again (scaling policies of autoscaling/v2, as upstream has it).
pub fn complete(kind: &Kind, object: &mut Value) {
    once(kind, object);
    if incomplete(kind, object) {
        return;
    }
    let first = object.clone();
    once(kind, object);
    same(&first, object, "completed twice");
}

/// Whether validation misses something in it.
pub fn incomplete(kind: &Kind, object: &Value) -> bool {
    (kind.validate)(object).iter().any(|error| error.cause == Cause::Required)
}

fn once(kind: &Kind, object: &mut Value) {
    let Some(schema) = schema::of(kind.schema) else { return };
    let empties = schema::decoded(schema, object);
    (kind.default)(object);
    if empties {
        schema::normalize(schema, object);
    }
}

#[track_caller]
fn same(a: &Value, b: &Value, what: &str) {
    assert!(a == b, "{what}:\n{a}\n{b}");
}

/// A patched object is an object again, or refused.
pub fn patched(kind: &'static Kind, patched: Value) {
    let decoded = Decoded { value: patched, strict: Vec::new() };
    if let Some(object) = object(kind, decoded, &[]) {
        completed(kind, object);
    }
}

/// Types fit and nothing unknown is in it.
pub fn checked(kind: &Kind, object: &Value) {
    let Some(schema) = schema::of(kind.schema) else { return };
    assert_eq!(schema::check(schema, object), Ok(()), "{object}");
}

fn completed(kind: &'static Kind, mut object: Value) {
    complete(kind, &mut object);
    checked(kind, &object);
    through_json(&object);
    yaml_reads_its_own(&object);
    if !incomplete(kind, &object) {
        through_protobuf(kind, &object);
    }
    let refused = (kind.validate)(&object);
    strategy(kind, &object);
    shown(kind, &object);
    if let Some(conversion) = &kind.convert {
        let mut stored = object.clone();
        (conversion.to_storage)(&mut stored);
        (conversion.from_storage)(&mut stored);
        if refused.is_empty() {
            let once = stored.clone();
            (conversion.to_storage)(&mut stored);
            (conversion.from_storage)(&mut stored);
            same(&once, &stored, "stored twice");
        }
    }
}

/// Create, update and update of status, each validated.
pub fn strategy(kind: &Kind, object: &Value) {
    let mut made = object.clone();
    let namespace = kind.namespaced.then_some("default");
    meta::prepare_create(
        kind,
        &mut made,
        namespace,
        "4b0ad5f7-0000-4000-8000-000000000000",
        "2026-01-01T00:00:00Z",
    );
    (kind.prepare_create)(&mut made);
    let _ = (meta::validate_create(kind, &made), (kind.validate)(&made), (kind.warnings)(&made, None));
    let mut new = object.clone();
    (kind.prepare_update)(&mut new, &made);
    let _ = (meta::validate_update(kind, &new, &made), (kind.validate)(&new));
    let _ = ((kind.validate_update)(&new, &made), (kind.warnings)(&new, Some(&made)));
    let mut new = object.clone();
    (kind.prepare_status)(&mut new, &made);
    let _ = (kind.validate_status)(&new, &made);
    if let Some(grace) = kind.grace {
        let _ = grace(object);
    }
}

pub fn shown(kind: &Kind, object: &Value) {
    let printing = Printing { now: 1_767_225_600 };
    let row = (kind.cells)(object, &printing);
    assert_eq!(row.len(), table::columns(kind).len(), "a cell for each column");
    let _ = table::row(kind, object, Include::Object, &printing);
    for field in kind.fields {
        let _ = FieldSelector::value_of(kind, object, field.label);
    }
}

fn through_json(object: &Value) {
    let bytes = serde_json::to_vec(object).expect("a tree is written");
    let again = decode::json(&bytes).expect("what was written is read");
    assert!(again.strict.is_empty());
    same(object, &again.value, "through JSON");
}

pub fn through_protobuf(kind: &'static Kind, object: &Value) {
    let Some(bytes) = encode::protobuf(kind.message, &kind.api_version(), kind.kind, object) else {
        panic!("{} has no message {}", kind.kind, kind.message);
    };
    let mut again = decode::protobuf(&bytes).expect("what was encoded is decoded").value;
    complete(kind, &mut again);
    let mut object = object.clone();
    if let Some(schema) = schema::of(kind.schema) {
        drop_empty(schema, &mut object);
        drop_empty(schema, &mut again);
    }
    same(&object, &again, "through protobuf");
}

/// Protobuf does not tell an empty list or map from one that is absent.
///
/// Nor does it carry the type of an object within another.
fn drop_empty(schema: &Schema, value: &mut Value) {
    if let (false, Value::Object(map)) = (schema.resolve().gvk.is_empty(), &mut *value) {
        map.remove("apiVersion");
        map.remove("kind");
    }
    match (&schema.resolve().shape, value) {
        (Shape::Object(_), Value::Object(map)) => map.retain(|key, value| {
            let Some(property) = schema.field(key) else { return true };
            drop_empty(&property.schema, value);
            let empty = match value {
                Value::Null => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty() && matches!(property.schema.shape, Shape::Map(_)),
                _ => false,
            };
            !empty
        }),
        (Shape::Map(values), Value::Object(map)) => map.values_mut().for_each(|value| {
            drop_empty(values, value);
            if value.as_array().is_some_and(Vec::is_empty) {
                *value = Value::Null;
            }
        }),
        (Shape::Array(items), Value::Array(list)) => {
            list.iter_mut().for_each(|value| drop_empty(items, value))
        }
        _ => {}
    }
}

/// What is written as YAML reads as the same.
pub fn yaml_reads_its_own(object: &Value) {
    let text = yaml::write(object);
    match yaml::parse(&text) {
        Ok(again) => same(object, &again.value, &format!("through YAML\n{text}\n")),
        Err(words) => panic!("{words}\n{text}"),
    }
}

/// JSON is YAML: where both are read they say the same.
pub fn yaml_reads_json(decoded: &Decoded) {
    let text = decoded.value.to_string();
    if let Ok(again) = yaml::parse(&text) {
        same(&decoded.value, &again.value, "JSON read as YAML");
    }
}

/// `metadata.managedFields` is a list of complete entries.
pub fn managed(object: &Value) {
    let list = &object["metadata"]["managedFields"];
    for entry in list.as_array().into_iter().flatten() {
        for field in ["manager", "operation", "apiVersion", "fieldsType"] {
            assert!(entry[field].is_string(), "{field} in {entry}");
        }
        let fields = fairlead_api::apply::Set::from_json(&entry["fieldsV1"]);
        let fields = fields.unwrap_or_else(|| panic!("malformed {entry}"));
        assert!(!fields.is_empty(), "an entry that owns nothing: {entry}");
        assert_eq!(fields.to_json(), entry["fieldsV1"]);
    }
}
