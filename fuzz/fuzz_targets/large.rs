#![no_main]
//! Each list and map of each kind, as long as a body may be: nothing may take time that grows with its square.
//! The input says which (two bytes), whether its elements are alike, and how long it is.

use std::time::Duration;

use fairlead_api::{
    apply::{Actor, Fields},
    decode::Decoded,
    patch, schema,
};
use fairlead_fuzz::{hold, large::PLACES};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

/// Processor time for one object of a few MiB, with coverage counted and overflow checked.
const LIMIT: Duration = Duration::from_secs(8);

fuzz_target!(|data: &[u8]| {
    let &[high, low, flags, size, ..] = data else { return };
    let index = usize::from(high) << 8 | usize::from(low);
    if index >= PLACES.len() {
        return;
    }
    let place = &PLACES[index];
    // From an eighth of the longest to the longest.
    let object = place.object(5000 * (usize::from(size % 8) + 1), flags & 1 == 1);
    let kind = place.kind;
    let start = spent();
    let mut steps = Vec::new();
    let bytes = object.to_string();
    let patch = object.clone();
    let decoded = Decoded { value: object, strict: Vec::new() };
    let Some(mut object) = hold::object(kind, decoded, bytes.as_bytes()) else { return };
    steps.push(("decode", spent()));
    hold::complete(kind, &mut object);
    steps.push(("complete", spent()));
    let _ = (kind.validate)(&object);
    steps.push(("validate", spent()));
    hold::strategy(kind, &object);
    steps.push(("strategy", spent()));
    hold::shown(kind, &object);
    steps.push(("shown", spent()));
    hold::through_protobuf(kind, &object);
    steps.push(("protobuf", spent()));
    if let Some(schema) = schema::of(kind.schema) {
        let _ = patch::strategic(schema, &object, &patch);
        steps.push(("strategic", spent()));
    }
    if let Some(fields) = Fields::of(kind, "") {
        let version = kind.api_version();
        let actor = |manager: &'static str| Actor {
            manager,
            api_version: &version,
            subresource: "",
            now: "2026-01-01T00:00:00Z",
        };
        let base = json!({"apiVersion": version, "kind": kind.kind, "metadata": {"name": "a"}});
        if let Ok(made) = fields.apply(Some(&base), &patch, true, &actor("a")) {
            let _ = fields.apply(Some(&made), &patch, true, &actor("b"));
            let _ = fields.apply(Some(&made), &base, true, &actor("a"));
        }
        let mut new = object.clone();
        fields.update(Some(&base), &mut new, &actor("c"));
        steps.push(("apply", spent()));
    }
    let took = spent() - start;
    if std::env::var_os("FAIRLEAD_FUZZ_TIMES").is_some() {
        eprintln!("{took:?} {} {} {}", kind.kind, place.path.join("."), bytes.len());
    }
    let steps: Vec<String> = steps.iter().map(|(step, at)| format!("{step} {:?}", *at - start)).collect();
    assert!(
        took < LIMIT,
        "{took:?} for {} {} of {} bytes: {}",
        kind.kind,
        place.path.join("."),
        bytes.len(),
        steps.join(", ")
    );
});

/// Processor time of this thread so far.
fn spent() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the one structure it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
