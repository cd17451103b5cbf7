//! SSH: file transfers of which everything is denied, packets that nobody sealed, command lines.
#![no_main]

use chaperone::protocol::ssh::fuzzing::{command, packets, sftp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else { return };
    match choice % 3 {
        0 => drop(sftp(input)),
        1 => packets(input),
        _ => command(input),
    }
});
