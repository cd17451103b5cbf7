//! Files that somebody may be writing at this very moment: read whole, or not at all.
//!
//! Half a policy file can be good Cedar, and half a configuration good TOML, with what protects most missing. What a writer
//! left half-written and went away from cannot be told; what changes while it is read can.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp([i64; 7]);

impl Stamp {
    /// # Errors
    /// When there is no such file.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for Stamp {
    fn from(of: &Metadata) -> Self {
        let [device, inode, size] = [of.dev(), of.ino(), of.size()].map(u64::cast_signed);
        Self([device, inode, size, of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()])
    }
}

/// Reads a text file.
///
/// # Errors
/// When it cannot be read, or was written or replaced meanwhile.
pub fn read_whole(path: &Path) -> io::Result<String> {
    read_while(path, || ())
}

fn read_while(path: &Path, meanwhile: impl FnOnce()) -> io::Result<String> {
    let mut file = File::open(path)?;
    let before = Stamp::from(&file.metadata()?);
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    meanwhile();
    // By its name: another file in its place is a change as well.
    if Stamp::of(path)? == before { Ok(text) } else { Err(changing()) }
}

/// What is said of files that do not stand still.
#[must_use]
pub fn changing() -> io::Error {
    io::Error::other("it was being written while it was read; load it again when that is done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_replaced_or_taken_away_meanwhile_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.cedar");
        let check = |meanwhile: &dyn Fn(), expect: Option<&str>| {
            fs::write(&path, "permit").unwrap();
            let got = read_while(&path, meanwhile);
            assert_eq!(got.as_deref().ok(), expect, "{got:?}");
        };
        check(&|| (), Some("permit"));
        check(&|| fs::write(dir.path().join("b.cedar"), "x").unwrap(), Some("permit"));
        check(&|| fs::write(&path, "permit(principal").unwrap(), None);
        check(&|| drop(File::create(&path).unwrap()), None);
        let replace = || {
            fs::write(dir.path().join("new"), "permit").unwrap();
            fs::rename(dir.path().join("new"), &path).unwrap();
        };
        check(&replace, None);
        check(&|| fs::remove_file(&path).unwrap(), None);
    }
}
