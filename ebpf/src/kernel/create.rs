//! sock_create: no socket kind in a governed cgroup whose traffic the other hooks cannot judge.
//!
//! Raw sockets write their own headers; SCTP has address lists; MPTCP opens subflows (getpeername and the storage
//! would be about the wrong socket) and applications fall back to TCP when it is "not supported"; so with SMC.

use aya_ebpf::{Global, helpers::generated::bpf_set_retval, macros::cgroup_sock, programs::SockContext};
use chaperone_ebpf::Stat;

use crate::{
    address::Destination,
    maps::CFG,
    policy::{self, Standing},
    report,
};

const SOCK_RAW: u32 = 3;
const IPPROTO_SCTP: u32 = 132;
const IPPROTO_SMC: u32 = 256;
const IPPROTO_MPTCP: u32 = 262;
const EPROTONOSUPPORT: i32 = 93;

/// Set by the loader where the kernel has bpf_set_retval for this hook (5.18). Elsewhere the verifier prunes the
/// call, and callers get EPERM.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: Global<u32> = Global::new(0);

enum Outcome {
    Pass,
    /// Refused in a way that makes applications try plain TCP.
    Unsupported,
    Deny,
}

#[cgroup_sock(sock_create)]
pub(crate) fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the kernel hands the program a valid socket for the run of the program.
    let kind = unsafe { (&raw const (*ctx.sock).type_).read_volatile() };
    // SAFETY: as above.
    let protocol = unsafe { (&raw const (*ctx.sock).protocol).read_volatile() };
    let nowhere = Destination { addr: [0; 4], port: 0 };
    match try_create(kind, protocol) {
        Outcome::Pass => 1,
        Outcome::Unsupported => {
            report::refused(Stat::DeniedMptcp, &nowhere, protocol as u16);
            if HAS_SET_RETVAL.load() != 0 {
                // SAFETY: the helper sets what the caller of socket(2) sees.
                let _done = unsafe { bpf_set_retval(-EPROTONOSUPPORT) };
            }
            0
        }
        Outcome::Deny => {
            report::refused(Stat::DeniedSocketKind, &nowhere, protocol as u16);
            0
        }
    }
}

#[inline(always)]
fn try_create(kind: u32, protocol: u32) -> Outcome {
    let refusal = match (kind, protocol) {
        (_, IPPROTO_MPTCP | IPPROTO_SMC) => Outcome::Unsupported,
        (SOCK_RAW, _) | (_, IPPROTO_SCTP) => Outcome::Deny,
        _ => return Outcome::Pass,
    };
    let Some(config) = CFG.get(0) else { return refusal };
    match policy::current(config) {
        Standing::Agent | Standing::Bypassed => Outcome::Pass,
        Standing::Denied | Standing::Governed => refusal,
    }
}
