//! What the target sends: confirmations, answers, data, and how programs end.

use bytes::{BufMut, Bytes};

use super::super::codec::{Reader, msg};
use super::super::sftp::{FileStep, Returned};
use super::channel::{Channel, Exit, Owed, Stage, adjust, data, open_failure, simple};
use super::client::readdressed;
use super::{
    Asked, Fatal, MAIN, Machine, OWED_MAX, PROHIBITED, Question, UPSTREAM, framed, outcome, put_frame,
};
use crate::gate::Staged;

impl Machine {
    /// One message of the target. It may be the answer a file operation waited for, so a question can come of it.
    pub(in super::super) fn server(
        &mut self,
        message: &Bytes,
        staged: &mut Staged,
    ) -> Result<Option<Question>, Fatal> {
        let malformed = |source| Fatal::Malformed { side: UPSTREAM, source };
        let mut reader = Reader::new(message);
        let number = reader.u8().map_err(malformed)?;
        match number {
            msg::GLOBAL_REQUEST => self.server_global(message, staged).map(|()| None),
            msg::REQUEST_SUCCESS | msg::REQUEST_FAILURE => {
                if self.owed_client.pop_front() != Some(Owed::Upstream) {
                    return Err(Fatal::Unexpected { side: UPSTREAM, number });
                }
                put_frame(&mut self.served, message);
                while let Some(Owed::Local(_)) = self.owed_client.front() {
                    self.owed_client.pop_front();
                    put_frame(&mut self.served, &[msg::REQUEST_FAILURE]);
                }
                Ok(None)
            }
            msg::CHANNEL_OPEN => {
                // A target opens channels only for forwards, and none was ever asked of it.
                let kind: String = reader.text().map_err(malformed)?.chars().take(80).collect();
                let sender = reader.u32().map_err(malformed)?;
                staged.continuation(&framed(&open_failure(sender, PROHIBITED, "not permitted")));
                let what = Asked::Tunnel { kind, destination: "the client".to_owned() };
                self.refuse_always(0, what, "opened by the target");
                Ok(None)
            }
            msg::CHANNEL_OPEN_CONFIRMATION..=msg::CHANNEL_FAILURE => {
                let id = reader.u32().map_err(malformed)?;
                if self.leaving.contains(&id) {
                    // It went on elsewhere; all that is awaited here is the end.
                    if number == msg::CHANNEL_CLOSE {
                        self.leaving.remove(&id);
                    }
                    return Ok(None);
                }
                let here = |channel: &Channel| channel.connection == MAIN && !channel.upstream_closed;
                if !self.channels.get(&id).is_some_and(here) {
                    return Err(Fatal::NoChannel { side: UPSTREAM, id });
                }
                self.server_channel(id, message, reader, staged)
            }
            number => Err(Fatal::Unexpected { side: UPSTREAM, number }),
        }
    }

