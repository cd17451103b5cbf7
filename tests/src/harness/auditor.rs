//! Somebody who may read raw values: a pair of keys, and `age` to open what was sealed to them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::agent::Agent;
use super::scratch::Scratch;
use super::spawn::Program;

pub(crate) struct Auditor {
    /// As `age-keygen` made it.
    pub(crate) file: PathBuf,
    pub(crate) public: String,
}

impl Auditor {
    pub(crate) fn new(scratch: &Scratch, name: &str) -> Result<Self> {
        let file = scratch.folder("auditors", 0o700)?.join(name);
        let path = file.to_str().context("a path")?;
        Program::new("/usr/bin/age-keygen").args(["-o", path]).run()?.ok()?;
        let public = Program::new("/usr/bin/age-keygen").args(["-y", path]).run()?.ok()?.trim().to_owned();
        Ok(Self { file, public })
    }

    /// The line of the configuration's section `record` that names these.
    pub(crate) fn line(auditors: &[&Self]) -> String {
        let keys = auditors.iter().map(|auditor| format!("{:?}", auditor.public)).collect::<Vec<_>>();
        format!("auditors = [{}]", keys.join(", "))
    }

    /// What is sealed of a session, opened by `age` alone.
    pub(crate) fn opened(&self, agent: &Agent, session: &str, scratch: &Scratch) -> Result<Vec<Value>> {
        let folder = scratch.folder("sealed", 0o700)?;
        for entry in fs::read_dir(&folder)? {
            fs::remove_file(entry?.path())?;
        }
        agent.command(&["unseal", session, "--extract", folder.to_str().context("a path")?])?.ok()?;
        let mut files = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.sort();
        let mut text = String::new();
        for file in files {
            text.push_str(&self.age(&file)?);
        }
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    fn age(&self, file: &Path) -> Result<String> {
        let output = Program::new("/usr/bin/age")
            .args(["--decrypt".as_ref(), "-i".as_ref(), self.file.as_os_str(), file.as_os_str()])
            .run()?;
        ensure!(output.code == Some(0), "age does not open {}: {output}", file.display());
        Ok(output.stdout)
    }
}
