//! EXECUTE, FETCH and MOVE: what they do is what their name stands for when they run. A text that uses names is decided
//! as if it held what was prepared or declared under them.

use std::collections::HashMap;
use std::sync::Arc;

use chaperone_sql::{Access, Class, Flag, NameOp, Output, Statement, Verb};

use super::{Decider, changed_meanwhile, plan_of};
use crate::protocol::postgres::machine::{Found, Named, Prepared};
use crate::protocol::postgres::plan::{Names, Plan, Verdict};
use crate::protocol::postgres::relay::End;
use crate::protocol::postgres::response::{Report, sqlstate};
use crate::protocol::postgres::settings::ReadUnder;

/// What a text with names came to.
pub(super) enum Linked {
    Plan(Plan),
    /// A name depends on an answer the server has not given yet.
    Wait,
    Deny(Report),
}

/// What a name stands for.
enum Meaning {
    /// What was analysed under it; whether it is a declared cursor; the text that defined it, if another one did.
    This {
        of: Arc<Plan>,
        declared: bool,
        text: Option<(Arc<str>, ReadUnder)>,
    },
    /// Nothing the session defined.
    Unknown,
    Unsettled,
    Changed,
}

/// Names that statements earlier in the same text define or take away; it stops at the first that fails.
#[derive(Default)]
struct Local<'a> {
    names: HashMap<&'a str, Option<Arc<Plan>>>,
    cleared: bool,
}

impl<'a> Local<'a> {
    fn find(&self, name: &str) -> Option<Meaning> {
        match self.names.get(name) {
            Some(Some(of)) => Some(Meaning::This { of: Arc::clone(of), declared: true, text: None }),
            Some(None) => Some(Meaning::Unknown),
            None => self.cleared.then_some(Meaning::Unknown),
        }
    }

    fn clear(&mut self) {
        self.names.clear();
        self.cleared = true;
    }
}

impl Decider {
    /// The plan of a text with what its names stand for in their place.
    pub(super) async fn link(&mut self, plan: &Arc<Plan>, names: &impl Named) -> Result<Linked, End> {
        let (mut statements, mut settled) = (Vec::new(), Vec::new());
        let (mut texts, mut read_under) = (Vec::new(), Vec::new());
        let (mut prepared, mut cursors) = (Local::default(), Local::default());
        for (statement, planned) in plan.analysis.iter().zip(&plan.statements) {
            let meaning = match (&statement.names, &planned.names) {
                (NameOp::Prepare { name, .. }, Names::Prepare(_, of)) => {
                    prepared.names.insert(name, Some(Arc::clone(of)));
                    None
                }
                (NameOp::DeclareCursor { name, .. }, Names::Declare { of, .. }) => {
                    cursors.names.insert(name, Some(Arc::clone(of)));
                    None
                }
                (NameOp::Deallocate(Some(name)), _) => prepared.names.insert(name, None).and(None),
                (NameOp::CloseCursor(Some(name)), _) => cursors.names.insert(name, None).and(None),
                (NameOp::Deallocate(None), _) => {
                    prepared.clear();
                    None
                }
                (NameOp::CloseCursor(None), _) => {
                    cursors.clear();
                    None
                }
                (NameOp::Execute(name), _) => Some(match prepared.find(name) {
                    Some(meaning) => meaning,
                    None => self.meaning(names.statement(name), |it| (it, false, &it.read_under)).await?,
                }),
                (NameOp::Fetch { name, .. }, _) => Some(match cursors.find(name) {
                    Some(meaning) => meaning,
                    None => {
                        let found = names.portal(name);
                        self.meaning(found, |it| (&*it.statement, it.cursor.is_some(), &it.read_under))
                            .await?
                    }
                }),
                _ => None,
            };
            let fetches = matches!(statement.names, NameOp::Fetch { .. });
            settled.push(match &meaning {
                // Its rows were decided on, and held if need be, when the cursor was declared.
                Some(Meaning::This { declared, .. }) => fetches && *declared,
                _ => matches!(statement.names, NameOp::Prepare { .. }),
            });
            statements.push(match meaning {
                None => statement.clone(),
                Some(Meaning::Unsettled) => return Ok(Linked::Wait),
                Some(Meaning::Changed) => return Ok(Linked::Deny(changed_meanwhile())),
                Some(Meaning::This { of, text, declared }) => {
                    if let Some((text, under)) = text {
                        texts.push(text);
                        // A cursor's values were read when it was declared, and held there if need be.
                        read_under.extend((!(fetches && declared)).then_some(under));
                    }
                    match of.analysis.first().and_then(|of| joined(statement, of)) {
                        Some(joined) => joined,
                        None => return Ok(Linked::Deny(not_a_query())),
                    }
                }
                // Where something is masked, what was not analysed is not run. Where nothing is, the name can come
                // from a function, which was permitted to do anything; using it is asked for as much.
                Some(Meaning::Unknown) if self.guarded() => return Ok(Linked::Deny(unknown(statement))),
                Some(Meaning::Unknown) => opaque(statement),
            });
        }
        if plan.version != self.version() {
            // A name made the catalogue be read again: what was analysed before it may be wrong now.
            return Ok(Linked::Deny(changed_meanwhile()));
        }
        let inner: Vec<_> =
            plan.statements.iter().map(|statement| statement.names.defined().cloned()).collect();
        let decision = self.decide_but(&statements, |index, _| settled.get(index).copied().unwrap_or(false));
        let linked = plan_of::decided(
            self.version(),
            &statements,
            &inner,
            &decision,
            self.rows_recorded(),
            &self.maskers,
        );
        Ok(Linked::Plan(Plan { linked: true, texts, read_under, ..linked }))
    }

