//! A channel that goes on to a connection of its own, where the target runs one command and no other.
//!
//! The client sees nothing of it: its numbers and windows stay. On the session's own connection the channel is closed before
//! anything ran in it.

use bytes::Bytes;

use super::super::codec::{Reader, msg};
use super::channel::{Channel, Running, Stage, Terms, adjust, open_failure, simple};
use super::client::readdressed;
use super::{Asked, Fatal, Machine, Owed, PROHIBITED, Question, UPSTREAM, framed, framed_on};
use crate::gate::{Permit, Staged};

/// The channel on its new connection, as the target confirmed it.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Place {
    pub(in super::super) number: u32,
    pub(in super::super) window: u32,
    pub(in super::super) packet: u32,
}

impl Machine {
    /// The largest data message the client of a channel takes, and whether it has a terminal.
    pub(in super::super) fn needs_beside(&self, id: u32) -> (u32, bool) {
        self.channels
            .get(&id)
            .map_or((0, false), |channel| (channel.client_packet, channel.terminal.is_some()))
    }

    /// Whether a channel whose command was held can go on there: the target has answered everything before it, and takes what
    /// the client was told it does.
    pub(in super::super) fn could_go_beside(&self, question: &Question, place: &Place) -> bool {
        self.channels.get(&question.channel).is_some_and(|channel| {
            matches!(&channel.stage, Stage::Asking(asking) if asking.op == question.op)
                && channel.owed.is_empty()
                && channel.upstream_packet <= place.packet
                && channel.to_upstream.could_grant(place.window)
        })
    }

    /// The answer to a question: it may be, and runs there.
    pub(in super::super) fn permit_beside(
        &mut self,
        question: &Question,
        (permit, terms): (Permit, Terms),
        place: &Place,
        staged: &mut Staged,
    ) {
        let id = question.channel;
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Stage::Asking(asking) = &channel.stage else { return };
        let (request, op, want_reply) =
            (readdressed(&asking.request, place.number), asking.op, asking.want_reply);
        staged.continuation(&framed(&simple(msg::CHANNEL_CLOSE, channel.upstream)));
        self.leaving.insert(id);
        (channel.connection, channel.upstream, channel.upstream_packet) = (id, place.number, place.packet);
        channel.to_upstream.now_grants(place.window);
        let window = channel.to_client.promised();
        if window > 0 {
            staged.continuation(&channel.framed(&adjust(channel.upstream, window)));
        }
        for message in std::mem::take(&mut channel.before) {
            staged.continuation(&channel.framed(&readdressed(&message, channel.upstream)));
        }
        staged.permitted(permit, &channel.framed(&request));
        if want_reply {
            channel.owed.push_back(Owed::Upstream);
        }
        channel.stage = Stage::Running(Box::new(Running::new(op, false, terms)));
        self.say_size(id);
    }

    /// One message of the target on the connection of a channel.
    pub(in super::super) fn server_beside(
        &mut self,
        id: u32,
        message: &Bytes,
        staged: &mut Staged,
    ) -> Result<Option<Question>, Fatal> {
        let malformed = |source| Fatal::Malformed { side: UPSTREAM, source };
        let mut reader = Reader::new(message);
        let number = reader.u8().map_err(malformed)?;
        match number {
            msg::GLOBAL_REQUEST => {
                reader.string().map_err(malformed)?;
                if reader.bool().map_err(malformed)? {
                    staged.continuation(&framed_on(id, &[msg::REQUEST_FAILURE]));
                }
                Ok(None)
            }
            msg::CHANNEL_OPEN => {
                let kind: String = reader.text().map_err(malformed)?.chars().take(80).collect();
                let sender = reader.u32().map_err(malformed)?;
                staged.continuation(&framed_on(id, &open_failure(sender, PROHIBITED, "not permitted")));
                let what = Asked::Tunnel { kind, destination: "the client".to_owned() };
                self.refuse_always(0, what, "opened by the target");
                Ok(None)
            }
            msg::CHANNEL_WINDOW_ADJUST..=msg::CHANNEL_FAILURE => {
                let recipient = reader.u32().map_err(malformed)?;
                if recipient != id || !self.is_beside(id) {
                    return Err(Fatal::NoChannel { side: UPSTREAM, id: recipient });
                }
                self.server_channel(id, message, reader, staged)
            }
            number => Err(Fatal::Unexpected { side: UPSTREAM, number }),
        }
    }

    /// The connection of a channel is gone: so is what ran there.
    pub(in super::super) fn lost_beside(&mut self, id: u32, staged: &mut Staged) -> Result<(), Fatal> {
        if !self.is_beside(id) {
            return Ok(());
        }
        if let Some(channel) = self.channels.get_mut(&id) {
            // Nobody is there to be told.
            channel.told_upstream_closed = true;
        }
        self.server_beside(id, &simple(msg::CHANNEL_CLOSE, id).into(), staged).map(drop)
    }

    /// Whether a channel still needs its connection.
    pub(in super::super) fn is_beside(&self, id: u32) -> bool {
        let lives = |channel: &Channel| channel.connection == id && !channel.upstream_closed;
        self.channels.get(&id).is_some_and(lives)
    }
}
