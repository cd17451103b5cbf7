//! What programs print, on its way to the client: masked, counted, and put down for the record as it goes out.

use super::super::flow::FlowError;
use super::super::typed::Typed;
use super::channel::{Stage, adjust, data};
use super::{Fatal, Machine, STDERR, UPSTREAM, framed_on, put_frame};
use crate::gate::Staged;
use crate::record::output::{self, Kind};
use crate::record::raw::{Line, Value};

/// Largest data message to a client that allows any.
const DATA_MAX: usize = 32 << 10;

impl Machine {
    /// Output of a program that runs on a channel.
    pub(super) fn output(
        &mut self,
        id: u32,
        extended: Option<u32>,
        bytes: &[u8],
        staged: &mut Staged,
    ) -> Result<(), Fatal> {
        let overrun = |source: FlowError| Fatal::Flow { side: UPSTREAM, source };
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        channel.to_client.received(bytes.len()).map_err(overrun)?;
        let Stage::Running(running) = &mut channel.stage else { return Ok(()) };
        match running.filter(extended.is_some()) {
            Some(filter) => {
                let clear = filter.push(bytes);
                if running.terms.seals {
                    let stream = if extended.is_some() { "stderr" } else { "stdout" }.to_owned();
                    let bytes = Value::of(Some(bytes), false);
                    Line::Printed { op: running.op, stream, bytes }.put(&mut self.raw);
                }
                self.serve(id, extended, &clear, staged);
            }
            None => self.serve(id, extended, bytes, staged),
        }
        Ok(())
    }

    /// No more output comes on a channel: what waited for the rest of a match goes.
    pub(super) fn output_ends(&mut self, id: u32, staged: &mut Staged) {
        for extended in [None, Some(STDERR)] {
            let Some(channel) = self.channels.get_mut(&id) else { return };
            let Stage::Running(running) = &mut channel.stage else { return };
            let Some(filter) = running.filter(extended.is_some()) else { return };
            let rest = filter.finish();
            self.serve(id, extended, &rest, staged);
        }
    }

    /// A number that stays the same while output waits and nothing comes to it; none when nothing waits.
    pub(in super::super) fn output_waits(&self) -> Option<u64> {
        let filters = self.channels.values().filter_map(|channel| match &channel.stage {
            Stage::Running(running) => running.filters.as_deref(),
            Stage::Opening | Stage::Idle | Stage::Asking(_) | Stage::Refused | Stage::Tunnel(_) => None,
        });
        filters
            .flatten()
            .filter(|filter| filter.waits())
            .map(super::super::mask::Filter::came)
            .reduce(u64::wrapping_add)
    }

    /// Nothing came to it for a while: what waits goes.
    pub(in super::super) fn output_pauses(&mut self, staged: &mut Staged) {
        let ids: Vec<u32> = self.channels.keys().copied().collect();
        for (id, extended) in ids.into_iter().flat_map(|id| [(id, None), (id, Some(STDERR))]) {
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            let Stage::Running(running) = &mut channel.stage else { continue };
            let Some(filter) = running.filter(extended.is_some()) else { continue };
            let rest = filter.flush();
            self.serve(id, extended, &rest, staged);
        }
    }

    /// The size of the terminal, for whoever plays the record, and for what is read off it.
    pub(super) fn say_size(&mut self, id: u32) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let (Stage::Running(running), Some(size)) = (&mut channel.stage, channel.terminal) else {
            return;
        };
        if running.terms.output {
            match &mut running.typed {
                Some(typed) => typed.resize(size),
                None => running.typed = Some(Box::new(Typed::new(size))),
            }
            let size = [size.0, size.1].map(u32::to_be_bytes).concat();
            output::put(&mut self.said, running.op, Kind::Size, &size);
        }
    }

    /// Bytes as the client gets them.
    fn serve(&mut self, id: u32, extended: Option<u32>, bytes: &[u8], staged: &mut Staged) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Stage::Running(running) = &mut channel.stage else { return };
        let most = usize::try_from(channel.client_packet).unwrap_or(DATA_MAX).clamp(1, DATA_MAX);
        for bytes in bytes.chunks(most) {
            if !channel.told_client_closed {
                let (stream, kind) = match extended {
                    None => (&mut running.stdout, Kind::Out),
                    Some(_) => (&mut running.stderr, Kind::Err),
                };
                stream.add(bytes);
                if let (Kind::Out, Some(transfer)) = (kind, &mut running.transfer) {
                    transfer.server(bytes);
                }
                if let (Kind::Out, Some(typed)) = (kind, &mut running.typed) {
                    self.typed.extend(typed.shown(bytes).into_iter().map(|text| (running.op, text)));
                }
                if running.terms.output {
                    output::put(&mut self.said, running.op, kind, bytes);
                }
                put_frame(&mut self.served, &data(channel.client, extended, bytes));
            }
            let more = channel.to_client.passed(bytes.len());
            if more > 0 && !channel.told_upstream_closed {
                staged.continuation(&framed_on(channel.connection, &adjust(channel.upstream, more)));
            }
        }
    }
}
