//! A value that prints nothing and is wiped when dropped, and the file one can be kept in.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Holds a secret. `Debug` and `Display` show a placeholder; `expose` is the only way in, easy to grep for.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. The caller keeps it out of logs, errors and records.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Reads the 32 bytes at `path`, or makes them when there is no such file; its owner alone may reach it.
///
/// # Errors
/// When the file cannot be read or made, has another size, or others can reach it.
pub fn load_or_create(path: &Path) -> io::Result<Secret<Vec<u8>>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            return Err(named(io::Error::other("can be reached by group or others; chmod 600 it")));
        }
        Ok(_) => fs::read(path).map_err(named)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut fresh = vec![0; 32];
            SystemRandom::new().fill(&mut fresh).map_err(|_| named(io::Error::other("no random bytes")))?;
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(named)?;
            file.write_all(&fresh).and_then(|()| file.sync_all()).map_err(named)?;
            fresh
        }
        Err(error) => return Err(named(error)),
    };
    if bytes.len() != 32 {
        return Err(named(io::Error::other("does not hold 32 bytes; remove it to have it made anew")));
    }
    Ok(Secret::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_file_stays_the_same_and_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = load_or_create(&path).unwrap();
        assert_eq!(load_or_create(&path).unwrap().expose(), first.expose());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::write(&path, b"short").unwrap();
        assert!(load_or_create(&path).is_err());
    }

    #[test]
    fn a_secret_does_not_print() {
        let secret = Secret::new(String::from("hunter2"));
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert_eq!(secret.expose(), "hunter2");
    }
}
