//! What the client sends: opens, requests, data.

use bytes::{BufMut, Bytes};

use super::super::codec::{Reader, msg, put_string};
use super::super::variable::{self, Sort};
use super::channel::{Asking, Channel, Owed, Stage, adjust, data, open_failure, simple};
use super::{
    AHEAD_MAX, Asked, CHANNELS_MAX, CLIENT, COMMAND_MAX, Fatal, Machine, OWED_MAX, Opening, PROHIBITED,
    Question, SHORTAGE, VALUE_MAX, framed, put_frame,
};
use crate::gate::Staged;
use crate::record::output::{self, Kind};

impl Machine {
    /// One message of the client.
    pub(in super::super) fn client(
        &mut self,
        message: &Bytes,
        staged: &mut Staged,
    ) -> Result<Option<Question>, Fatal> {
        let malformed = |source| Fatal::Malformed { side: CLIENT, source };
        let mut reader = Reader::new(message);
        let number = reader.u8().map_err(malformed)?;
        match number {
            msg::GLOBAL_REQUEST => self.client_global(message, staged).map(|()| None),
            msg::REQUEST_SUCCESS | msg::REQUEST_FAILURE => {
                self.answer_to_upstream(message, number, staged).map(|()| None)
            }
            msg::CHANNEL_OPEN => self.client_open(reader, staged).map_err(malformed).map(|()| None),
            msg::CHANNEL_WINDOW_ADJUST..=msg::CHANNEL_FAILURE => {
                let id = reader.u32().map_err(malformed)?;
                let Some(channel) = self.channels.get_mut(&id).filter(|channel| !channel.client_closed)
                else {
                    return Err(Fatal::NoChannel { side: CLIENT, id });
                };
                if matches!(channel.stage, Stage::Tunnel(_)) {
                    return self.tunnel_message(id, message).map(|()| None);
                }
                let waits = matches!(channel.stage, Stage::Asking(_)) || !channel.queue.is_empty();
                let in_order = matches!(
                    number,
                    msg::CHANNEL_DATA | msg::CHANNEL_EXTENDED_DATA | msg::CHANNEL_EOF | msg::CHANNEL_REQUEST
                );
                if !(waits && in_order) {
                    return self.channel_message(id, message, staged);
                }
                channel.queue.push_back(message.clone());
                self.ahead += message.len();
                if self.ahead > AHEAD_MAX { Err(Fatal::TooFarAhead) } else { Ok(None) }
            }
            number => Err(Fatal::Unexpected { side: CLIENT, number }),
        }
    }

