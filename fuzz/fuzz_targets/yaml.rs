#![no_main]
//! A YAML body, on the same way as a JSON one.

use fairlead_api::{decode, yaml};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|data: &[u8]| {
    if let Ok(decoded) = decode::yaml(data) {
        fairlead_fuzz::hold::yaml_reads_its_own(&decoded.value);
        fairlead_fuzz::hold::body(decoded, data);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    fairlead_fuzz::grow::body(data, size, max, seed, |object| Some(yaml::write(object).into_bytes()))
});
