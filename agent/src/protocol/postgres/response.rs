//! ErrorResponse and NoticeResponse (manual, "Error and Notice Message Fields"): made, read, rewritten.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::codec::{CodecError, Fields, put, put_c_str};
use crate::detect::{self, Kind};

/// SQLSTATEs used for what the agent itself says (manual, appendix "PostgreSQL Error Codes").
pub mod sqlstate {
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    pub const INVALID_AUTHORIZATION: &str = "28000";
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    pub const CONNECTION_FAILURE: &str = "08006";
    pub const CANNOT_CONNECT: &str = "08001";
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub const OBJECT_IN_USE: &str = "55006";
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    pub const QUERY_CANCELED: &str = "57014";
    pub const LOCK_NOT_AVAILABLE: &str = "55P03";
    pub const LIMIT_EXCEEDED: &str = "54000";
    pub const DISK_FULL: &str = "53100";
    pub const INTERNAL_ERROR: &str = "XX000";
}

/// What the client is told when something of the agent's own doing goes wrong or is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub sqlstate: Cow<'static, str>,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Report {
    pub fn new(sqlstate: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { sqlstate: sqlstate.into(), message: message.into(), detail: None, hint: None }
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn put_error(&self, out: &mut BytesMut) {
        put(out, b'E', |out| self.put_fields(out, "ERROR"));
    }

    pub fn put_fatal(&self, out: &mut BytesMut) {
        put(out, b'E', |out| self.put_fields(out, "FATAL"));
    }

    pub fn put_notice(&self, out: &mut BytesMut) {
        put(out, b'N', |out| self.put_fields(out, "NOTICE"));
    }

    fn put_fields(&self, out: &mut BytesMut, severity: &str) {
        // `V` is the severity that is never translated; drivers prefer it.
        for (field, text) in [
            (b'S', Some(severity)),
            (b'V', Some(severity)),
            (b'C', Some(&*self.sqlstate)),
            (b'M', Some(self.message.as_str())),
            (b'D', self.detail.as_deref()),
            (b'H', self.hint.as_deref()),
        ] {
            if let Some(text) = text {
                out.put_u8(field);
                put_c_str(out, text.as_bytes());
            }
        }
        out.put_u8(0);
    }
}

/// A NotificationResponse without what it carried.
pub fn put_notification(out: &mut BytesMut, pid: i32, channel: &[u8]) {
    put(out, b'A', |out| {
        out.put_i32(pid);
        put_c_str(out, channel);
        put_c_str(out, b"");
    });
}

/// Copies an ErrorResponse or NoticeResponse with every text withheld that looks like it holds personal data or a secret;
/// says what was recognised first, and writes nothing when nothing was.
///
/// # Errors
/// When the body is not a list of fields.
pub fn put_looked(out: &mut BytesMut, tag: u8, mut fields: Fields<'_>) -> Result<Option<Kind>, CodecError> {
    let (mut texts, mut found) = (Vec::new(), None);
    loop {
        let field = match fields.u8()? {
            0 => break,
            field => field,
        };
        let text = fields.c_bytes()?;
        texts.push(match detect::find(text) {
            Some(kind) => {
                found.get_or_insert(kind);
                (
                    field,
                    Cow::Owned(format!("(withheld: it looks like it holds: {})", kind.as_str()).into_bytes()),
                )
            }
            None => (field, Cow::Borrowed(text)),
        });
    }
    if found.is_some() {
        put(out, tag, |out| {
            for (field, text) in &texts {
                out.put_u8(*field);
                put_c_str(out, text);
            }
            out.put_u8(0);
        });
    }
    Ok(found)
}

/// The SQLSTATE and severity of an ErrorResponse body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub sqlstate: String,
    pub fatal: bool,
    pub message: String,
}

/// Reads what the machine needs to know of an ErrorResponse.
///
/// # Errors
/// When the body is not a list of fields.
pub fn read(mut fields: Fields<'_>) -> Result<Seen, CodecError> {
    let mut seen = Seen { sqlstate: String::new(), fatal: false, message: String::new() };
    loop {
        match fields.u8()? {
            0 => return Ok(seen),
            b'C' => seen.sqlstate = String::from_utf8_lossy(fields.c_bytes()?).into_owned(),
            b'V' => seen.fatal = matches!(fields.c_bytes()?, b"FATAL" | b"PANIC"),
            b'M' => seen.message = String::from_utf8_lossy(fields.c_bytes()?).into_owned(),
            _ => {
                fields.c_bytes()?;
            }
        }
    }
}