    pub(super) fn server_channel(
        &mut self,
        id: u32,
        message: &Bytes,
        mut reader: Reader<'_>,
        staged: &mut Staged,
    ) -> Result<Option<Question>, Fatal> {
        let malformed = |source| Fatal::Malformed { side: UPSTREAM, source };
        let flow = |source| Fatal::Flow { side: UPSTREAM, source };
        let number = message.first().copied().unwrap_or_default();
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(None) };
        let opening = matches!(channel.stage, Stage::Opening);
        let answers_open = matches!(number, msg::CHANNEL_OPEN_CONFIRMATION | msg::CHANNEL_OPEN_FAILURE);
        if opening != answers_open {
            return Err(Fatal::Unexpected { side: UPSTREAM, number });
        }
        let refused = matches!(channel.stage, Stage::Refused);
        match number {
            msg::CHANNEL_OPEN_CONFIRMATION => {
                channel.upstream = reader.u32().map_err(malformed)?;
                let window = reader.u32().map_err(malformed)?;
                channel.upstream_packet = reader.u32().map_err(malformed)?;
                channel.stage = Stage::Idle;
                let promised = channel.to_upstream.grant(window).map_err(flow)?;
                let mut out = simple(number, channel.client);
                for value in [id, promised, channel.upstream_packet] {
                    out.put_u32(value);
                }
                put_frame(&mut self.served, &out);
            }
            msg::CHANNEL_OPEN_FAILURE => {
                put_frame(&mut self.served, &readdressed(message, channel.client));
                self.channels.remove(&id);
            }
            msg::CHANNEL_WINDOW_ADJUST => {
                let more = channel.to_upstream.grant(reader.u32().map_err(malformed)?).map_err(flow)?;
                if more > 0 && !refused && !channel.told_client_closed {
                    put_frame(&mut self.served, &adjust(channel.client, more));
                }
                return self.files(id, staged);
            }
            msg::CHANNEL_DATA => {
                let bytes = reader.string().map_err(malformed)?;
                return self.server_data(id, None, bytes, staged);
            }
            msg::CHANNEL_EXTENDED_DATA => {
                let kind = reader.u32().map_err(malformed)?;
                let bytes = reader.string().map_err(malformed)?;
                return self.server_data(id, Some(kind), bytes, staged);
            }
            msg::CHANNEL_EOF => {
                self.output_ends(id, staged);
                let Some(channel) = self.channels.get_mut(&id) else { return Ok(None) };
                if !refused && !channel.told_client_closed {
                    put_frame(&mut self.served, &simple(number, channel.client));
                }
            }
            msg::CHANNEL_CLOSE => {
                self.output_ends(id, staged);
                let Some(channel) = self.channels.get_mut(&id) else { return Ok(None) };
                channel.upstream_closed = true;
                self.outcomes.extend(outcome(channel, "closed"));
                if !std::mem::replace(&mut channel.told_client_closed, true) {
                    put_frame(&mut self.served, &simple(number, channel.client));
                }
                // The target is gone from it, so a request that waits has nobody to go to.
                if matches!(channel.stage, Stage::Asking(_)) {
                    channel.stage = Stage::Refused;
                    self.withdrawn.push(id);
                }
                self.sweep(id);
            }
            msg::CHANNEL_REQUEST => self.server_request(id, message, reader, staged).map_err(malformed)?,
            _ => {
                let front = channel.owed.pop_front();
                if front != Some(Owed::Upstream) && !refused {
                    return Err(Fatal::Unexpected { side: UPSTREAM, number });
                }
                if !channel.told_client_closed {
                    put_frame(&mut self.served, &simple(number, channel.client));
                }
                while let Some(Owed::Local(yes)) = channel.owed.front().copied() {
                    channel.owed.pop_front();
                    if !channel.told_client_closed {
                        let number = if yes { msg::CHANNEL_SUCCESS } else { msg::CHANNEL_FAILURE };
                        put_frame(&mut self.served, &simple(number, channel.client));
                    }
                }
            }
        }
        Ok(None)
    }

    fn server_data(
        &mut self,
        id: u32,
        extended: Option<u32>,
        bytes: &[u8],
        staged: &mut Staged,
    ) -> Result<Option<Question>, Fatal> {
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(None) };
        let running = match &mut channel.stage {
            Stage::Running(running) => running,
            // What a refused channel still says is let fall; one on which nothing runs has nothing to say.
            Stage::Refused => return Ok(None),
            Stage::Opening | Stage::Idle | Stage::Asking(_) | Stage::Tunnel(_) => {
                return Err(Fatal::Unexpected { side: UPSTREAM, number: msg::CHANNEL_DATA });
            }
        };
        if extended.is_none()
            && let Some(sftp) = &mut running.sftp
        {
            channel
                .to_client
                .received(bytes.len())
                .map_err(|source| Fatal::Flow { side: UPSTREAM, source })?;
            running.stdout.add(bytes);
            for part in sftp.server(bytes)? {
                let more = match part {
                    Returned::Pass(bytes) => {
                        put_frame(&mut self.served, &data(channel.client, None, &bytes));
                        channel.to_client.passed(bytes.len())
                    }
                    Returned::Drop(count) => channel.to_client.dropped(count),
                };
                if more > 0 && !channel.told_upstream_closed {
                    staged.continuation(&channel.framed(&adjust(channel.upstream, more)));
                }
            }
            return self.files(id, staged);
        }
        self.output(id, extended, bytes, staged).map(|()| None)
    }

    fn server_request(
        &mut self,
        id: u32,
        message: &Bytes,
        mut reader: Reader<'_>,
        staged: &mut Staged,
    ) -> Result<(), super::super::codec::Malformed> {
        let name = reader.text()?;
        let want_reply = reader.bool()?;
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        if matches!(channel.stage, Stage::Refused) || channel.told_client_closed {
            if want_reply && !channel.told_upstream_closed {
                staged.continuation(&channel.framed(&simple(msg::CHANNEL_FAILURE, channel.upstream)));
            }
            return Ok(());
        }
        match name {
            "exit-status" => channel.exit = Some(Exit::Status(reader.u32()?)),
            "exit-signal" => channel.exit = Some(Exit::Signal(reader.text()?.chars().take(20).collect())),
            _ => {}
        }
        put_frame(&mut self.served, &readdressed(message, channel.client));
        Ok(())
    }

    fn server_global(&mut self, message: &Bytes, staged: &mut Staged) -> Result<(), Fatal> {
        let malformed = |source| Fatal::Malformed { side: UPSTREAM, source };
        let mut reader = Reader::new(message.get(1..).unwrap_or_default());
        let name = reader.text().map_err(malformed)?;
        let want_reply = reader.bool().map_err(malformed)?;
        if self.owed_upstream.len() >= OWED_MAX {
            return Err(Fatal::Unexpected { side: UPSTREAM, number: msg::GLOBAL_REQUEST });
        }
        if name == "keepalive@openssh.com" {
            put_frame(&mut self.served, message);
            if want_reply {
                self.owed_upstream.push_back(Owed::Upstream);
            }
            return Ok(());
        }
        // Others end here. hostkeys-00@openssh.com above all: it would teach the client the target's real keys.
        if want_reply {
            if self.owed_upstream.is_empty() {
                staged.continuation(&framed(&[msg::REQUEST_FAILURE]));
            } else {
                self.owed_upstream.push_back(Owed::Local(false));
            }
        }
        Ok(())
    }

    /// Moves file operations on: forward, refuse, look a path up, or ask.
    pub(super) fn files(&mut self, id: u32, staged: &mut Staged) -> Result<Option<Question>, Fatal> {
        loop {
            let Some(channel) = self.channels.get_mut(&id) else { return Ok(None) };
            let Stage::Running(running) = &mut channel.stage else { return Ok(None) };
            let Some(sftp) = &mut running.sftp else { return Ok(None) };
            let most = channel.upstream_packet.clamp(1024, 32 << 10) as usize;
            let more = match sftp.next(most)? {
                FileStep::Wait => return Ok(None),
                FileStep::Ask(op) => return Ok(Some(self.ask(id, Asked::File(op)))),
                FileStep::Pass(bytes) => {
                    staged.continuation(&channel.framed(&data(channel.upstream, None, &bytes)));
                    channel.to_upstream.passed(bytes.len())
                }
                FileStep::Refuse { swallowed, answer } => {
                    if !channel.to_client.inject(answer.len()) {
                        return Err(Fatal::TooFarAhead);
                    }
                    put_frame(&mut self.served, &data(channel.client, None, &answer));
                    channel.to_upstream.dropped(swallowed)
                }
                FileStep::Query(bytes) => {
                    if !channel.to_upstream.inject(bytes.len()) {
                        sftp.query_later(bytes);
                        return Ok(None);
                    }
                    staged.continuation(&channel.framed(&data(channel.upstream, None, &bytes)));
                    0
                }
            };
            if more > 0 && !channel.told_client_closed {
                put_frame(&mut self.served, &adjust(channel.client, more));
            }
        }
    }
}
