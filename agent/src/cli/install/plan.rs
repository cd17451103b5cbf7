//! The steps of `install` and `uninstall`: each says what it does, does it unless it is only to be said, and does
//! nothing where nothing is to be done.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Failure;

pub(super) struct Plan<'a> {
    root: &'a Path,
    dry_run: bool,
    written: Vec<Entry>,
}

/// A file that `install` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    path: String,
    sha256: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    files: Vec<Entry>,
}

impl Manifest {
    /// Empty where nothing was installed.
    pub(super) fn read(root: &Path, path: &str) -> Result<Self, Failure> {
        let path = below(root, path);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| Failure::Failed(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.files
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(root: &'a Path, dry_run: bool) -> Self {
        Self { root, dry_run, written: Vec::new() }
    }

    pub(super) fn directory(&mut self, path: &str, mode: u32, out: &mut dyn Write) -> Result<(), Failure> {
        let path = below(self.root, path);
        if path.is_dir() {
            return said(out, "kept", &path);
        }
        said(out, "made", &path)?;
        if self.dry_run {
            return Ok(());
        }
        make_parent(&path)?;
        DirBuilder::new().mode(mode).create(&path).map_err(|error| failed("make", &path, &error))
    }

    /// A file that is ours: made, or made again when it differs.
    pub(super) fn file(
        &mut self,
        path: &str,
        mode: u32,
        content: &str,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        self.put(path, mode, content.as_bytes(), out)
    }

    /// A file to begin with: made where there is none, and the operator's from then on.
    pub(super) fn starter(
        &mut self,
        path: &str,
        mode: u32,
        content: &str,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        if below(self.root, path).exists() {
            // Noted down as it was made: `uninstall` removes it only if nobody touched it.
            self.written.push(Entry { path: path.to_owned(), sha256: digest(content.as_bytes()) });
            return said(out, "kept", &below(self.root, path));
        }
        self.put(path, mode, content.as_bytes(), out)
    }

    /// The running program, unless it is there already.
    pub(super) fn program(&mut self, from: &Path, to: &Path, out: &mut dyn Write) -> Result<(), Failure> {
        let target = below(self.root, &to.to_string_lossy());
        let same = |a: &Path, b: &Path| {
            fs::canonicalize(a).ok().is_some_and(|a| fs::canonicalize(b).ok() == Some(a))
        };
        if same(from, &target) {
            return said(out, "kept", &target);
        }
        let bytes = fs::read(from).map_err(|error| failed("read", from, &error))?;
        self.put(&to.to_string_lossy(), 0o755, &bytes, out)
    }

    /// Whether the directory holds no file with this extension.
    pub(super) fn has_none(&self, directory: &str, extension: &str) -> Result<bool, Failure> {
        let path = below(self.root, directory);
        match fs::read_dir(&path) {
            Ok(entries) => Ok(!entries
                .flatten()
                .any(|entry| entry.path().extension().is_some_and(|found| found == extension))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(failed("list", &path, &error)),
        }
    }

    pub(super) fn note_down(&mut self, path: &str) -> Result<(), Failure> {
        if self.dry_run {
            return Ok(());
        }
        let mut files = Manifest::read(self.root, path)?.files;
        files.retain(|old| !self.written.iter().any(|new| new.path == old.path));
        files.append(&mut self.written);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let text = serde_json::to_vec_pretty(&Manifest { files })
            .map_err(|error| Failure::Failed(error.to_string()))?;
        replace(&below(self.root, path), 0o600, &text)
    }

    pub(super) fn remove_unchanged(&self, entry: &Entry, out: &mut dyn Write) -> Result<(), Failure> {
        let path = below(self.root, &entry.path);
        match fs::read(&path) {
            Ok(bytes) if digest(&bytes) == entry.sha256 => self.remove(&entry.path, out),
            Ok(_) => said(out, "kept, because it was changed:", &path),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    pub(super) fn remove(&self, path: &str, out: &mut dyn Write) -> Result<(), Failure> {
        let path = below(self.root, path);
        if !path.exists() {
            return Ok(());
        }
        said(out, "removed", &path)?;
        if self.dry_run {
            return Ok(());
        }
        fs::remove_file(&path).map_err(|error| failed("remove", &path, &error))
    }

    pub(super) fn remove_empty(&self, path: &str, out: &mut dyn Write) -> Result<(), Failure> {
        let path = below(self.root, path);
        if self.dry_run || !path.is_dir() {
            return Ok(());
        }
        match fs::remove_dir(&path) {
            Ok(()) => said(out, "removed", &path),
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => said(out, "kept", &path),
            Err(error) => Err(failed("remove", &path, &error)),
        }
    }

    pub(super) fn remove_tree(&self, path: &str, out: &mut dyn Write) -> Result<(), Failure> {
        let path = below(self.root, path);
        if !path.is_dir() {
            return Ok(());
        }
        said(out, "removed, with everything in it:", &path)?;
        if self.dry_run {
            return Ok(());
        }
        fs::remove_dir_all(&path).map_err(|error| failed("remove", &path, &error))
    }

    fn put(&mut self, path: &str, mode: u32, bytes: &[u8], out: &mut dyn Write) -> Result<(), Failure> {
        self.written.push(Entry { path: path.to_owned(), sha256: digest(bytes) });
        let path = below(self.root, path);
        let word = match fs::read(&path) {
            Ok(present) if present == bytes => return said(out, "kept", &path),
            Ok(_) => "replaced",
            Err(error) if error.kind() == ErrorKind::NotFound => "made",
            Err(error) => return Err(failed("read", &path, &error)),
        };
        said(out, word, &path)?;
        if self.dry_run {
            return Ok(());
        }
        make_parent(&path)?;
        replace(&path, mode, bytes)
    }
}

/// In one step: a program that runs, or a unit that is read, is the old one or the new one.
fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Failure> {
    let mut next = path.as_os_str().to_owned();
    next.push(".new");
    let next = PathBuf::from(next);
    fs::write(&next, bytes)
        .and_then(|()| fs::set_permissions(&next, Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&next, path))
        .map_err(|error| failed("write", path, &error))
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    let Some(parent) = path.parent() else { return Ok(()) };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(parent)
        .map_err(|error| failed("make", parent, &error))
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn digest(bytes: &[u8]) -> String {
    crate::hex(&Sha256::digest(bytes))
}

fn said(out: &mut dyn Write, what: &str, path: &Path) -> Result<(), Failure> {
    writeln!(out, "{what} {}", path.display())?;
    Ok(())
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("cannot {what} {}: {error}", path.display()))
}