    /// A message on a channel, in its turn.
    pub(super) fn channel_message(
        &mut self,
        id: u32,
        message: &Bytes,
        staged: &mut Staged,
    ) -> Result<Option<Question>, Fatal> {
        let malformed = |source| Fatal::Malformed { side: CLIENT, source };
        let flow = |source| Fatal::Flow { side: CLIENT, source };
        let mut reader = Reader::new(message);
        let number = reader.u8().map_err(malformed)?;
        reader.u32().map_err(malformed)?;
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(None) };
        if matches!(channel.stage, Stage::Opening) {
            return Err(Fatal::Unexpected { side: CLIENT, number });
        }
        match number {
            msg::CHANNEL_WINDOW_ADJUST => {
                let more = channel.to_client.grant(reader.u32().map_err(malformed)?).map_err(flow)?;
                if more > 0 && !channel.told_upstream_closed && !matches!(channel.stage, Stage::Refused) {
                    staged.continuation(&channel.framed(&adjust(channel.upstream, more)));
                }
                self.files(id, staged)
            }
            msg::CHANNEL_DATA => self.client_data(id, None, reader.string().map_err(malformed)?, staged),
            msg::CHANNEL_EXTENDED_DATA => {
                let kind = reader.u32().map_err(malformed)?;
                self.client_data(id, Some(kind), reader.string().map_err(malformed)?, staged)
            }
            msg::CHANNEL_EOF => {
                if matches!(channel.stage, Stage::Running(_)) && !channel.told_upstream_closed {
                    staged.continuation(&channel.framed(&simple(number, channel.upstream)));
                }
                Ok(None)
            }
            msg::CHANNEL_CLOSE => {
                channel.client_closed = true;
                if matches!(channel.stage, Stage::Asking(_)) {
                    channel.stage = Stage::Refused;
                    self.withdrawn.push(id);
                }
                if !std::mem::replace(&mut channel.told_upstream_closed, true) {
                    staged.continuation(&channel.framed(&simple(number, channel.upstream)));
                }
                self.sweep(id);
                Ok(None)
            }
            msg::CHANNEL_SUCCESS | msg::CHANNEL_FAILURE => {
                if !matches!(channel.stage, Stage::Refused) && !channel.told_upstream_closed {
                    staged.continuation(&channel.framed(&simple(number, channel.upstream)));
                }
                Ok(None)
            }
            msg::CHANNEL_REQUEST => self.channel_request(id, message, reader, staged),
            number => Err(Fatal::Unexpected { side: CLIENT, number }),
        }
    }

    fn client_open(
        &mut self,
        mut reader: Reader<'_>,
        staged: &mut Staged,
    ) -> Result<(), super::super::codec::Malformed> {
        let kind: String = reader.text()?.chars().take(80).collect();
        let (number, window, packet) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if kind == "direct-tcpip" && self.openings.len() < CHANNELS_MAX {
            self.openings.push(Opening::read((number, window, packet), &mut reader)?);
            return Ok(());
        }
        if kind != "session" {
            let destination = destination(&kind, &mut reader);
            let why = format!("a {kind} channel to {destination} is not permitted");
            put_frame(&mut self.served, &open_failure(number, PROHIBITED, &format!("chaperone: {why}")));
            self.refuse_always(0, Asked::Tunnel { kind, destination }, &why);
            return Ok(());
        }
        if self.channels.len() >= CHANNELS_MAX {
            put_frame(&mut self.served, &open_failure(number, SHORTAGE, "chaperone: too many channels"));
            return Ok(());
        }
        self.next = self.next.wrapping_add(1);
        let id = self.next;
        let mut channel = Channel::new(number, packet);
        // A first window always fits.
        let promised = channel.to_client.grant(window).unwrap_or_default();
        self.channels.insert(id, channel);
        let mut message = vec![msg::CHANNEL_OPEN];
        put_string(&mut message, kind.as_bytes());
        for number in [id, promised, packet] {
            message.put_u32(number);
        }
        staged.continuation(&framed(&message));
        Ok(())
    }

    /// Data for the program; there is none before it is permitted, and none for one that was refused.
    fn client_data(
        &mut self,
        id: u32,
        extended: Option<u32>,
        bytes: &[u8],
        staged: &mut Staged,
    ) -> Result<Option<Question>, Fatal> {
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(None) };
        let Stage::Running(running) = &mut channel.stage else { return Ok(None) };
        channel.to_upstream.received(bytes.len()).map_err(|source| Fatal::Flow { side: CLIENT, source })?;
        running.stdin.add(bytes);
        if let Some(transfer) = &mut running.transfer {
            transfer.client(bytes);
        }
        if let Some(typed) = &mut running.typed {
            typed.client(bytes);
        }
        if running.terms.input && running.sftp.is_none() {
            output::put(&mut self.said, running.op, Kind::In, bytes);
        }
        if let Some(sftp) = &mut running.sftp {
            sftp.client(bytes);
            return self.files(id, staged);
        }
        if !channel.told_upstream_closed {
            staged.continuation(&channel.framed(&data(channel.upstream, extended, bytes)));
        }
        let more = channel.to_upstream.passed(bytes.len());
        if more > 0 {
            put_frame(&mut self.served, &adjust(channel.client, more));
        }
        Ok(None)
    }

    fn channel_request(
        &mut self,
        id: u32,
        message: &Bytes,
        mut reader: Reader<'_>,
        staged: &mut Staged,
    ) -> Result<Option<Question>, Fatal> {
        let malformed = |source| Fatal::Malformed { side: CLIENT, source };
        let name = reader.text().map_err(malformed)?;
        let want_reply = reader.bool().map_err(malformed)?;
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(None) };
        if channel.owed.len() >= OWED_MAX {
            return Err(Fatal::TooManyRequests);
        }
        if matches!(channel.stage, Stage::Refused) || channel.told_upstream_closed {
            return Ok(None);
        }
        let idle = matches!(channel.stage, Stage::Idle);
        let what = match name {
            "exec" if idle => {
                let command = reader.string().map_err(malformed)?;
                Asked::Exec(command.get(..COMMAND_MAX + 1).unwrap_or(command).to_vec())
            }
            "shell" if idle => Asked::Shell,
            "pty-req" if idle && channel.remembers(message) => Asked::Pty,
            "subsystem" if idle => {
                Asked::Subsystem(reader.text().map_err(malformed)?.chars().take(80).collect())
            }
            "env" if idle => {
                let variable = reader.text().map_err(malformed)?;
                let value = std::str::from_utf8(reader.string().map_err(malformed)?).ok();
                let value = value.filter(|value| value.len() <= VALUE_MAX && !value.contains('\0'));
                let sort = match value {
                    Some(value) if channel.remembers(message) => variable::sort(variable, value),
                    _ => Sort::Never("its value is too long, or no text"),
                };
                match sort {
                    Sort::Asks { name, value } => Asked::Env { name, value },
                    Sort::Passes => {
                        channel.remember(message);
                        self.forward_request(id, message, want_reply, staged);
                        return Ok(None);
                    }
                    Sort::Never(why) => {
                        if want_reply {
                            self.answer(id, false);
                        }
                        let variable: String = variable.chars().take(80).collect();
                        self.refuse_always(id, Asked::Feature(format!("env {variable}")), why);
                        return Ok(None);
                    }
                }
            }
            // These mean something to a program or a terminal that runs, and nothing otherwise.
            "window-change" => {
                if channel.terminal.is_some() {
                    channel.terminal =
                        Some((reader.u32().map_err(malformed)?, reader.u32().map_err(malformed)?));
                    self.say_size(id);
                }
                self.forward_request(id, message, want_reply, staged);
                return Ok(None);
            }
            "signal" | "break" | "xon-xoff" | "eow@openssh.com" | "keepalive@openssh.com" => {
                self.forward_request(id, message, want_reply, staged);
                return Ok(None);
            }
            other => {
                let feature: String = other.chars().take(80).collect();
                if want_reply {
                    self.answer(id, false);
                }
                self.refuse_always(id, Asked::Feature(feature), "not permitted");
                return Ok(None);
            }
        };
        let size = match &what {
            Asked::Pty => {
                reader.string().map_err(malformed)?;
                Some((reader.u32().map_err(malformed)?, reader.u32().map_err(malformed)?))
            }
            _ => None,
        };
        let sftp = matches!(&what, Asked::Subsystem(name) if name == "sftp");
        let request = readdressed(message, channel.upstream);
        let question = self.ask(id, what);
        if let Some(channel) = self.channels.get_mut(&id) {
            let op = question.op;
            channel.stage = Stage::Asking(Box::new(Asking { request, op, want_reply, sftp, size }));
        }
        Ok(Some(question))
    }

    fn forward_request(&mut self, id: u32, message: &Bytes, want_reply: bool, staged: &mut Staged) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        staged.continuation(&channel.framed(&readdressed(message, channel.upstream)));
        if want_reply {
            channel.owed.push_back(Owed::Upstream);
        }
    }

    fn client_global(&mut self, message: &Bytes, staged: &mut Staged) -> Result<(), Fatal> {
        let malformed = |source| Fatal::Malformed { side: CLIENT, source };
        let mut reader = Reader::new(message.get(1..).unwrap_or_default());
        let name = reader.text().map_err(malformed)?;
        let want_reply = reader.bool().map_err(malformed)?;
        if self.owed_client.len() >= OWED_MAX {
            return Err(Fatal::TooManyRequests);
        }
        match name {
            "keepalive@openssh.com" | "no-more-sessions@openssh.com" => {
                staged.continuation(&framed(message));
                if want_reply {
                    self.owed_client.push_back(Owed::Upstream);
                }
            }
            other => {
                let feature: String = other.chars().take(80).collect();
                self.refuse_always(0, Asked::Feature(feature), "not permitted");
                if want_reply {
                    if self.owed_client.is_empty() {
                        put_frame(&mut self.served, &[msg::REQUEST_FAILURE]);
                    } else {
                        self.owed_client.push_back(Owed::Local(false));
                    }
                }
            }
        }
        Ok(())
    }

    /// The client answers a global request of the target; local answers behind it may go now.
    fn answer_to_upstream(&mut self, message: &Bytes, number: u8, staged: &mut Staged) -> Result<(), Fatal> {
        if self.owed_upstream.pop_front() != Some(Owed::Upstream) {
            return Err(Fatal::Unexpected { side: CLIENT, number });
        }
        staged.continuation(&framed(message));
        while let Some(Owed::Local(_)) = self.owed_upstream.front() {
            self.owed_upstream.pop_front();
            staged.continuation(&framed(&[msg::REQUEST_FAILURE]));
        }
        Ok(())
    }
}

/// A channel message with another recipient.
pub(super) fn readdressed(message: &Bytes, recipient: u32) -> Bytes {
    let mut out = Vec::with_capacity(message.len());
    out.extend_from_slice(message.get(..1).unwrap_or_default());
    out.put_u32(recipient);
    out.extend_from_slice(message.get(5..).unwrap_or_default());
    out.into()
}

/// Where a tunnel would lead, for the record.
fn destination(kind: &str, reader: &mut Reader<'_>) -> String {
    let clean = |text: &[u8]| -> String { String::from_utf8_lossy(text).chars().take(200).collect() };
    let read = match kind {
        "direct-tcpip" => reader.string().and_then(|host| Ok(format!("{}:{}", clean(host), reader.u32()?))),
        "direct-streamlocal@openssh.com" => reader.string().map(clean),
        _ => Ok("elsewhere".to_owned()),
    };
    read.unwrap_or_else(|_| "nowhere".to_owned())
}
