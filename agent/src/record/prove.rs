//! Proofs for others: that a record is among those the host signed, that one checkpoint goes on from another.
//!
//! What comes out can be checked without Chaperone, by any implementation of RFC 6962 or 9162; docs/journal.md says how.
//! One pass over the journal, in bounded memory. Whoever is handed a proof needs the host's key from somewhere else.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::event::Event;
use super::format::{Kind, hex, payload_digest};
use super::frozen::{self, Piece};
use super::packed;
use super::reader::{Check, Reader};
use super::tree::{self, Prover, Wanted};
use super::{Checkpoint, PublicKey, RecordError, Stamp, head, pruned};

/// A record, and that it is in the tree of `checkpoint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inclusion {
    pub record: Proved,
    /// Number of the entry, from 0: one less than the record's.
    pub index: u64,
    pub size: u64,
    /// SHA-256 hashes in base64, the one next to the leaf first.
    pub proof: Vec<String>,
    /// The signed note.
    pub checkpoint: String,
    /// The key that signed it, for comparing with the one that is known of the host.
    pub verifier: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proved {
    pub seq: u64,
    pub time: Stamp,
    /// Bytes 8 to 60 of the frame, in hex.
    pub frame: String,
    pub payload_sha256: String,
    /// SHA-256 of the two before, as bytes: the entry of the tree.
    pub hash: String,
    /// As it stands, of an event in JSON; in base64 of anything else.
    pub payload: String,
    /// What it says, where that is an event that is packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<Event>,
}

/// That the journal at `checkpoint` begins with the journal at `since`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Growth {
    pub old_size: u64,
    pub size: u64,
    pub proof: Vec<String>,
    pub since: String,
    pub checkpoint: String,
    pub verifier: String,
}

/// Proves that record `seq` is among those that the head is signed over.
///
/// # Errors
/// `NotSigned` when it is not yet; `Damaged` where the journal is not what the head says.
pub fn record(dir: &Path, key: &PublicKey, seq: u64) -> Result<Inclusion, RecordError> {
    let head = newest(dir, key)?;
    if seq == 0 || seq > head.seq {
        return Err(RecordError::NotSigned { seq, signed: head.seq });
    }
    if let Some(through) = pruned::load(dir, key)?.map(|note| note.through).filter(|through| seq <= *through)
    {
        return Err(RecordError::Pruned { seq, through });
    }
    let (index, size) = (seq - 1, head.seq);
    let mut proved = None;
    let proof = pass(dir, key, &head, tree::inclusion(index, size), |frame| {
        if frame.seq == seq {
            proved = Some(Proved {
                seq,
                time: Stamp(frame.time_ns),
                frame: hex(frame.fixed()),
                payload_sha256: hex(&payload_digest(frame.payload)),
                hash: hex(&frame.hash()),
                payload: match frame.kind {
                    Kind::Event => String::from_utf8_lossy(frame.payload).into_owned(),
                    _ => STANDARD.encode(frame.payload),
                },
                event: (frame.kind != Kind::Event).then(|| packed::event(frame)).flatten(),
            });
        }
    })?;
    let record = proved.ok_or(RecordError::NotSigned { seq, signed: head.seq })?;
    let (checkpoint, verifier) = (head.text(), key.verifier(&head.journal));
    Ok(Inclusion { record, index, size, proof, checkpoint, verifier })
}

/// Proves that the journal goes on from a checkpoint that was kept.
///
/// # Errors
/// `NotSigned` when the head is older than it; `Damaged` where the journal is not what the head says.
pub fn growth(dir: &Path, key: &PublicKey, since: &Checkpoint) -> Result<Growth, RecordError> {
    let head = newest(dir, key)?;
    if since.journal != head.journal || since.seq > head.seq {
        return Err(RecordError::NotSigned { seq: since.seq, signed: head.seq });
    }
    let proof = pass(dir, key, &head, tree::consistency(since.seq, head.seq), |_| {})?;
    Ok(Growth {
        old_size: since.seq,
        size: head.seq,
        proof,
        since: since.text(),
        checkpoint: head.text(),
        verifier: key.verifier(&head.journal),
    })
}

fn newest(dir: &Path, key: &PublicKey) -> Result<Checkpoint, RecordError> {
    head::load(dir, key)?.ok_or(RecordError::NotSigned { seq: 1, signed: 0 })
}

/// Reads up to the head; its root has to come out of what is there.
fn pass(
    dir: &Path,
    key: &PublicKey,
    head: &Checkpoint,
    wanted: Wanted,
    mut each: impl FnMut(&super::format::Frame<'_>),
) -> Result<Vec<String>, RecordError> {
    let mut prover = Prover::new(wanted);
    let mut whole = tree::Tree::default();
    let mut through = 0;
    if let Some(note) = pruned::load(dir, key)? {
        through = note.through;
        frozen::walk(dir, &note, |piece| {
            if let Piece::Subtree(level, root) = piece {
                // What does not fit makes another root in the end.
                let _fits = whole.push_subtree(level, root);
                prover.push_subtree(level, root);
            }
        })?;
    }
    let mut reader = Reader::open_after(dir, Check::Chain, through)?;
    while whole.size() < head.seq {
        let Some(frame) = reader.next_frame().transpose()? else { break };
        let hash = frame.hash();
        whole.push(&hash);
        prover.push(&hash);
        each(&frame);
    }
    let proof = prover.finish().filter(|_| whole.size() == head.seq && whole.root() == head.root);
    let problem = || RecordError::NotAsSigned { seq: head.seq };
    Ok(proof.ok_or_else(problem)?.iter().map(|hash| STANDARD.encode(hash)).collect())
}
