//! SHA-256 of executables: each state of a file once, beside the sessions and not in their way. Where the kernel vouches
//! for the content (fs-verity), each content once, in however many files it lies.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, watch};

use super::verity;
use crate::intercept::FileId;

/// Files hashed at the same time.
const AT_ONCE: usize = 2;

/// Longest a connection waits for the digest of its executable. The work goes on for those that come after it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Larger files are not hashed.
pub(super) const LARGEST: u64 = 2 << 30;

/// Digests kept.
const MOST_KEPT: usize = 4096;

type Outcome = Result<Digests, Arc<str>>;

/// What an executable holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digests {
    /// Hexadecimal.
    pub(super) sha256: Arc<str>,
    /// The kernel's own, when the file has one.
    pub(super) verity: Option<Arc<str>>,
}

enum Slot {
    Known(Digests),
    Underway(watch::Receiver<Option<Outcome>>),
}

#[derive(Clone)]
pub(super) struct Hasher {
    slots: Arc<Mutex<HashMap<FileId, Slot>>>,
    /// SHA-256 by the kernel's digest: what has the same one has the same bytes, or cannot be read.
    sealed: Arc<Mutex<HashMap<Arc<str>, Arc<str>>>>,
    places: Arc<Semaphore>,
    measure: fn(&File) -> Option<String>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self::measuring(verity::measure)
    }
}

impl Hasher {
    fn measuring(measure: fn(&File) -> Option<String>) -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        Self { slots: Arc::default(), sealed: Arc::default(), places, measure }
    }

    pub(super) fn known(&self, id: FileId) -> Option<Digests> {
        match self.lock().get(&id) {
            Some(Slot::Known(digests)) => Some(digests.clone()),
            Some(Slot::Underway(_)) | None => None,
        }
    }

    /// The digests of a file the caller knows to be in the state `id`.
    ///
    /// # Errors
    /// Why there is none; also when it takes too long.
    pub(super) async fn digest(&self, id: FileId, file: File) -> Outcome {
        let mut underway = match self.start(id, file) {
            Slot::Known(digests) => return Ok(digests),
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
            Some(Slot::Known(digests)) => return Slot::Known(digests.clone()),
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
        let hasher = self.clone();
        let worked = tokio::task::spawn_blocking(move || hasher.digests(file)).await;
        drop(place);
        let outcome: Outcome = match worked {
            Ok(Ok(digests)) => Ok(digests),
            Ok(Err(error)) => Err(format!("it could not be read: {error}").into()),
            Err(_panicked) => Err("hashing was given up".into()),
        };
        let mut slots = self.lock();
        match &outcome {
            Ok(digests) => slots.insert(id, Slot::Known(digests.clone())),
            // The next connection tries again.
            Err(_) => slots.remove(&id),
        };
        outcome
    }

    /// Reads the file, unless its content is known.
    fn digests(&self, file: File) -> io::Result<Digests> {
        let Some(verity) = (self.measure)(&file) else {
            return Ok(Digests { sha256: sha256(file)?.into(), verity: None });
        };
        let verity: Arc<str> = verity.into();
        let sealed = || self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = sealed().get(&verity).cloned();
        let sha256 = match known {
            Some(sha256) => sha256,
            None => sha256(file)?.into(),
        };
        let mut sealed = sealed();
        if sealed.len() >= MOST_KEPT {
            sealed.clear();
        }
        sealed.insert(Arc::clone(&verity), Arc::clone(&sha256));
        Ok(Digests { sha256, verity: Some(verity) })
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
        let digests = Digests { sha256: expected.into(), verity: None };
        assert_eq!((one.unwrap(), two.unwrap()), (digests.clone(), digests.clone()));
        assert_eq!(hasher.known(id(1)), Some(digests));
        assert_eq!(hasher.known(id(2)), None);

        let directory = File::open(dir.path()).unwrap();
        assert!(hasher.digest(id(3), directory).await.is_err());
        assert_eq!(hasher.known(id(3)), None, "a failure is not kept");
    }

    #[tokio::test]
    async fn what_the_kernel_vouches_for_is_read_once_wherever_it_lies() {
        // Stands for the kernel: all files are sealed, and the first letter tells with what.
        let hasher = Hasher::measuring(|file| {
            let mut first = [0];
            std::os::unix::fs::FileExt::read_at(file, &mut first, 0).unwrap();
            Some(format!("sha256:{:02x}", first[0]))
        });
        let dir = tempfile::tempdir().unwrap();
        let digest = async |number, bytes: &str| {
            let path = dir.path().join(bytes);
            std::fs::write(&path, bytes).unwrap();
            hasher.digest(id(number), File::open(&path).unwrap()).await.unwrap()
        };
        let first = digest(1, "abc").await;
        assert_eq!(first.verity.as_deref(), Some("sha256:61"));
        assert_eq!(hasher.known(id(1)), Some(first.clone()));
        // Other bytes could not have the same seal; that they get the digest of the first shows they were not read.
        assert_eq!(digest(2, "another").await, first);
        assert_ne!(digest(3, "bcd").await.sha256, first.sha256);
    }
}
