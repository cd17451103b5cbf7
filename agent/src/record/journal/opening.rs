//! What a journal begins with: the state it was left in, and what is in the spool.

use std::path::Path;

use super::super::clock::Watch;
use super::super::files::DirLock;
use super::super::format::{JournalId, VERSION};
use super::super::recover::Recovered;
use super::super::scan::Link;
use super::super::spool::{self, Spool};
use super::super::tail::{self, Begun, Fixed, Tail};
use super::super::tree::Tree;
use super::super::{RecordError, key};
use super::Options;

/// Writes what an agent that died had recorded and not written yet, so that whoever reads the journal finds it. Nothing
/// happens when an agent lives, or there is no journal.
///
/// # Errors
/// As [`Journal::open`].
pub fn complete(options: &Options) -> Result<(), RecordError> {
    let Some(spool) = options.spool.as_ref().filter(|spool| spool.exists() && options.dir.is_dir()) else {
        return Ok(());
    };
    let _lock = match DirLock::take(&options.dir) {
        Err(RecordError::InUse { .. }) => return Ok(()),
        taken => taken?,
    };
    spool::restore(spool, &options.dir, false).map(drop)
}

/// Without one records are written one append at a time.
pub(super) fn open_spool(path: &Path, journal: JournalId) -> Option<Spool> {
    let opened = Spool::open(path, journal);
    match &opened {
        Ok(Some(_)) => {}
        Ok(None) => tracing::info!(
            path = %path.display(),
            "the run directory is not in memory (tmpfs): each record is a write of its own"
        ),
        Err(error) => tracing::warn!(%error, "no spool: each record is a write of its own"),
    }
    opened.ok().flatten()
}

pub(super) fn open_tail(fixed: &Fixed, recovered: Recovered) -> Result<Tail, RecordError> {
    let Some(end) = recovered.end else {
        let (mut link, mut tree) = (Link::START, Tree::default());
        let Begun { path, medium, first_seq, len } =
            tail::begin_segment(fixed, VERSION, &mut link, &mut tree)?;
        return Ok(Tail {
            medium,
            path,
            form: VERSION,
            segment: first_seq,
            offset: len,
            begun: len,
            link,
            tree,
            unsigned: 0,
            signed: None,
            dirty: false,
            rotating: false,
            failed: false,
            closed: false,
            watch: Watch::default(),
            recorded_ns: fixed.clocks.boot_ns(),
            spool: None,
            stuck: false,
        });
    };
    let medium = (fixed.mount)(end.file);
    Ok(Tail {
        medium,
        path: end.path,
        form: end.version,
        segment: end.segment,
        offset: end.offset,
        begun: 0,
        link: end.link,
        tree: end.tree,
        unsigned: end.unsigned,
        signed: end.signed,
        dirty: false,
        rotating: false,
        failed: false,
        closed: false,
        watch: Watch::after(end.time_ns),
        recorded_ns: fixed.clocks.boot_ns(),
        spool: None,
        stuck: false,
    })
}

pub(super) fn fresh_id(dir: &Path) -> Result<JournalId, RecordError> {
    let mut id = JournalId::default();
    key::random(&mut id, dir)?;
    Ok(id)
}
