//! Packed events, read as docs/journal.md describes them and not as the agent does.

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

const STEPS: [&str; 10] =
    ["query", "prepare", "execute", "exec", "shell", "pty", "subsystem", "file", "feature", "connect"];
const VERDICTS: [&str; 3] = ["permit", "deny", "hold"];

/// What is left to read of a payload.
struct Left<'a>(&'a [u8]);

/// The event in a frame of this kind; `None` where the kind is none of an event that is packed.
pub(super) fn event(kind: u32, payload: &[u8]) -> Result<Option<Value>> {
    let mut left = Left(payload);
    let event = match kind {
        6 => left.statement(),
        7 => left.result(),
        _ => return Ok(None),
    };
    let event = event.with_context(|| format!("a packed event of kind {kind}: {payload:02x?}"))?;
    ensure!(left.0.is_empty(), "{} bytes after {event}", left.0.len());
    Ok(Some(event))
}

impl<'a> Left<'a> {
    fn statement(&mut self) -> Result<Value> {
        let mut event = self.beginning("statement")?;
        event.insert("step".into(), (*STEPS.get(self.number()? as usize).context("no step")?).into());
        event
            .insert("verdict".into(), (*VERDICTS.get(self.number()? as usize).context("no verdict")?).into());
        event.insert("sql".into(), self.text()?.into());
        event.insert("sql_sha256".into(), self.digits()?.into());
        event.extend(self.optional("prepared", |left| Ok(left.number()?.into()))?);
        let binds = self.list(Self::bind)?;
        event.extend((!binds.is_empty()).then(|| ("binds".into(), binds.into())));
        event.insert("policies".into(), self.list(|left| Ok(left.text()?.into()))?.into());
        event.insert("policy".into(), self.digits()?.into());
        event.extend(self.optional("reason", |left| Ok(left.text()?.into()))?);
        let masked = self.list(|left| Ok(left.text()?.into()))?;
        event.extend((!masked.is_empty()).then(|| ("masked".into(), masked.into())));
        event.extend(self.optional("hold", |left| Ok(left.text()?.into()))?);
        Ok(event.into())
    }

    fn result(&mut self) -> Result<Value> {
        let mut event = self.beginning("result")?;
        for name in ["rows", "bytes", "masked_cells"] {
            event.insert(name.into(), self.number()?.into());
        }
        event.insert("tag".into(), self.text()?.into());
        event.extend(self.optional("sqlstate", |left| Ok(left.text()?.into()))?);
        event.extend(self.optional("served_to", |left| Ok(left.number()?.into()))?);
        let _what_was_served = self.optional("part", |left| {
            let (_offset, coding, _length) = (left.number()?, left.bytes(1)?, left.number()?);
            ensure!(coding[0] < 2, "coding {coding:?}");
            left.string().map(|_| Value::Null)
        })?;
        Ok(event.into())
    }

    fn beginning(&mut self, name: &str) -> Result<Map<String, Value>> {
        ensure!(self.number()? == 0, "another version");
        let mut event = Map::new();
        event.insert("event".into(), name.into());
        event.insert("session".into(), self.digits()?.into());
        event.insert("op".into(), self.number()?.into());
        Ok(event)
    }

    fn bind(&mut self) -> Result<Value> {
        Ok(match self.number()? {
            0 => json!("null"),
            1 => json!({ "text": self.text()? }),
            2 => json!({ "binary": self.text()? }),
            3 => json!({ "digest": { "bytes": self.number()?, "sha256": self.text()? } }),
            other => anyhow::bail!("no bind value of kind {other}"),
        })
    }

    /// Seven bits a byte, the lowest first.
    fn number(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        anyhow::bail!("a number without end")
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count).context("it ends inside a field")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn string(&mut self) -> Result<&'a [u8]> {
        let length = usize::try_from(self.number()?)?;
        self.bytes(length)
    }

    fn text(&mut self) -> Result<String> {
        Ok(String::from_utf8(self.string()?.to_vec())?)
    }

    fn digits(&mut self) -> Result<String> {
        Ok(self.string()?.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn list(&mut self, mut item: impl FnMut(&mut Self) -> Result<Value>) -> Result<Vec<Value>> {
        let length = self.number()?;
        (0..length).map(|_| item(self)).collect()
    }

    fn optional(
        &mut self,
        name: &str,
        field: impl FnOnce(&mut Self) -> Result<Value>,
    ) -> Result<Option<(String, Value)>> {
        match self.number()? {
            0 => Ok(None),
            1 => Ok(Some((name.to_owned(), field(self)?))),
            other => anyhow::bail!("{name} is neither there nor not: {other}"),
        }
    }
}
