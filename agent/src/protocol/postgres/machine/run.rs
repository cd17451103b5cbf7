//! A statement that is running on the server: what it has returned so far, and how that is served.

use std::sync::Arc;

use super::super::copy::CopyMasker;
use super::super::plan::Plan;
use super::super::rows::{Cell, Origins};
use super::named::Definition;
use super::streams::Streams;
use super::{Expect, Limit, Machine, Outcome, Portal, Prepared};

/// A statement that is running on the server.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) op: u64,
    pub(super) plan: Arc<Plan>,
    /// Which statement of the plan is answering.
    pub(super) index: usize,
    pub(super) cells: Option<Arc<[Cell]>>,
    pub(super) statement: Option<Arc<Prepared>>,
    /// The portal it executes, where its own description would not say in which formats.
    pub(super) portal: Option<Arc<Portal>>,
    /// Names it defines when its statements complete, by statement.
    pub(super) defines: Vec<(usize, Definition)>,
    pub(super) copy: Option<CopyMasker>,
    pub(super) copying_out: bool,
    /// A FunctionCall.
    pub(super) call: bool,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) masked_cells: u64,
    /// The limit it came to: what it returns from then on is dropped.
    pub(super) cut: Option<Limit>,
    /// Something was dropped.
    pub(super) dropped: bool,
    /// Set for a stream of replication.
    pub(super) streams: Option<Box<Streams>>,
}

impl Run {
    pub(super) fn new(
        op: u64,
        plan: Arc<Plan>,
        statement: Option<Arc<Prepared>>,
        cells: Option<Arc<[Cell]>>,
    ) -> Self {
        Self {
            op,
            plan,
            index: 0,
            cells,
            statement,
            portal: None,
            defines: Vec::new(),
            copy: None,
            copying_out: false,
            call: false,
            rows: 0,
            bytes: 0,
            masked_cells: 0,
            cut: None,
            dropped: false,
            streams: None,
        }
    }

    pub(super) fn outcome(&mut self, tag: String, sqlstate: Option<String>) -> Outcome {
        let outcome = Outcome {
            op: self.op,
            rows: std::mem::take(&mut self.rows),
            bytes: std::mem::take(&mut self.bytes),
            masked_cells: std::mem::take(&mut self.masked_cells),
            tag,
            sqlstate,
            streamed: self.streams.take().map(|streams| Box::new(streams.end())),
            at: 0,
        };
        self.cut = None;
        self.dropped = false;
        self.cells = None;
        self.copy = None;
        self.copying_out = false;
        outcome
    }
}

impl<O: Origins> Machine<O> {
    /// What is still running when the session ends, for the record.
    pub fn abandoned(&mut self) -> Vec<Outcome> {
        self.expect
            .iter_mut()
            .filter_map(|expect| match expect {
                Expect::Execute(run) | Expect::Query { run, failed: false } => {
                    Some(run.outcome("(connection ended)".into(), None))
                }
                _ => None,
            })
            .collect()
    }
}
