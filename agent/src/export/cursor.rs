//! How far a receiver was told, in a file: `<state_dir>/export/<name>`, two numbers and the journal they are of.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::ExportError;

pub(super) struct Cursor {
    name: String,
    path: PathBuf,
    /// The newest record the receiver was told of.
    pub(super) seq: u64,
    /// How many events it was told, of whichever journal.
    pub(super) sent: u64,
    /// The journal's id; empty before anything was told.
    journal: String,
}

impl Cursor {
    pub(super) fn open(state_dir: &Path, name: &str) -> Result<Self, ExportError> {
        let path = state_dir.join("export").join(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(source) => {
                return Err(ExportError::Cursor { name: name.to_owned(), attempt: "read", path, source });
            }
        };
        let mut words = text.split_whitespace();
        let (seq, sent) = (words.next().map(str::parse), words.next().map(str::parse));
        let journal = words.next().unwrap_or_default().to_owned();
        let (seq, sent, journal) = match (seq, sent) {
            (Some(Ok(seq)), Some(Ok(sent))) => (seq, sent, journal),
            // From the beginning rather than from a guess: at least once.
            _ => (0, 0, String::new()),
        };
        Ok(Self { name: name.to_owned(), path, seq, sent, journal })
    }

    /// Whether it is of another journal than this one: then everything of this one is still to tell.
    pub(super) fn is_of_another(&self, journal: &str) -> bool {
        !self.journal.is_empty() && self.journal != journal
    }

    /// Begins with the first record of a journal; the numbers go on.
    pub(super) fn begin(&mut self, journal: &str) {
        self.seq = 0;
        journal.clone_into(&mut self.journal);
    }

    /// Remembers that the receiver was told everything up to `seq`.
    pub(super) fn advance(&mut self, seq: u64, sent: u64, journal: &str) -> Result<(), ExportError> {
        let failed = |source| ExportError::Cursor {
            name: self.name.clone(),
            attempt: "write",
            path: self.path.clone(),
            source,
        };
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        // Not with_extension: names may hold dots, and two receivers must not share it.
        let mut unfinished = self.path.clone().into_os_string();
        unfinished.push("~");
        fs::File::create(&unfinished)
            .and_then(|mut file| {
                writeln!(file, "{seq} {sent} {journal}")?;
                file.sync_data()
            })
            .and_then(|()| fs::rename(&unfinished, &self.path))
            .map_err(failed)?;
        (self.seq, self.sent) = (seq, sent);
        journal.clone_into(&mut self.journal);
        Ok(())
    }
}
