//! A tunnel of the client that ends here: its channel never reaches the target, and what comes through it is handed to
//! whoever serves the destination.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::codec::{Malformed, Reader, msg};
use super::super::flow::FlowError;
use super::channel::{Channel, Stage, adjust, data, open_failure, simple};
use super::{Asked, CHANNELS_MAX, CLIENT, Fatal, Machine, PROHIBITED, Question, SHORTAGE, Way, put_frame};

/// What a client may send before it was taken.
const WINDOW: u32 = 256 << 10;
/// Largest data message, either way.
const PACKET: u32 = 32 << 10;

/// A tunnel that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Opening {
    pub(in super::super) host: String,
    pub(in super::super) port: u16,
    number: u32,
    window: u32,
    packet: u32,
}

/// What came of the client, and waits to be taken.
#[derive(Default)]
pub(super) struct Tunnel {
    inbound: BytesMut,
    /// What the client may still send.
    window: usize,
    /// It will send no more.
    ended: bool,
}

impl Opening {
    pub(super) fn read(
        (number, window, packet): (u32, u32, u32),
        reader: &mut Reader<'_>,
    ) -> Result<Self, Malformed> {
        let host: String = reader.text()?.chars().take(256).collect();
        let port = u16::try_from(reader.u32()?).map_err(|_| Malformed)?;
        Ok(Self { host, port, number, window, packet })
    }

    fn asked(&self) -> Asked {
        Asked::Tunnel { kind: "direct-tcpip".to_owned(), destination: format!("{}:{}", self.host, self.port) }
    }
}

impl Machine {
    /// Tunnels that were asked for since the last call.
    pub(in super::super) fn take_openings(&mut self) -> Vec<Opening> {
        std::mem::take(&mut self.openings)
    }

    /// The tunnel leads nowhere; why is on record.
    pub(in super::super) fn refuse_tunnel(&mut self, opening: &Opening, why: &str) {
        let text = format!("chaperone: {why}");
        put_frame(&mut self.served, &open_failure(opening.number, PROHIBITED, &text));
        self.refuse_always(0, opening.asked(), why);
    }

    /// The tunnel leads to a target, and may be if policy says so; none when there are too many channels. What is asked about
    /// has a channel already, which the client may not use before it is told of it.
    pub(in super::super) fn ask_tunnel(
        &mut self,
        opening: &Opening,
        (target, session): (&str, &str),
    ) -> Option<Question> {
        if self.channels.len() >= CHANNELS_MAX {
            let failure = open_failure(opening.number, SHORTAGE, "chaperone: too many channels");
            put_frame(&mut self.served, &failure);
            return None;
        }
        self.next = self.next.wrapping_add(1);
        let id = self.next;
        let mut channel = Channel::new(opening.number, opening.packet);
        // The target has no part in it.
        (channel.upstream_closed, channel.told_upstream_closed) = (true, true);
        // A first window always fits, and all of it is ours to use.
        let _ = channel.to_client.grant(opening.window);
        channel.to_client.take_over();
        self.channels.insert(id, channel);
        let (target, session) = (target.to_owned(), session.to_owned());
        let way = Way { host: opening.host.clone(), port: opening.port, target, session };
        Some(self.ask(id, Asked::Forward(way)))
    }