    async fn meaning<T>(
        &mut self,
        found: Found<T>,
        of: impl for<'a> Fn(&'a T) -> (&'a Prepared, bool, &'a ReadUnder),
    ) -> Result<Meaning, End> {
        Ok(match found {
            Found::Nothing => Meaning::Unknown,
            Found::Unsettled => Meaning::Unsettled,
            Found::This(value) => {
                let (prepared, declared, under) = of(&value);
                match self.current(prepared).await? {
                    Ok(of) => {
                        Meaning::This { of, declared, text: Some((Arc::clone(&prepared.sql), under.clone())) }
                    }
                    Err(_) => Meaning::Changed,
                }
            }
        })
    }

    /// The plan of what was prepared, under the policy and the catalogue of now; a report when they read it otherwise.
    pub(super) async fn current(&mut self, prepared: &Prepared) -> Result<Result<Arc<Plan>, Report>, End> {
        let before = &prepared.plan;
        if before.version == self.version() {
            return Ok(Ok(Arc::clone(before)));
        }
        let whole = self.plan(&prepared.sql).await?;
        let now = match prepared.part {
            None => Some(whole),
            Some(part) => whole.statements.get(part).and_then(|statement| statement.names.defined().cloned()),
        };
        // After a catalogue was read to find a name, the version may be another than it was above.
        Ok(match now {
            Some(now) if now.version == before.version => Ok(Arc::clone(before)),
            Some(now) if now.statements == before.statements => Ok(now),
            Some(now) if matches!(now.verdict, Verdict::Deny(_)) && now.statements.is_empty() => Ok(now),
            _ => Err(changed_meanwhile()),
        })
    }
}

/// The statement as if it were what its name stands for; `None` when that is no query.
fn joined(statement: &Statement, of: &Statement) -> Option<Statement> {
    let query =
        matches!(of.class, Class::Select | Class::Insert | Class::Update | Class::Delete | Class::Merge);
    if !query || of.copy.is_some() {
        return None;
    }
    let mut joined = statement.clone();
    for access in &of.accesses {
        if !joined.accesses.contains(access) {
            joined.accesses.push(access.clone());
        }
    }
    joined.flags.extend(of.flags.iter().cloned());
    joined.strict |= of.strict;
    joined.sets |= of.sets;
    if statement.output == Output::OfName {
        joined.output = of.output.clone();
    }
    Some(joined)
}

/// A use of a name that only the server knows, where nothing is masked.
fn opaque(statement: &Statement) -> Statement {
    let mut opaque = statement.clone();
    opaque.accesses.push(Access { action: Verb::Call, relation: None });
    opaque.flags.insert(Flag::Opaque);
    if opaque.output == Output::OfName {
        opaque.output = Output::CleanRows;
    }
    opaque
}

fn unknown(statement: &Statement) -> Report {
    match &statement.names {
        NameOp::Fetch { name, .. } => Report::new("34000", format!("cursor \"{name}\" does not exist")),
        NameOp::Execute(name) => {
            Report::new("26000", format!("prepared statement \"{name}\" does not exist"))
        }
        _ => not_a_query(),
    }
}

fn not_a_query() -> Report {
    Report::new(
        sqlstate::FEATURE_NOT_SUPPORTED,
        "EXECUTE and FETCH work for SELECT, INSERT, UPDATE, DELETE and MERGE",
    )
}
