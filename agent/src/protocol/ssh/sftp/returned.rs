//! The target's side of a transfer: what passes to the client, and the answers that are ours.

use bytes::{BufMut, Bytes, BytesMut};

use super::super::codec::{Reader, put_string};
use super::{
    EXTENSIONS, NO_SUCH_FILE, PACKET_MAX, PERMISSION_DENIED, Returned, Sftp, SftpError, WHOLE_MAX, kind,
};

impl Sftp {
    /// Bytes of the target: what passes to the client, and what was an answer to us.
    pub(in super::super) fn server(&mut self, bytes: &[u8]) -> Result<Vec<Returned>, SftpError> {
        self.returned.put_slice(bytes);
        let mut out = Vec::new();
        loop {
            if self.passing > 0 {
                let count = self.returned.len().min(self.passing);
                if count == 0 {
                    return Ok(out);
                }
                let part = self.returned.split_to(count).freeze();
                self.passing -= count;
                if let Some(file) = self.reading.as_ref().and_then(|handle| self.files.get_mut(handle)) {
                    file.read.add(&part);
                }
                if self.passing == 0 {
                    self.reading = None;
                }
                out.push(Returned::Pass(part));
                continue;
            }
            // Length, type and request number; a version answers no request, and is never shorter.
            let Some(header) = self.returned.first_chunk::<9>() else { return Ok(out) };
            let mut reader = Reader::new(header);
            let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
            let (number, id) = (reader.u8()?, reader.u32()?);
            if !(5..=PACKET_MAX).contains(&length) {
                return Err(SftpError::TooLong(length));
            }
            let own = self.query == Some(id) && number != kind::VERSION;
            if !own && !matches!(number, kind::VERSION | kind::HANDLE | kind::STATUS | kind::DATA) {
                self.passing = 4 + length;
                continue;
            }
            if number == kind::DATA && !own {
                self.begin_data(id, length, &mut out);
                if self.passing == 0 {
                    return Ok(out);
                }
                continue;
            }
            if length > WHOLE_MAX {
                return Err(SftpError::TooLong(length));
            }
            if self.returned.len() < 4 + length {
                return Ok(out);
            }
            let packet = self.returned.split_to(4 + length).freeze();
            if own {
                self.query = None;
                self.resolved(number, &packet)?;
                out.push(Returned::Drop(packet.len()));
                continue;
            }
            self.whole(number, id, packet, &mut out)?;
        }
    }

    /// The head of file content passes at once; the content behind it is counted as it comes.
    fn begin_data(&mut self, id: u32, length: usize, out: &mut Vec<Returned>) {
        const HEAD: usize = 4 + 1 + 4 + 4;
        if self.returned.len() < HEAD || length + 4 < HEAD {
            // Not there yet; or malformed, which the client will find out.
            self.passing = if length + 4 < HEAD { 4 + length } else { 0 };
            return;
        }
        out.push(Returned::Pass(self.returned.split_to(HEAD).freeze()));
        self.passing = 4 + length - HEAD;
        if let Some((handle, offset)) = self.reads.remove(&id) {
            if let Some(file) = self.files.get_mut(&handle) {
                file.read.seek(offset);
            }
            self.reading = Some(handle);
        }
    }

    fn whole(
        &mut self,
        number: u8,
        id: u32,
        packet: Bytes,
        out: &mut Vec<Returned>,
    ) -> Result<(), SftpError> {
        let mut reader = Reader::new(packet.get(9..).unwrap_or_default());
        match number {
            kind::HANDLE => {
                if let Some(file) = self.opening.remove(&id) {
                    self.files.insert(reader.string()?.to_vec(), file);
                }
                out.push(Returned::Pass(packet));
            }
            kind::STATUS => {
                if let Some(file) = self.opening.remove(&id) {
                    self.done.push(file.done());
                }
                self.reads.remove(&id);
                out.push(Returned::Pass(packet));
            }
            _ => {
                // VERSION: `id` is the version. Only extensions that are understood are passed on.
                let mut body = vec![kind::VERSION];
                body.put_u32(id.min(3));
                while !reader.rest().is_empty() {
                    let (name, value) = (reader.string()?, reader.string()?);
                    if EXTENSIONS.iter().any(|known| known.as_bytes() == name) {
                        put_string(&mut body, name);
                        put_string(&mut body, value);
                    }
                }
                let mut version = BytesMut::new();
                put_string(&mut version, &body);
                let gone = packet.len().saturating_sub(version.len());
                out.push(Returned::Pass(version.freeze()));
                if gone > 0 {
                    out.push(Returned::Drop(gone));
                }
            }
        }
        Ok(())
    }

    /// Our REALPATH was answered.
    fn resolved(&mut self, number: u8, packet: &[u8]) -> Result<(), SftpError> {
        let mut reader = Reader::new(packet.get(9..).unwrap_or_default());
        let Some(pending) = &mut self.pending else { return Ok(()) };
        if number != kind::NAME {
            let code = if number == kind::STATUS { reader.u32()? } else { PERMISSION_DENIED };
            let refusal = match code {
                NO_SUCH_FILE => (NO_SUCH_FILE, "No such file".to_owned()),
                _ => {
                    (PERMISSION_DENIED, "chaperone: the target does not say where the path leads".to_owned())
                }
            };
            pending.decided = Some(Err(refusal));
            return Ok(());
        }
        reader.u32()?;
        let answer = reader.string()?.to_vec();
        let ask =
            pending.wants.iter().find(|(_, path)| path.resolved.is_none()).map(|(_, path)| path.ask.clone());
        for (_, path) in pending.wants.iter_mut().filter(|(_, path)| Some(&path.ask) == ask.as_ref()) {
            let mut whole = answer.clone();
            if let Some(last) = &path.last {
                if !whole.ends_with(b"/") {
                    whole.push(b'/');
                }
                whole.extend_from_slice(last);
            }
            // A path that is not text cannot be matched by a policy; one that is not absolute was not resolved.
            match String::from_utf8(whole) {
                Ok(text) if text.starts_with('/') && !text.split('/').any(|part| part == "..") => {
                    path.resolved = Some(text);
                }
                _ => {
                    let why = "chaperone: the path cannot be told".to_owned();
                    pending.decided = Some(Err((PERMISSION_DENIED, why)));
                }
            }
        }
        Ok(())
    }
}
