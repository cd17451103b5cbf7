//! As much of the protocol as it takes to run simple queries and keep everything a client sees.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

pub(crate) struct Server(UnixStream);

#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) results: Vec<Result>,
    /// SQLSTATE, and everything else of the error.
    pub(crate) error: Option<(String, String)>,
}

/// One result set with its tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Result {
    /// Table OID and column number.
    pub(crate) columns: Vec<(u32, i16)>,
    pub(crate) rows: Vec<Vec<Option<String>>>,
    pub(crate) tag: String,
}

impl Server {
    pub(crate) fn connect(database: &str) -> std::io::Result<Self> {
        let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let path = format!("{}/.s.PGSQL.{}", variable("PGHOST", "/tmp"), variable("PGPORT", "5432"));
        let mut server = Self(UnixStream::connect(path)?);
        let mut body = 196_608u32.to_be_bytes().to_vec();
        let options = [("user", "agent"), ("database", database), ("client_encoding", "UTF8")];
        for (key, value) in options.iter().chain(&[("search_path", "app,public,pg_temp")]) {
            body.extend_from_slice(key.as_bytes());
            body.push(0);
            body.extend_from_slice(value.as_bytes());
            body.push(0);
        }
        body.push(0);
        server.send(None, &body)?;
        server.reply()?;
        server.query("SET statement_timeout = 200")?;
        server.query("SET client_min_messages = error")?;
        Ok(server)
    }

    pub(crate) fn query(&mut self, sql: &str) -> std::io::Result<Reply> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        self.reply()
    }

    fn send(&mut self, tag: Option<u8>, body: &[u8]) -> std::io::Result<()> {
        let mut message: Vec<u8> = tag.into_iter().collect();
        message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(4).to_be_bytes());
        message.extend_from_slice(body);
        self.0.write_all(&message)
    }

    fn reply(&mut self) -> std::io::Result<Reply> {
        let mut reply = Reply::default();
        let mut current = Result::default();
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let [tag, length @ ..] = head;
            let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
            self.0.read_exact(&mut body)?;
            let mut body = Body(&body);
            match tag {
                b'T' => current.columns = body.columns(),
                b'D' => current.rows.push(body.row()),
                b'C' => {
                    current.tag = body.text();
                    reply.results.push(std::mem::take(&mut current));
                }
                b'I' => reply.results.push(Result::default()),
                b'E' => {
                    // What came before the error was seen, too.
                    reply.results.push(std::mem::take(&mut current));
                    reply.error = Some(body.error());
                }
                b'Z' => return Ok(reply),
                _ => {}
            }
        }
    }
}

struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((head, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *head
    }

    fn text(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        let text = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        text
    }

    fn columns(&mut self) -> Vec<(u32, i16)> {
        let count = i16::from_be_bytes(self.take());
        (0..count)
            .map(|_| {
                self.text();
                let origin = (u32::from_be_bytes(self.take()), i16::from_be_bytes(self.take()));
                self.take::<12>();
                origin
            })
            .collect()
    }

    fn row(&mut self) -> Vec<Option<String>> {
        let count = i16::from_be_bytes(self.take());
        (0..count)
            .map(|_| {
                let length = usize::try_from(i32::from_be_bytes(self.take())).ok()?;
                let (value, rest) = self.0.split_at(length);
                self.0 = rest;
                Some(String::from_utf8_lossy(value).into_owned())
            })
            .collect()
    }

    fn error(&mut self) -> (String, String) {
        let (mut code, mut rest) = (String::new(), String::new());
        while !matches!(self.0.first(), None | Some(0)) {
            let [field] = self.take::<1>();
            let text = self.text();
            match field {
                b'C' => code = text,
                _ => rest.push_str(&format!("{} {text}; ", char::from(field))),
            }
        }
        (code, rest)
    }
}
