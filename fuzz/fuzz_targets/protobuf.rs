#![no_main]
//! A protobuf body, on the same way as a JSON one.

use fairlead_api::{decode, encode};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|data: &[u8]| {
    if let Ok(decoded) = decode::protobuf(data) {
        fairlead_fuzz::hold::body(decoded, data);
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    fairlead_fuzz::grow::body(data, size, max, seed, |object| {
        let kind = fairlead_fuzz::kind_of(object, &[]);
        encode::protobuf(kind.message, &kind.api_version(), kind.kind, object)
    })
});