/// Copies an ErrorResponse or NoticeResponse without the fields that can carry data of a masked relation.
///
/// Detail, hint, where, internal query and routine are dropped. The message stays only for SQLSTATE classes whose texts
/// name objects and states, not values. What code of the database's own says, in whatever class and fields it likes,
/// comes with the context it ran in (`W`): then the names of objects go as well.
///
/// # Errors
/// When the body is not a list of fields.
pub fn put_scrubbed(out: &mut BytesMut, tag: u8, body: Fields<'_>) -> Result<(), CodecError> {
    const SAFE_CLASSES: [&str; 6] = ["42", "40", "57", "53", "08", "25"];
    // Of a text that was sent, these tell a name and where it stands. Without a place, a value was read as one:
    // `value::regclass`, `value::tsquery`.
    const PLACED: [&str; 6] = ["42601", "42602", "42P01", "42703", "42704", "42883"];
    let seen = read(body)?;
    let (mut placed, mut in_code) = (false, false);
    let mut fields = body;
    let mut all: Vec<(u8, &[u8])> = Vec::new();
    loop {
        let field = match fields.u8()? {
            0 => break,
            field => field,
        };
        placed |= field == b'P';
        in_code |= field == b'W';
        all.push((field, fields.c_bytes()?));
    }
    let safe = SAFE_CLASSES.iter().any(|class| seen.sqlstate.starts_with(class))
        && !in_code
        && (placed || !PLACED.contains(&seen.sqlstate.as_str()));
    put(out, tag, |out| {
        for (field, text) in all {
            let text = match field {
                b'S' | b'V' | b'C' => text,
                b's' | b't' | b'c' | b'd' | b'n' if !in_code => text,
                b'M' if safe => text,
                b'M' => b"message withheld by policy: the statement touches masked columns",
                _ => continue,
            };
            out.put_u8(field);
            put_c_str(out, text);
        }
        out.put_u8(0);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::codec::{WHOLE_MAX, take};
    use super::*;

    fn error(fields: &[(u8, &str)]) -> BytesMut {
        let mut out = BytesMut::new();
        put(&mut out, b'E', |out| {
            for (field, text) in fields {
                out.put_u8(*field);
                put_c_str(out, text.as_bytes());
            }
            out.put_u8(0);
        });
        out
    }

    #[test]
    fn what_is_made_can_be_read() {
        let mut out = BytesMut::new();
        Report::new("42501", "no").hint("ask").put_fatal(&mut out);
        let message = take(&mut out, WHOLE_MAX).unwrap().unwrap();
        let seen = read(message.body()).unwrap();
        assert_eq!((seen.sqlstate.as_str(), seen.fatal, seen.message.as_str()), ("42501", true, "no"));
    }

    #[test]
    fn values_do_not_leave_in_errors_of_a_masked_relation() {
        let check = |code: &str, secret_in: u8| {
            let mut all = vec![(b'S', "ERROR"), (b'V', "ERROR"), (b'C', code)];
            all.push((secret_in, "Zebra-Quartz-91"));
            if secret_in != b'M' {
                all.push((b'M', "plain"));
            }
            let mut bytes = error(&all);
            let message = take(&mut bytes, WHOLE_MAX).unwrap().unwrap();
            let mut out = BytesMut::new();
            put_scrubbed(&mut out, b'E', message.body()).unwrap();
            assert!(!out.windows(5).any(|w| w == b"Zebra"), "{code} {}", char::from(secret_in));
            assert_eq!(read(take(&mut out, WHOLE_MAX).unwrap().unwrap().body()).unwrap().sqlstate, code);
        };
        for field in [b'D', b'H', b'q', b'R'] {
            check("42501", field);
            check("23505", field);
        }
        check("22P02", b'M');
        check("23505", b'M');
        check("P0001", b'M');
        // A value that was read as a name.
        check("42P01", b'M');
        check("42601", b'M');
    }

    #[test]
    fn code_of_the_databases_own_says_nothing_of_a_masked_relation() {
        for code in ["42501", "40001", "23505", "00000"] {
            let secret = "Zebra-Quartz-91";
            let fields = [b'M', b'D', b'H', b's', b't', b'c', b'd', b'n'].map(|field| (field, secret));
            let context = "PL/pgSQL function app.late() line 3 at RAISE";
            let all = [&[(b'S', "NOTICE"), (b'C', code)][..], &fields, &[(b'W', context)]].concat();
            let mut bytes = error(&all);
            let message = take(&mut bytes, WHOLE_MAX).unwrap().unwrap();
            let mut out = BytesMut::new();
            put_scrubbed(&mut out, b'N', message.body()).unwrap();
            assert!(!out.windows(5).any(|w| w == b"Zebra"), "{code}");
        }
    }

    #[test]
    fn what_stands_in_the_text_that_was_sent_is_told() {
        let mut bytes = error(&[(b'S', "ERROR"), (b'C', "42703"), (b'M', "column \"x\""), (b'P', "8")]);
        let message = take(&mut bytes, WHOLE_MAX).unwrap().unwrap();
        let mut out = BytesMut::new();
        put_scrubbed(&mut out, b'E', message.body()).unwrap();
        assert_eq!(read(take(&mut out, WHOLE_MAX).unwrap().unwrap().body()).unwrap().message, "column \"x\"");
    }
}
