//! Whole sessions with both sides hostile: no statement reaches the server that was not permitted.
#![no_main]

use chaperone::protocol::postgres::fuzzing::session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = session(input);
});
