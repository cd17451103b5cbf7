//! Decides what a non-human identity may do, from Cedar policies and nothing else.
//!
//! Request in, decision and the ids of the policies that decided out. No clock, no files, no network, no log: the
//! caller reads the sources, says how old an approval is, and records the answer. Every doubt is a denial.
//!
//! ```text
//! load         sources -> PolicySet      all of them or none, and everything that is wrong at once
//! reader       one source -> rules       strict: schema, ids, annotations, entity ids
//! problem      what can be wrong         place, rule, problem, hint
//! annotation   @approval, @max_rows ...  as typed -> as meant
//! vocabulary   Action, Flag, ...         the closed lists, equal to schema.cedarschema (a test holds them together)
//! entity       Principal, Resource       names -> Cedar entities, built once and shared
//! workload     Workload                  the process a principal acts through -> the context of every request
//! context      what is known of a request -> Cedar's context
//! index        which rules can apply     by action, principal and resource, so that 10,000 rules stay fast
//! decide       Request -> Decision       forbid over hold over permit, and nothing without a permit
//! kept         decisions by their facts  what was decided is not decided again
//! combine      several decisions -> one  a statement that touches several tables
//! world        rules that never match    names nobody defines
//! ```
//!
//! The language is described for operators in this package's README.md.
#![forbid(unsafe_code)]

mod annotation;
mod combine;
mod context;
mod decide;
mod entity;
mod hints;
mod index;
mod kept;
mod load;
mod position;
mod problem;
mod reader;
mod vocabulary;
mod workload;
mod world;

pub use annotation::ApprovalNeed;
pub use combine::combine;
pub use decide::{Approval, Approving, Cause, Decision, Effect, Forward, HostFacts, Obligations, Request};
pub use entity::{Database, Kind, Principal, Resource, account};
pub use kept::Kept;
pub use load::{PolicySet, Source};
pub use problem::{LoadError, LoadErrors, Problem};
pub use vocabulary::{Action, Flag, MaskWith, RecordMode, UnknownName};
pub use workload::Workload;
pub use world::{Finding, World};

/// The schema every policy is checked against.
pub const SCHEMA: &str = include_str!("../schema.cedarschema");

/// A starter set that is safe for AI agents as it stands, as (file name, text).
pub const STARTER: &[(&str, &str)] = &[("ai-agents.cedar", include_str!("../starter/ai-agents.cedar"))];
