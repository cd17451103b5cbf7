//! Commands that read the journal; they need no running agent.

use std::io::Write;
use std::path::Path;

use super::Failure;

pub(super) fn sessions(_: &Path, _: Option<&str>, _: Option<&str>, _: bool, _: &mut dyn Write) -> Result<(), Failure> {
    Err(Failure::Said)
}
pub(super) fn replay(_: &Path, _: &str, _: bool, _: &mut dyn Write) -> Result<(), Failure> {
    Err(Failure::Said)
}
pub(super) fn verify(_: &Path, _: Option<&Path>, _: bool, _: &mut dyn Write) -> Result<(), Failure> {
    Err(Failure::Said)
}
