//! SHA-256 of executables: each state of a file once, beside the sessions and not in their way.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use crate::intercept::FileId;

/// Files hashed at the same time.
const AT_ONCE: usize = 2;

/// Longest a connection waits for the digest of its executable. The work goes on for those that come after it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Larger files are not hashed.
pub(super) const LARGEST: u64 = 2 << 30;

/// Digests kept.
const MOST_KEPT: usize = 4096;

type Outcome = Result<Arc<str>, Arc<str>>;

enum Slot {
    Known(Arc<str>),
    Underway(watch::Receiver<Option<Outcome>>),
}

#[derive(Clone)]
pub(super) struct Hasher {
    slots: Arc<Mutex<HashMap<FileId, Slot>>>,
    places: Arc<Semaphore>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self { slots: Arc::default(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Hasher {
    pub(super) fn known(&self, id: FileId) -> Option<Arc<str>> {
        match self.lock().get(&id) {
            Some(Slot::Known(digest)) => Some(Arc::clone(digest)),
            Some(Slot::Underway(_)) | None => None,
        }
    }

    /// The digest of a file the caller knows to be in the state `id`.
    ///
    /// # Errors
    /// Why there is none; also when it takes too long.
    pub(super) async fn digest(&self, id: FileId, file: File) -> Outcome {
        let mut underway = match self.start(id, file) {
            Slot::Known(digest) => return Ok(digest),
            Slot::Underway(outcome_rx) => outcome_rx,
        };
        match tokio::time::timeout(PATIENCE, underway.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err("hashing was given up".into())),
            Ok(Err(_given_up)) => Err("hashing was given up".into()),
            Err(_elapsed) => Err("hashing it took too long; a later connection will have it".into()),
        }
    }

    /// What is there, or the beginning of it.
    fn start(&self, id: FileId, file: File) -> Slot {
        let mut slots = self.lock();
        match slots.get(&id) {
            Some(Slot::Known(digest)) => return Slot::Known(Arc::clone(digest)),
            Some(Slot::Underway(outcome_rx)) => return Slot::Underway(outcome_rx.clone()),
            None => {}
        }
        if slots.len() >= MOST_KEPT {
            slots.retain(|_, slot| matches!(slot, Slot::Underway(_)));
        }
        let (outcome_tx, outcome_rx) = watch::channel(None);
        slots.insert(id, Slot::Underway(outcome_rx.clone()));
        let hasher = self.clone();
        tokio::spawn(async move { outcome_tx.send_replace(Some(hasher.work(id, file).await)) });
        Slot::Underway(outcome_rx)
    }

    async fn work(&self, id: FileId, file: File) -> Outcome {
        let place = self.places.acquire().await;
        let worked = tokio::task::spawn_blocking(move || sha256(file)).await;
        drop(place);
        let outcome: Outcome = match worked {
            Ok(Ok(digest)) => Ok(digest.into()),
            Ok(Err(error)) => Err(format!("it could not be read: {error}").into()),
            Err(_panicked) => Err("hashing was given up".into()),
        };
        let mut slots = self.lock();
        match &outcome {
            Ok(digest) => slots.insert(id, Slot::Known(Arc::clone(digest))),
            // The next connection tries again.
            Err(_) => slots.remove(&id),
        };
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FileId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sha256(mut file: File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(crate::hex(&hash.finalize())),
            Ok(read) => hash.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(inode: u64) -> FileId {
        FileId { device: 1, inode, size: 3, ctime_s: 1, ctime_ns: 1 }
    }

    #[tokio::test]
    async fn a_state_of_a_file_is_hashed_once_and_others_are_not_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "abc").unwrap();
        let hasher = Hasher::default();
        let open = || File::open(&path).unwrap();
        let (one, two) = tokio::join!(hasher.digest(id(1), open()), hasher.digest(id(1), open()));
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((one.unwrap().as_ref(), two.unwrap().as_ref()), (expected, expected));
        assert_eq!(hasher.known(id(1)).as_deref(), Some(expected));
        assert_eq!(hasher.known(id(2)), None);

        let directory = File::open(dir.path()).unwrap();
        assert!(hasher.digest(id(3), directory).await.is_err());
        assert_eq!(hasher.known(id(3)), None, "a failure is not kept");
    }
}
