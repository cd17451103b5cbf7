//! A connection to the target beside a session's own, for one command that a person said yes to: its certificate is good
//! for nothing else.

use bytes::{BufMut as _, Bytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Asking, LOGIN_TIMEOUT, OpenError, Opened, Upstream, log_in};
use crate::protocol::ssh::codec::{Reader, msg, put_string};
use crate::protocol::ssh::transport::TransportError;

/// Messages a target may send before it has answered about the channel.
const MESSAGES_MAX: usize = 32;

/// A connection with one channel, in which nothing runs yet.
pub(in super::super) struct Beside {
    pub(in super::super) opened: Opened,
    /// The target's number of the channel, and what it takes.
    pub(in super::super) number: u32,
    pub(in super::super) window: u32,
    pub(in super::super) packet: u32,
}

/// Opens it, with a channel under the number it has on the session's own connection, and a window of nothing.
pub(in super::super) async fn beside(
    login: Upstream<'_>,
    asking: Asking<'_>,
    channel: u32,
    packet: u32,
) -> Result<Beside, OpenError> {
    let opening = async {
        let mut opened = log_in(login, asking).await?;
        let mut request = vec![msg::CHANNEL_OPEN];
        put_string(&mut request, b"session");
        for number in [channel, 0, packet] {
            request.put_u32(number);
        }
        opened.transport.send(&request, &mut opened.output)?;
        let (number, window, packet) = confirmed(&mut opened, channel).await?;
        Ok(Beside { opened, number, window, packet })
    };
    tokio::time::timeout(LOGIN_TIMEOUT, opening).await.map_err(|_| OpenError::Slow)?
}

async fn confirmed(opened: &mut Opened, channel: u32) -> Result<(u32, u32, u32), OpenError> {
    let mut seen = 0;
    loop {
        while let Some(message) = opened.transport.receive(&mut opened.input, &mut opened.output)? {
            seen += 1;
            match message.first() {
                Some(&msg::CHANNEL_OPEN_CONFIRMATION) => {
                    let (ours, numbers) = confirmation(&message).map_err(TransportError::from)?;
                    return if ours == channel { Ok(numbers) } else { Err(OpenError::Channel) };
                }
                // What a server says about itself after a login; nobody waits for an answer.
                Some(&msg::GLOBAL_REQUEST) if seen <= MESSAGES_MAX => {}
                _ => return Err(OpenError::Channel),
            }
        }
        opened.stream.write_all(&opened.output).await?;
        opened.output.clear();
        if opened.stream.read_buf(&mut opened.input).await? == 0 {
            return Err(OpenError::Closed);
        }
    }
}

fn confirmation(message: &Bytes) -> Result<(u32, (u32, u32, u32)), crate::protocol::ssh::codec::Malformed> {
    let mut reader = Reader::new(message.get(1..).unwrap_or_default());
    Ok((reader.u32()?, (reader.u32()?, reader.u32()?, reader.u32()?)))
}
