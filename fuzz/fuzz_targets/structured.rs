//! Any bytes as the value of a record.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "common.rs"]
mod common;

fuzz_target!(|value: &[u8]| {
    common::decode(b"u".to_vec(), value.to_vec(), Vec::new());
});
