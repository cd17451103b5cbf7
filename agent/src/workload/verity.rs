//! The digest by which the kernel itself vouches for a file (fs-verity): whatever is read of such a file was checked
//! against it, and nobody, root included, can change the file or take the digest off again.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use nix::libc;

/// FS_IOC_MEASURE_VERITY (linux/fsverity.h): `_IOWR('f', 134, struct fsverity_digest)`, without the digest's own bytes.
const MEASURE: u64 = nix::request_code_readwrite!(b'f', 134, 4);

/// FS_VERITY_HASH_ALG_SHA256 and _SHA512.
const SHA256: u16 = 1;
const SHA512: u16 = 2;

/// Of the longest digest there is.
const LONGEST: usize = 64;

/// `struct fsverity_digest`, with room behind it.
#[repr(C)]
struct Measured {
    algorithm: u16,
    /// The room there is; the kernel puts the digest's length there.
    size: u16,
    digest: [u8; LONGEST],
}

/// `sha256:` (or `sha512:`) and the digest in hexadecimal, as `fsverity measure` prints it. `None` for a file without
/// one, on a file system or a kernel that has none, and for an algorithm that is not known here.
pub(super) fn measure(file: &File) -> Option<String> {
    let mut measured = Measured { algorithm: 0, size: LONGEST as u16, digest: [0; LONGEST] };
    // SAFETY: the descriptor is open, and the kernel writes the head and at most `size` bytes behind it, which
    // `measured` has.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), MEASURE as libc::Ioctl, &raw mut measured) };
    if status == 0 { written(&measured) } else { None }
}

fn written(measured: &Measured) -> Option<String> {
    let (name, length) = match measured.algorithm {
        SHA256 => ("sha256", 32),
        SHA512 => ("sha512", 64),
        _ => return None,
    };
    let digest = measured.digest.get(..length).filter(|_| usize::from(measured.size) == length)?;
    Some(format!("{name}:{}", crate::hex(digest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_the_one_of_the_kernel_header() {
        assert_eq!(MEASURE, 0xc004_6686);
        assert_eq!(std::mem::offset_of!(Measured, digest), 4);
    }

    #[test]
    fn a_file_without_a_digest_of_the_kernels_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tool");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(measure(&File::open(&path).unwrap()), None);
        assert_eq!(measure(&File::open(dir.path()).unwrap()), None);
        assert_eq!(measure(&File::open("/proc/self/exe").unwrap()), None, "this program is not sealed");
    }

    #[test]
    fn what_the_kernel_measured_is_written_as_others_write_it() {
        let measured = |algorithm, size| Measured { algorithm, size, digest: [0xab; LONGEST] };
        assert_eq!(written(&measured(1, 32)), Some(format!("sha256:{}", "ab".repeat(32))));
        assert_eq!(written(&measured(2, 64)), Some(format!("sha512:{}", "ab".repeat(64))));
        assert_eq!(written(&measured(3, 32)), None, "an algorithm of a later kernel");
        assert_eq!(written(&measured(1, 20)), None, "a length that is not the algorithm's");
    }
}
