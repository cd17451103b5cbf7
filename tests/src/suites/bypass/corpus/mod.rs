//! The techniques, a table for each family.

mod datagrams;
mod kinds;
mod others;
mod streams;

use super::technique::Technique;

/// All techniques, in the order they are reported.
pub(super) fn all() -> impl Iterator<Item = &'static Technique> {
    [streams::TECHNIQUES, datagrams::TECHNIQUES, kinds::TECHNIQUES, others::TECHNIQUES].into_iter().flatten()
}

/// Files of tests/attacks, as they lie beside each other at run time.
pub(super) const SOURCES: &[(&str, &str)] = &[
    ("common.py", include_str!("../../../../attacks/common.py")),
    ("datagrams.py", include_str!("../../../../attacks/datagrams.py")),
    ("handover.py", include_str!("../../../../attacks/handover.py")),
    ("kinds.py", include_str!("../../../../attacks/kinds.py")),
    ("streams.py", include_str!("../../../../attacks/streams.py")),
    ("uring.c", include_str!("../../../../attacks/uring.c")),
];

/// Programs compiled from them: name, source, flags for the compiler.
pub(super) const PROGRAMS: &[(&str, &str, &[&str])] = &[("uring", "uring.c", &[])];
