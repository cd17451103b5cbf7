//! Probes that no list of features answers: tiny programs are loaded for an attach type, or attached for an instant.
//!
//! `libbpf_probe_bpf_prog_type` says no to tracing programs on kernels where they work, and knows nothing of attach
//! types; so what is asked here is the thing itself.

use std::{
    ffi::CStr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use libbpf_sys as bpf;

/// Whether programs of this kind load for this attach type.
pub(super) fn loads(kind: bpf::bpf_prog_type, attach: bpf::bpf_attach_type) -> bool {
    load(kind, attach, 0).is_some()
}

/// Whether a raw tracepoint takes a program: attached, and let go of at once.
pub(super) fn attaches_to_tracepoint(name: &CStr) -> bool {
    let Some(program) = load(bpf::BPF_PROG_TYPE_RAW_TRACEPOINT, 0, 0) else { return false };
    // SAFETY: `name` is terminated and outlives the call; the descriptor is an open program.
    let link = unsafe { bpf::bpf_raw_tracepoint_open(name.as_ptr(), program.as_raw_fd()) };
    owned(link).is_some()
}

/// Whether a program loads for a tracepoint with typed arguments, which needs the kernel's BTF.
pub(super) fn loads_for_typed_tracepoint(name: &CStr) -> bool {
    // SAFETY: `name` is terminated and outlives the call.
    let id = unsafe { bpf::libbpf_find_vmlinux_btf_id(name.as_ptr(), bpf::BPF_TRACE_RAW_TP) };
    u32::try_from(id)
        .is_ok_and(|id| id > 0 && load(bpf::BPF_PROG_TYPE_TRACING, bpf::BPF_TRACE_RAW_TP, id).is_some())
}

/// `r0 = 1; exit` (for tracing `r0 = 0`), which every kind of program may be.
fn load(kind: bpf::bpf_prog_type, attach: bpf::bpf_attach_type, btf_id: u32) -> Option<OwnedFd> {
    const MOV64_IMMEDIATE: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    let mut program = [bpf::bpf_insn::default(), bpf::bpf_insn::default()];
    let [value, exit] = &mut program;
    value.code = MOV64_IMMEDIATE;
    value.imm = i32::from(kind != bpf::BPF_PROG_TYPE_TRACING);
    exit.code = EXIT;
    let mut options = bpf::bpf_prog_load_opts {
        sz: size_of::<bpf::bpf_prog_load_opts>() as bpf::size_t,
        expected_attach_type: attach,
        attach_btf_id: btf_id,
        ..Default::default()
    };
    // SAFETY: strings are terminated; `program` and `options` outlive the call, which copies what it keeps, and the
    // number of instructions is the array's.
    let fd = unsafe {
        bpf::bpf_prog_load(
            kind,
            c"probe".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as bpf::size_t,
            &raw mut options,
        )
    };
    owned(fd)
}

fn owned(fd: i32) -> Option<OwnedFd> {
    // SAFETY: a descriptor that a call has just returned, and nobody else has.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loading programs takes privileges; without them every answer is no, which is what is asserted then.
    #[test]
    fn what_does_not_exist_is_absent() {
        assert!(!loads(bpf::BPF_PROG_TYPE_CGROUP_SOCK_ADDR, 9999));
        assert!(!attaches_to_tracepoint(c"no_such_tracepoint"));
        assert!(!loads_for_typed_tracepoint(c"no_such_tracepoint"));
    }
}
