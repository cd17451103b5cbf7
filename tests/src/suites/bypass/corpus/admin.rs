//! What root with CAP_NET_ADMIN may do to packets in a container's network namespace.

use super::super::technique::Record::{Kernel, SessionRefused};
use super::super::technique::Seat::Admin;
use super::super::technique::{Attack, Record, Technique};

const PROGRAM: Attack = Attack::Python("admin.py");
const NET: &[Record] = &[Kernel("dropped_egress")];
/// The redirected connection comes to the agent, or ends before.
const HELD: &[Record] = &[SessionRefused, Kernel("unserved")];

pub(super) const TECHNIQUES: &[Technique] = &[
    silent("dnat-output", "NAT on the way out: elsewhere becomes the target", NET),
    silent("dnat-listener", "NAT of the redirected connection: the listener becomes the target", NET),
    silent("mangle", "addresses rewritten after routing", NET),
    silent("transparent", "a source address that is not ours (IP_TRANSPARENT)", HELD),
    silent("marks", "every mark that tools of this kind let pass", HELD).sees(&["answered FATAL 28000"]),
    silent("loopback-away", "loopback led out of the container", HELD),
    silent("tcp-repair", "a connection put together by hand (TCP_REPAIR)", HELD).sees(&[
        "answered FATAL 28000",
        "silent",
        "refused",
        "closed",
    ]),
];

const fn silent(name: &'static str, says: &'static str, records: &'static [Record]) -> Technique {
    Technique::new(name, says, Admin, PROGRAM, &["silent"], records)
}
