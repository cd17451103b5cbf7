//! What this host has and lacks.

use std::io::Write;
use std::path::Path;

use super::Failure;

pub(super) fn doctor(_: &Path, _: bool, _: &mut dyn Write) -> Result<(), Failure> {
    Err(Failure::Said)
}
