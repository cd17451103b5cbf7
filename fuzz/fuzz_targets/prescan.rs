//! The scan in front of the parser: the stricter reading of numbers lets nothing more pass.
#![no_main]

use chaperone_sql::scan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let (loose, strict) = (scan(&text, false), scan(&text, true));
    assert!(strict.is_err() || loose.is_ok(), "refused only where less is refused");
});
