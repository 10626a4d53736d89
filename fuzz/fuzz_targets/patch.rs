#![no_main]
//! An object and a patch of each of the three kinds over it: `object`, a line `---`, `patch`.

use fairlead_api::{decode, patch, schema};
use fairlead_fuzz::{grow, hold, kind_of, parts};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|data: &[u8]| {
    let mut parts = parts(data);
    let (Some(object), Some(change)) = (parts.next(), parts.next()) else { return };
    let Ok(decoded) = decode::json(object) else { return };
    let kind = kind_of(&decoded.value, object);
    let Some(mut object) = hold::object(kind, decoded, object) else { return };
    hold::complete(kind, &mut object);
    let Some(schema) = schema::of(kind.schema) else { return };
    if let Ok(patched) = patch::json(&object, change) {
        hold::patched(kind, patched);
    }
    let Ok(change) = decode::json(change) else { return };
    if let Ok(patched) = patch::merge(&object, &change.value) {
        assert_eq!(
            patch::merge(&patched, &change.value).as_ref(),
            Ok(&patched),
            "a merge patch holds when it comes twice"
        );
        hold::patched(kind, patched);
    }
    if let Ok(patched) = patch::strategic(schema, &object, &change.value) {
        hold::patched(kind, patched);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| { grow::patch(data, size, max, seed) });
