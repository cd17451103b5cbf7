//! Unix sockets: which names governed processes may connect to, once some database's are protected.
//!
//! A name says nothing by itself: a symbolic link or a mount can put any socket under any name. So names are allowed,
//! not forbidden, and only for processes whose root directory is the host's, where others cannot change what lies
//! under an allowed name.

/// Bytes of sun_path.
pub const UNIX_PATH_MAX: usize = 108;

/// Bytes for a name: a power of two, so that a masked length is one the verifier believes.
pub const UNIX_NAME: usize = 128;

/// A name in `UNIXALLOW`, zero-filled. An abstract one begins with its zero byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnixName {
    pub bytes: [u8; UNIX_NAME],
}

/// A path, complete: the key ends behind its zero byte.
pub const UNIX_PATH: u32 = 0;
/// What a path begins with; no further `/` may come behind it.
pub const UNIX_PATH_PREFIX: u32 = 1;
/// An abstract name, complete: `length` is its length.
pub const UNIX_ABSTRACT: u32 = 2;
/// What an abstract name begins with.
pub const UNIX_ABSTRACT_PREFIX: u32 = 3;

/// Value of `UNIXALLOW`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixRule {
    pub kind: u32,
    /// Bytes of the key that are the name or its beginning, without a zero byte behind.
    pub length: u32,
}

/// Root directories that count as the host's: the agent's own and the first process's.
pub const UNIX_ROOTS: usize = 2;

/// The one entry of `UNIXCFG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixConfig {
    /// Inode numbers of the root directories.
    pub root_inodes: [u64; UNIX_ROOTS],
    /// Ids of the mounts they are on (proc_pid_mountinfo(5)).
    pub root_mounts: [u32; UNIX_ROOTS],
    /// 0: nothing is protected, and everything passes.
    pub active: u32,
    pub pad: u32,
}

const _: () = {
    assert!(size_of::<UnixName>() == UNIX_NAME);
    assert!(size_of::<UnixRule>() == 8);
    assert!(size_of::<UnixConfig>() == 32);
};

#[cfg(feature = "user")]
mod pod {
    use super::{UnixConfig, UnixName, UnixRule};

    macro_rules! pod {
        ($($name:ident),*) => {$(
            // SAFETY: repr(C), integers and bytes only, padding spelled out (the sizes are asserted above): every bit
            // pattern is a value and no byte is uninitialised.
            unsafe impl aya::Pod for $name {}
        )*};
    }
    pod!(UnixConfig, UnixName, UnixRule);
}
