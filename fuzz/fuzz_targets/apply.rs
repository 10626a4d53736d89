#![no_main]
//! A sequence of writes to one object: parts between lines `---`, each one letter that says who writes and how, and an
//! object. Upper case forces; `u` to `z` are updates (PUT), the others apply.

use fairlead_api::{
    apply::{self, Actor, Fields},
    decode,
    kind::Kind,
    schema,
};
use fairlead_fuzz::{grow, hold, kind_of, parts};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let mut live: Option<(&'static Kind, Value)> = None;
    for part in parts(data).take(8) {
        let Some((&who, body)) = part.split_first() else { continue };
        let Ok(decoded) = decode::yaml(body) else { continue };
        let kind = live.as_ref().map_or_else(|| kind_of(&decoded.value, &[]), |(kind, _)| kind);
        let Some(fields) = Fields::of(kind, "") else { return };
        let present = live.take().map(|(_, object)| object);
        let written = match who {
            b'u'..=b'z' => hold::object(kind, decoded, body)
                .map(|new| updated(kind, &fields, present.as_ref(), new, who)),
            _ => applied(kind, &fields, present.as_ref(), body, who),
        };
        live = written.or(present).map(|object| (kind, object));
    }
});

fn actor<'a>(who: &'a str, api_version: &'a str, now: &'a str) -> Actor<'a> {
    Actor { manager: who, api_version, subresource: "", now }
}

fn updated(kind: &'static Kind, fields: &Fields, live: Option<&Value>, mut new: Value, who: u8) -> Value {
    let who = (who as char).to_string();
    hold::complete(kind, &mut new);
    let api_version = kind.api_version();
    fields.update(live, &mut new, &actor(&who, &api_version, "2026-01-01T00:00:00Z"));
    hold::managed(&new);
    new
}

fn applied(
    kind: &'static Kind,
    fields: &Fields,
    live: Option<&Value>,
    body: &[u8],
    who: u8,
) -> Option<Value> {
    let manager = (who.to_ascii_lowercase() as char).to_string();
    let api_version = kind.api_version();
    let config = apply::config(&api_version, kind.kind, body).ok()?.value;
    let first = actor(&manager, &api_version, "2026-01-02T00:00:00Z");
    let mut once = fields.apply(live, &config, who.is_ascii_uppercase(), &first).ok()?;
    // What apply lets through and the types do not take is refused by the server.
    schema::check(schema::of(kind.schema)?, &once).ok()?;
    hold::complete(kind, &mut once);
    hold::managed(&once);
    if hold::incomplete(kind, &once) {
        // The server refuses it: nobody applies to it again.
        return None;
    }
    if once["metadata"]["managedFields"].is_null() {
        // What nobody owns is owned by "before-first-apply" from the second apply on.
        return Some(once);
    }
    let later = actor(&manager, &api_version, "2026-01-03T00:00:00Z");
    // What is applied again by the same manager is already so. Upstream knows two exceptions: what is empty is a change
    // each time, also of what others own, as Go forgets it; and an element whose key is empty is lost the second time,
    // but validation refuses the first.
    let excepted = has_empty(&config) || !(kind.validate)(&once).is_empty();
    match fields.apply(Some(&once), &config, false, &later) {
        Ok(mut twice) => {
            hold::complete(kind, &mut twice);
            assert!(excepted || timeless(&once) == timeless(&twice), "applied twice:\n{once}\n{twice}");
        }
        Err(refused) => assert!(excepted, "refused the second time: {}", refused.0),
    }
    Some(once)
}

/// Whether an empty list or map is in it.
fn has_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty() || list.iter().any(has_empty),
        Value::Object(map) => map.is_empty() || map.values().any(has_empty),
        _ => false,
    }
}

/// The object with its managed fields in an order that does not tell their times.
fn timeless(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(list) = object["metadata"]["managedFields"].as_array_mut() {
        list.iter_mut().filter_map(Value::as_object_mut).for_each(|entry| drop(entry.remove("time")));
        list.sort_by_key(Value::to_string);
    }
    object
}

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| { grow::writes(data, size, max, seed) });
