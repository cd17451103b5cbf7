//! COPY as the server tells of it: that it begins, which way, and the rows it sends.

use std::sync::Arc;

use bytes::BytesMut;

use super::super::codec::{Fields, Header};
use super::super::copy::CopyMasker;
use super::super::plan::{Copy, Output};
use super::super::rows::{Mismatch, Origins};
use super::super::watch::Place;
use super::server::Act;
use super::{CopyIn, Expect, Fatal, Machine};
use crate::record::raw::{Line, Value};

impl<O: Origins> Machine<O> {
    pub(super) fn copy_begins(&mut self, tag: u8, mut fields: Fields<'_>) -> Result<Act, Fatal> {
        let looking = self.looking.is_some();
        self.stream_begins();
        let run = self.running().ok_or(Fatal::OutOfTurn(tag))?;
        let plan = Arc::clone(&run.plan);
        let statement = plan.statement(run.index).ok_or(Mismatch::Unexpected)?;
        match (&statement.copy, tag) {
            (_, b'H') if plan.unread => run.copying_out = true,
            (Some(Copy::Out(format)), b'H') => {
                fields.u8().map_err(Fatal::Upstream)?;
                let count = usize::try_from(fields.i16().map_err(Fatal::Upstream)?).unwrap_or(0);
                let masks = match &statement.output {
                    Output::Columns(masks) if masks.len() != count => {
                        return Err(Mismatch::Count { described: count, planned: masks.len() }.into());
                    }
                    Output::Columns(masks) => masks.clone(),
                    Output::Nothing | Output::Opaque | Output::OfName => vec![None; count],
                };
                if looking || masks.iter().any(Option::is_some) {
                    run.copy = Some(CopyMasker::new(format.clone(), masks).looking(looking));
                }
                run.copying_out = true;
            }
            (copy, b'G') if plan.unread || *copy == Some(Copy::In) => {
                self.copy_in = CopyIn::Open;
                // Syncs that were sent along with the Execute are read in COPY mode and ignored.
                while matches!(self.expect.get(1), Some(Expect::Sync)) {
                    self.expect.remove(1);
                }
                if matches!(self.expect.front(), Some(Expect::Execute(_))) && self.expect.len() > 1 {
                    return Err(Fatal::Unsupported("pipelining behind COPY FROM STDIN"));
                }
            }
            _ => return Err(Mismatch::Unexpected.into()),
        }
        Ok(Act::Pass)
    }

    /// A stream of replication: rows one way, the client's word of how far it is the other way.
    pub(super) fn copy_both_begins(&mut self) -> Result<Act, Fatal> {
        let run = self.running().filter(|run| run.plan.replicates()).ok_or(Fatal::OutOfTurn(b'W'))?;
        run.copying_out = true;
        self.copy_in = CopyIn::Open;
        self.stream_begins();
        Ok(Act::Pass)
    }

    pub(super) fn copy_data(
        &mut self,
        header: Header,
        body: Option<&[u8]>,
        out: &mut BytesMut,
    ) -> Result<Act, Fatal> {
        let run = self.running().filter(|run| run.copying_out).ok_or(Fatal::OutOfTurn(b'd'))?;
        if run.copy.is_some() && body.is_none() && run.cut.is_none() {
            return Ok(Act::Incomplete);
        }
        let newly = run.cut.is_none();
        if !run.count_row(header.total as u64) {
            self.cancel_due |= newly;
            return Ok(Act::Dropped);
        }
        if run.copy.is_none() {
            run.bytes += header.total as u64;
            self.streamed_to_client(body.unwrap_or_default());
            return Ok(Act::Pass);
        }
        let Some(body) = body else { return Ok(Act::Incomplete) };
        let Some(masker) = &mut run.copy else { return Ok(Act::Incomplete) };
        let masked = masker.put(out, body)?;
        let found = masker.take_found();
        run.masked_cells += masked;
        run.bytes += out.len() as u64;
        if run.plan.seals && masked > 0 {
            let copy = Value::of(Some(body), masker.is_binary());
            let line = Line::Copied { op: run.op, part: run.index, row: run.rows, copy };
            line.put(&mut self.raw);
        }
        if let (Some(looking), Some(kind)) = (&mut self.looking, found) {
            looking.tell(Place::Copy, kind);
        }
        Ok(Act::Replaced)
    }
}
