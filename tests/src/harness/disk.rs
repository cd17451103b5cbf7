//! Small disks of our own: an ext4 image behind a loop device, on a tmpfs that can be filled up behind its back.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::spawn::Program;

/// Whether the file system keeps a journal of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// None, so that there is less on the disk than what is written to it.
    Plain,
    /// One, so that what was synced stays whole whatever writes fail after it.
    Journaled,
}

/// A file system with so and so many bytes, mounted where it is asked to be; it goes with this value.
pub(crate) struct LoopDisk {
    at: PathBuf,
    /// The tmpfs that holds the image.
    below: PathBuf,
}

impl LoopDisk {
    /// `kib` for the file system; what is below has room for `room_kib` of it.
    pub(crate) fn mount(below: PathBuf, at: &Path, kib: u64, room_kib: u64, kind: Kind) -> Result<Self> {
        let options = format!("size={room_kib}k,mode=0700");
        mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .context("mounting a small tmpfs")?;
        let disk = Self { at: at.to_owned(), below };
        let image = disk.image();
        fs::File::create(&image)?.set_len(kib << 10)?;
        let journal = match kind {
            Kind::Plain => "^has_journal",
            Kind::Journaled => "has_journal",
        };
        let options = ["-q", "-F", "-m", "0", "-O", journal];
        Program::new("/usr/sbin/mkfs.ext4").args(options).args([&image]).limit(20).run()?.ok()?;
        disk.attach()?;
        Ok(disk)
    }

    fn image(&self) -> PathBuf {
        self.below.join("image")
    }

    fn attach(&self) -> Result<()> {
        // The loop device goes when it is unmounted.
        Program::new("/usr/bin/mount")
            .args(["-t", "ext4", "-o", "loop,errors=continue"])
            .args([&self.image(), &self.at])
            .limit(20)
            .run()?
            .ok()
            .map(drop)
    }

    /// Takes all room from below: what the file system believes to have, it cannot write any more.
    pub(crate) fn starve(&self) -> Result<()> {
        let mut file = fs::File::create(self.below.join("filler"))?;
        for chunk in [1 << 16, 1 << 12] {
            while file.write_all(&vec![0; chunk]).is_ok() {}
        }
        Ok(())
    }

    pub(crate) fn feed(&self) -> Result<()> {
        fs::remove_file(self.below.join("filler")).context("removing the filler")
    }

    /// What a power cut would leave now, mounted at `at`: what the disk has, without what the kernel has yet to write.
    pub(crate) fn snapshot(&self, at: &Path) -> Result<Snapshot> {
        let copy = self.below.join("snapshot");
        fs::copy(self.image(), &copy).context("copying the disk")?;
        let mounted = Program::new("/usr/bin/mount")
            .args(["-t", "ext4", "-o", "loop,ro"])
            .args([copy.as_path(), at])
            .limit(20)
            .run()?
            .ok();
        let snapshot = Snapshot { at: at.to_owned() };
        fs::remove_file(&copy)?;
        mounted.map(|_| snapshot)
    }

    /// Forgets everything the kernel holds of it, and looks at what is really there.
    pub(crate) fn remount(&self) -> Result<()> {
        umount2(&self.at, MntFlags::empty()).context("unmounting the small disk")?;
        self.attach()
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
        let _ = umount2(&self.below, MntFlags::MNT_DETACH);
    }
}

/// A disk as it was.
pub(crate) struct Snapshot {
    at: PathBuf,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}
