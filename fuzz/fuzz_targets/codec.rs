//! PostgreSQL's messages and opening packets: taken apart without a loss, or refused.
#![no_main]

use bytes::BytesMut;
use chaperone::detect;
use chaperone::protocol::postgres::codec::{self, WHOLE_MAX};
use chaperone::protocol::postgres::watch::Watch;
use chaperone::protocol::postgres::{response, startup};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut rest = BytesMut::from(input);
    let mut taken = 0;
    while let Ok(Some(message)) = codec::take(&mut rest, WHOLE_MAX) {
        taken += message.bytes.len();
        if matches!(message.tag, b'E' | b'N') {
            let _ = response::put_scrubbed(&mut BytesMut::new(), message.tag, message.body());
            let mut out = BytesMut::new();
            let found = response::put_looked(&mut out, message.tag, message.body());
            assert_eq!(out.is_empty(), !matches!(found, Ok(Some(_))));
        }
    }
    assert_eq!(taken + rest.len(), input.len(), "bytes got lost");
    Watch::default().feed(input);
    let _ = detect::find(input);
    let _ = startup::take_opening(&mut BytesMut::from(input));
});
