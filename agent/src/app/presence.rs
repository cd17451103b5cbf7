//! Whether the kernel programs that an agent left in force are still there when the next one comes. Root on the host can
//! remove the pins of a dead agent, and with them everything; nothing can record that while it happens.

use std::fs;
use std::path::{Path, PathBuf};

use crate::intercept::Attached;

/// What is in force, and since which boot: with the machine, the programs go.
fn said(bpffs: &Path) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{}\n{}\n{}\n", boot.trim(), bpffs.display(), env!("CARGO_PKG_VERSION"))
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("in-force")
}

/// What is wrong with what an agent of this version left in this boot, as found when the programs were attached.
pub(super) fn gone(state_dir: &Path, bpffs: &Path, attached: Attached) -> Option<String> {
    let left = fs::read_to_string(file(state_dir)).ok()?;
    // Those that were attached elsewhere were there.
    let missing = attached.fresh.saturating_sub(attached.moved);
    if left != said(bpffs) || missing == 0 {
        return None;
    }
    let all = attached.fresh + attached.taken_over;
    Some(format!("{missing} of {all} kernel programs were gone, which an agent had left in force"))
}

/// From now on the programs are in force until somebody lets go.
pub(super) fn note(state_dir: &Path, bpffs: &Path) {
    if let Err(error) = fs::write(file(state_dir), said(bpffs)) {
        tracing::warn!(%error, "should the kernel programs be removed while no agent runs, the next one will not know");
    }
}

/// Somebody let go who may.
pub fn forget(state_dir: &Path) {
    if let Err(error) = fs::remove_file(file(state_dir))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the next agent will say that the kernel programs were taken away");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_were_left_and_are_gone_are_missed_until_somebody_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let (here, pins) = (dir.path(), Path::new("/sys/fs/bpf/x"));
        let found = |fresh, taken_over, moved| gone(here, pins, Attached { fresh, taken_over, moved });
        assert_eq!(found(19, 0, 0), None, "nobody has left anything yet");
        note(here, pins);
        assert_eq!(found(0, 19, 0), None);
        assert_eq!(found(2, 17, 2), None, "attached elsewhere");
        assert!(found(19, 0, 0).unwrap().starts_with("19 of 19"));
        assert!(found(1, 18, 0).unwrap().starts_with("1 of 19"));
        assert_eq!(
            gone(here, Path::new("/sys/fs/bpf/y"), Attached { fresh: 19, taken_over: 0, moved: 0 }),
            None
        );
        fs::write(file(here), said(pins).replace(env!("CARGO_PKG_VERSION"), "0.0.0")).unwrap();
        assert_eq!(found(1, 18, 0), None, "another version may have had fewer");
        forget(here);
        forget(here);
        assert_eq!(found(19, 0, 0), None);
    }
}
