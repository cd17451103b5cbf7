//! Chaperone's kernel programs. One file per hook; `maps` has the state, `policy` says who is asking, `netns`
//! where there is a listener, `report` counts and tells. Enforcement depends on maps only, never on an event stream.
//!
//! In the order a connection meets them: `create`, `bind`, `connect`, `sockops`, `egress`, `lookup`, `accepted`,
//! `getpeername`; datagrams meet `sendmsg` instead of `connect`, unix sockets `unix`, raw capabilities `guard`. Beside them `process` and `cgroup` keep, from
//! tracepoints, who runs what and what cgroups are called.
//!
//! Context words are read once, volatile, into locals: a conditional read compiled into arithmetic on the context
//! pointer is refused by the verifier. The address family is the hook's, never the context's (`AF_INET6` sockets
//! reach the IPv4 hooks).
//!
//! On other targets than BPF this is a program that does nothing, so that lints can read it there.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

mod accepted;
mod address;
mod bind;
mod cgroup;
mod connect;
mod create;
mod egress;
mod getpeername;
mod guard;
mod lookup;
mod maps;
mod netns;
mod policy;
mod process;
mod report;
mod sendmsg;
mod sockops;
mod task;
mod unix;

/// The helpers that matter are reserved for programs under a GPL-compatible licence; the dual form says so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// Never reached: the programs are compiled to abort, and the verifier would refuse a call.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