    /// It may be, and ends here.
    pub(super) fn enter_tunnel(&mut self, id: u32) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let window = WINDOW as usize;
        channel.stage = Stage::Tunnel(Box::new(Tunnel { window, ..Tunnel::default() }));
        let mut message = simple(msg::CHANNEL_OPEN_CONFIRMATION, channel.client);
        for value in [id, WINDOW, PACKET] {
            message.put_u32(value);
        }
        put_frame(&mut self.served, &message);
    }

    /// It may not be.
    pub(super) fn leave_tunnel(&mut self, id: u32, why: &str) {
        let Some(channel) = self.channels.remove(&id) else { return };
        let text = format!("chaperone: {why}");
        put_frame(&mut self.served, &open_failure(channel.client, PROHIBITED, &text));
    }

    /// A message of the client on a tunnel's channel.
    pub(super) fn tunnel_message(&mut self, id: u32, message: &Bytes) -> Result<(), Fatal> {
        let malformed = |source| Fatal::Malformed { side: CLIENT, source };
        let overrun = Fatal::Flow { side: CLIENT, source: FlowError::Overrun };
        let mut reader = Reader::new(message);
        let number = reader.u8().map_err(malformed)?;
        reader.u32().map_err(malformed)?;
        let Some(channel) = self.channels.get_mut(&id) else { return Ok(()) };
        let Stage::Tunnel(tunnel) = &mut channel.stage else { return Ok(()) };
        match number {
            msg::CHANNEL_DATA => {
                let bytes = reader.string().map_err(malformed)?;
                tunnel.window = tunnel.window.checked_sub(bytes.len()).ok_or(overrun)?;
                tunnel.inbound.extend_from_slice(bytes);
            }
            msg::CHANNEL_WINDOW_ADJUST => {
                let more = reader.u32().map_err(malformed)?;
                channel.to_client.grant(more).map_err(|source| Fatal::Flow { side: CLIENT, source })?;
                channel.to_client.take_over();
            }
            msg::CHANNEL_EOF => tunnel.ended = true,
            msg::CHANNEL_CLOSE => {
                tunnel.ended = true;
                channel.client_closed = true;
                self.close_tunnel(id);
            }
            // Nothing can be asked of a tunnel.
            msg::CHANNEL_REQUEST => {
                reader.string().map_err(malformed)?;
                if reader.bool().map_err(malformed)? && !channel.told_client_closed {
                    put_frame(&mut self.served, &simple(msg::CHANNEL_FAILURE, channel.client));
                }
            }
            number => return Err(Fatal::Unexpected { side: CLIENT, number }),
        }
        Ok(())
    }

    /// What the client sent through a tunnel, and whether that was all; none when the tunnel is gone.
    pub(in super::super) fn tunnel_takes(&mut self, id: u32) -> Option<(BytesMut, bool)> {
        match &mut self.channels.get_mut(&id)?.stage {
            Stage::Tunnel(tunnel) => Some((tunnel.inbound.split(), tunnel.ended)),
            Stage::Opening | Stage::Idle | Stage::Asking(_) | Stage::Running(_) | Stage::Refused => None,
        }
    }

    /// So many of those bytes went on: the client may send as many.
    pub(in super::super) fn tunnel_took(&mut self, id: u32, bytes: usize) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Stage::Tunnel(tunnel) = &mut channel.stage else { return };
        tunnel.window += bytes;
        if bytes > 0 && !tunnel.ended && !channel.told_client_closed {
            let more = u32::try_from(bytes).unwrap_or(u32::MAX);
            put_frame(&mut self.served, &adjust(channel.client, more));
        }
    }

    /// Bytes for the client, as far as it takes them.
    pub(in super::super) fn tunnel_gives(&mut self, id: u32, bytes: &mut BytesMut) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let most = channel.client_packet.clamp(1, PACKET) as usize;
        while !bytes.is_empty() && !channel.told_client_closed {
            let room = usize::try_from(channel.to_client.spare()).unwrap_or(most);
            let count = bytes.len().min(most).min(room);
            if count == 0 || !channel.to_client.inject(count) {
                return;
            }
            put_frame(&mut self.served, &data(channel.client, None, &bytes.split_to(count)));
        }
    }

    /// Nothing more comes through the tunnel.
    pub(in super::super) fn close_tunnel(&mut self, id: u32) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        if !std::mem::replace(&mut channel.told_client_closed, true) {
            for number in [msg::CHANNEL_EOF, msg::CHANNEL_CLOSE] {
                put_frame(&mut self.served, &simple(number, channel.client));
            }
        }
        self.sweep(id);
    }
}
