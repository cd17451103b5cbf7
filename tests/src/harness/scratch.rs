//! A folder of our own, removed on drop.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Readable by the server's and the clients' users; the name is short because Unix socket paths are.
    pub(crate) fn new(suite: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("chaperone-e2e-{suite}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn folder(&self, name: &str, mode: u32) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("CHAPERONE_E2E_KEEP").is_some() {
            eprintln!("kept: {}", self.path.display());
            return;
        }
        // Best effort: what is left lies in the system's folder for such things.
        let _ = fs::remove_dir_all(&self.path);
    }
}
