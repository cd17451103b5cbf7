//! Offsets of kernel structures, read from the running kernel's BTF.
//!
//! aya relocates nothing for programs written in Rust; libbpf's reader is used to find the few members we need.

use std::ffi::{CStr, CString, c_char};

use libbpf_sys as bpf;

/// Byte offset of `member` in `structure`, also when it lies in an anonymous struct or union of it; `None` when the
/// kernel has no BTF or no such member.
pub(super) struct KernelTypes {
    btf: *mut bpf::btf,
}

impl KernelTypes {
    /// `None` when the kernel was built without BTF.
    pub(super) fn load() -> Option<Self> {
        // SAFETY: takes nothing, returns null (with errno) or an object that `drop` frees.
        let btf = unsafe { bpf::btf__load_vmlinux_btf() };
        (!btf.is_null()).then_some(Self { btf })
    }

    pub(super) fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let name = CString::new(structure).ok()?;
        // SAFETY: `btf` is live and `name` is a terminated string that outlives the call.
        let id = unsafe { bpf::btf__find_by_name_kind(self.btf, name.as_ptr(), bpf::BTF_KIND_STRUCT) };
        let (bits, _kind) = self.member_bits(u32::try_from(id).ok()?, member, 0)?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// As [`Self::nested`], also under the name that older kernels have for it.
    pub(super) fn member(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let older: &[&[&str]] = match path {
            // 6.6 to 6.10; before.
            ["i_ctime_sec"] => &[&["__i_ctime", "tv_sec"], &["i_ctime", "tv_sec"]],
            ["i_ctime_nsec"] => &[&["__i_ctime", "tv_nsec"], &["i_ctime", "tv_nsec"]],
            _ => &[],
        };
        self.nested(structure, path).or_else(|| older.iter().find_map(|path| self.nested(structure, path)))
    }

    /// The offset of a member of a member: structs by value, one after the other.
    fn nested(&self, structure: &str, path: &[&str]) -> Option<u32> {
        let name = CString::new(structure).ok()?;
        // SAFETY: `btf` is live and `name` is a terminated string that outlives the call.
        let id = unsafe { bpf::btf__find_by_name_kind(self.btf, name.as_ptr(), bpf::BTF_KIND_STRUCT) };
        let mut kind = u32::try_from(id).ok()?;
        let mut sum = 0;
        for member in path {
            let (bits, inner) = self.member_bits(self.plain(kind)?, member, 0)?;
            sum += bits;
            kind = inner;
        }
        (sum % 8 == 0).then_some(sum / 8)
    }

    /// Without typedefs and qualifiers.
    fn plain(&self, kind: u32) -> Option<u32> {
        // SAFETY: `btf` is live; an unknown id gives an error.
        u32::try_from(unsafe { bpf::btf__resolve_type(self.btf, kind) }).ok()
    }

    /// Bit offset and type of a member.
    fn member_bits(&self, structure: u32, wanted: &str, depth: u32) -> Option<(u32, u32)> {
        // Nesting of anonymous structs; the limit only guards against a malformed loop.
        if depth > 8 {
            return None;
        }
        self.members(structure)?.into_iter().find_map(|Member { name, kind, bits }| {
            if name == wanted {
                return Some((bits, kind));
            }
            let inner = if name.is_empty() { self.member_bits(kind, wanted, depth + 1) } else { None };
            inner.map(|(inner, kind)| (bits + inner, kind))
        })
    }

    fn members(&self, structure: u32) -> Option<Vec<Member>> {
        // SAFETY: `btf` is live; an unknown id gives null.
        let header = unsafe { bpf::btf__type_by_id(self.btf, structure).as_ref() }?;
        let (count, kind, flagged) =
            (header.info & 0xffff, (header.info >> 24) & 0x1f, header.info >> 31 == 1);
        if kind != bpf::BTF_KIND_STRUCT && kind != bpf::BTF_KIND_UNION {
            return None;
        }
        // SAFETY: a struct's or union's header is followed by `count` members in the same buffer, which libbpf
        // checked when it parsed it and which lives as long as `btf`.
        let raw: &[bpf::btf_member] =
            unsafe { std::slice::from_raw_parts(std::ptr::from_ref(header).add(1).cast(), count as usize) };
        let named = raw.iter().map(|member| Member {
            name: self.name(member.name_off),
            kind: member.type_,
            // With the flag set the upper byte is a bit field's size.
            bits: if flagged { member.offset & 0x00ff_ffff } else { member.offset },
        });
        Some(named.collect())
    }

    fn name(&self, offset: u32) -> String {
        // SAFETY: `btf` is live; an unknown offset gives null.
        let name: *const c_char = unsafe { bpf::btf__name_by_offset(self.btf, offset) };
        if name.is_null() {
            return String::new();
        }
        // SAFETY: libbpf returns a terminated string that lives as long as `btf`.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    }
}

impl Drop for KernelTypes {
    fn drop(&mut self) {
        // SAFETY: made by `load`, freed only here.
        unsafe { bpf::btf__free(self.btf) };
    }
}

struct Member {
    name: String,
    kind: u32,
    bits: u32,
}

#[cfg(test)]
mod tests {
    use chaperone_ebpf::process::Offsets;

    use super::*;

    /// Compiles against the build machine's kernel: every kernel Chaperone supports has these, with BTF.
    #[test]
    fn members_are_found_and_unknown_ones_are_not() {
        let Some(types) = KernelTypes::load() else {
            // A kernel without BTF has nothing to find; that the loader says so is all there is to test.
            assert!(!std::path::Path::new("/sys/kernel/btf/vmlinux").exists());
            return;
        };
        assert_eq!(types.offset("list_head", "prev"), Some(8));
        assert!(types.offset("task_struct", "start_boottime").is_some_and(|offset| offset > 0));
        assert!(types.offset("task_struct", "group_leader").is_some_and(|offset| offset > 0));
        assert_eq!(types.offset("task_struct", "no_such_member"), None);
        assert_eq!(types.offset("no_such_struct", "prev"), None);
        assert_eq!(types.nested("list_head", &["prev"]), Some(8));
        let path = types.offset("file", "f_path").unwrap();
        assert_eq!(types.nested("file", &["f_path", "dentry"]), Some(path + 8));
        assert_eq!(types.nested("file", &["f_path", "no_such_member"]), None);
        let offsets = Offsets::find(|structure, path| types.member(structure, path)).unwrap();
        assert_eq!(Some(offsets.task_start_boottime), types.offset("task_struct", "start_boottime"));
    }
}
