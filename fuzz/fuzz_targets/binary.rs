//! Any bytes as the headers and the value of a record: lines of `name:value`, an empty line, data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use user_events_worker::event::Header;

#[path = "common.rs"]
mod common;

fuzz_target!(|input: &[u8]| {
    let (mut headers, mut rest) = (Vec::new(), input);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        let name = String::from_utf8_lossy(&line[..colon]).into_owned().into();
        headers.push(Header { name, value: Some(line[colon + 1..].to_vec().into()) });
    }
    common::decode(b"u".to_vec(), rest.to_vec(), headers);
});
