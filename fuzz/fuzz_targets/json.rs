#![no_main]
//! A JSON body: decode, check, prune, normalize, default, validate, and every form it is answered in.

use fairlead_api::decode;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|data: &[u8]| {
    if let Ok(decoded) = decode::json(data) {
        fairlead_fuzz::hold::yaml_reads_json(&decoded);
        fairlead_fuzz::hold::body(decoded, data);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    fairlead_fuzz::grow::body(data, size, max, seed, |object| serde_json::to_vec(object).ok())
});
