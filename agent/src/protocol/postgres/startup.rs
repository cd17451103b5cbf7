//! The first packets of a connection: encryption requests, cancel requests, the startup message
//! (manual, "Message Formats": SSLRequest, GSSENCRequest, CancelRequest, StartupMessage).

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::{CodecError, Fields, put, put_c_str, put_untagged};
use super::options::{self, OptionsError};

/// The server's own limit on a startup packet (MAX_STARTUP_PACKET_LENGTH).
const STARTUP_MAX: usize = 10_000;

/// Protocol 3.2 (PostgreSQL 18): cancel keys of more than 4 bytes.
const NEWEST_MINOR: u16 = 2;

const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;

#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    #[error("startup packet of {0} bytes; between 8 and {STARTUP_MAX} are possible")]
    Length(usize),
    #[error("unsupported protocol {major}.{minor}: this server speaks 3.0")]
    Version { major: u16, minor: u16 },
    #[error("startup message names no user")]
    NoUser,
    #[error("parameter replication is neither a truth value nor \"database\"")]
    Replication,
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// What a connection opens with.
#[derive(Debug, PartialEq, Eq)]
pub enum Opening {
    Ssl,
    GssEnc,
    Cancel(CancelKey),
    Startup(Startup),
}

/// Process id and secret of a CancelRequest or BackendKeyData; the secret has 4 bytes up to protocol 3.0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    pub pid: i32,
    pub secret: Bytes,
}

/// What kind of replication connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// Of the server, in no database.
    Physical,
    /// Of one database; it understands SQL, too.
    Logical,
}

/// What a physical replication connection names as its database, as in `pg_hba.conf`: it is in none.
const NO_DATABASE: &str = "replication";

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Startup {
    pub user: String,
    pub database: String,
    pub application: Option<String>,
    /// The settings it asks for, all of them such that a SET could change them; the last of a name counts.
    pub parameters: Vec<(String, String)>,
    /// The last `search_path` it asks for: what becomes of that depends on what the session may do.
    pub search_path: Option<String>,
    /// The minor version that is spoken with it.
    pub minor: u16,
    /// Set for a replication connection.
    pub replication: Option<Replication>,
    /// Set when the client wants a newer minor version or protocol options.
    pub negotiate: Option<Vec<String>>,
}

/// Takes the next opening packet; `None` until it is whole.
///
/// # Errors
/// When it is none of those a server of protocol 3 knows.
pub fn take_opening(input: &mut BytesMut) -> Result<Option<Opening>, StartupError> {
    let Some((length, _)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if !(8..=STARTUP_MAX).contains(&length) {
        return Err(StartupError::Length(length));
    }
    if input.len() < length {
        return Ok(None);
    }
    let packet = input.split_to(length).freeze();
    let mut fields = Fields::new(0, packet.get(4..).unwrap_or_default());
    let code = fields.i32()?;
    match code {
        SSL_REQUEST => fields.end().map(|()| Some(Opening::Ssl)).map_err(Into::into),
        GSSENC_REQUEST => fields.end().map(|()| Some(Opening::GssEnc)).map_err(Into::into),
        CANCEL_REQUEST => {
            let pid = fields.i32()?;
            Ok(Some(Opening::Cancel(CancelKey { pid, secret: Bytes::copy_from_slice(fields.rest()) })))
        }
        version => read_startup(version, fields).map(|startup| Some(Opening::Startup(startup))),
    }
}

fn read_startup(version: i32, mut fields: Fields<'_>) -> Result<Startup, StartupError> {
    let [a, b, c, d] = version.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if major != 3 {
        return Err(StartupError::Version { major, minor });
    }
    let mut startup = Startup::default();
    let mut unknown_options = Vec::new();
    let (mut switches, mut settings) = (Vec::new(), Vec::new());
    loop {
        let key = fields.c_str()?;
        if key.is_empty() {
            break;
        }
        let value = fields.c_str()?;
        match key {
            "user" => value.clone_into(&mut startup.user),
            "database" => value.clone_into(&mut startup.database),
            "replication" => startup.replication = replication(value)?,
            key if key.starts_with("_pq_.") => unknown_options.push(key.to_owned()),
            // The last one counts, as it does for the server.
            "options" => switches = options::switches(value)?,
            key => settings.push((key.to_owned(), value.to_owned())),
        }
    }
    fields.end()?;
    if startup.user.is_empty() {
        return Err(StartupError::NoUser);
    }
    // The server takes switches first: a parameter beside them counts.
    for (name, value) in switches.into_iter().chain(settings) {
        if name.eq_ignore_ascii_case("search_path") {
            startup.search_path = Some(value);
            continue;
        }
        let Some(setting) = options::setting(&name, &value)? else { continue };
        if name.eq_ignore_ascii_case("application_name") {
            startup.application = Some(value);
        }
        startup.parameters.push(setting);
    }
    if startup.replication == Some(Replication::Physical) {
        // Whatever it says, so that a permit for one database is not one for all.
        NO_DATABASE.clone_into(&mut startup.database);
    }
    if startup.database.is_empty() {
        startup.database.clone_from(&startup.user);
    }
    startup.minor = minor.min(NEWEST_MINOR);
    if minor > NEWEST_MINOR || !unknown_options.is_empty() {
        startup.negotiate = Some(unknown_options);
    }
    Ok(startup)
}

/// The server takes truth values in any case, and their beginnings; so short ones are for nobody.
fn replication(value: &str) -> Result<Option<Replication>, StartupError> {
    match value {
        "database" => Ok(Some(Replication::Logical)),
        "true" | "on" | "yes" | "1" => Ok(Some(Replication::Physical)),
        "false" | "off" | "no" | "0" => Ok(None),
        _ => Err(StartupError::Replication),
    }
}

/// What the agent sends to open its own connection to the target.
pub fn put_startup(
    out: &mut BytesMut,
    user: &str,
    database: &str,
    client: &Startup,
    search_path: Option<&str>,
) {
    put_untagged(out, |out| {
        out.put_i32(0x0003_0000);
        let pinned = [("user", user), ("database", database), ("client_encoding", "UTF8")];
        let lexer = [("standard_conforming_strings", "on")];
        let path = search_path.map(|path| ("search_path", path));
        let replication = client.replication.map(|kind| match kind {
            Replication::Physical => ("replication", "true"),
            Replication::Logical => ("replication", "database"),
        });
        let asked = client.parameters.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in pinned.into_iter().chain(lexer).chain(path).chain(replication).chain(asked) {
            put_c_str(out, key.as_bytes());
            put_c_str(out, value.as_bytes());
        }
        out.put_u8(0);
    });
}

/// An SSLRequest, for the agent's own connection.
pub fn put_ssl_request(out: &mut BytesMut) {
    put_untagged(out, |out| out.put_i32(SSL_REQUEST));
}

/// A CancelRequest with the target's own key.
pub fn put_cancel(out: &mut BytesMut, key: &CancelKey) {
    put_untagged(out, |out| {
        out.put_i32(CANCEL_REQUEST);
        out.put_i32(key.pid);
        out.put_slice(&key.secret);
    });
}

/// Which version is spoken, if the client asked for another; it belongs before everything else.
pub fn put_negotiation(out: &mut BytesMut, startup: &Startup) {
    if let Some(options) = &startup.negotiate {
        put(out, b'v', |out| {
            // The whole version, as servers send it, and not the minor alone.
            out.put_u16(3);
            out.put_u16(startup.minor);
            out.put_i32(i32::try_from(options.len()).unwrap_or(0));
            for option in options {
                put_c_str(out, option.as_bytes());
            }
        });
    }
}

/// AuthenticationOk.
pub fn put_welcome(out: &mut BytesMut) {
    put(out, b'R', |out| out.put_i32(0));
}

pub fn put_key_data(out: &mut BytesMut, key: &CancelKey) {
    put(out, b'K', |out| {
        out.put_i32(key.pid);
        out.put_slice(&key.secret);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(version: i32, pairs: &[(&str, &str)]) -> BytesMut {
        let mut out = BytesMut::new();
        put_untagged(&mut out, |out| {
            out.put_i32(version);
            for (key, value) in pairs {
                put_c_str(out, key.as_bytes());
                put_c_str(out, value.as_bytes());
            }
            out.put_u8(0);
        });
        out
    }

    fn startup(version: i32, pairs: &[(&str, &str)]) -> Result<Startup, StartupError> {
        match take_opening(&mut packet(version, pairs))? {
            Some(Opening::Startup(startup)) => Ok(startup),
            other => panic!("not a startup: {other:?}"),
        }
    }

    #[test]
    fn settings_that_change_what_sql_means_are_refused() {
        let with = |name, value| startup(196_608, &[("user", "ann"), (name, value)]);
        for (name, value) in [
            ("standard_conforming_strings", "off"),
            ("options", "-c standard_conforming_strings=off"),
            ("options", "-c role=postgres"),
            ("options", "-O"),
            ("Options", "-c jit=off"),
            ("no_such_thing", "1"),
        ] {
            assert!(matches!(with(name, value), Err(StartupError::Options(_))), "{name} {value}");
        }
        assert_eq!(with("client_encoding", "SJIS").unwrap().parameters, []);
        for (name, value) in [("search_path", "a, b"), ("options", "-c jit=off --Search-path=a,\\ b")] {
            let got = with(name, value).unwrap();
            assert_eq!(got.search_path.as_deref(), Some("a, b"), "{name} {value}");
            assert!(got.parameters.iter().all(|(name, _)| name == "jit"), "{name} {value}");
        }
    }

    #[test]
    fn settings_are_passed_on_switches_first() {
        let got = startup(
            196_608,
            &[
                ("user", "ann"),
                ("TimeZone", "UTC"),
                ("application_name", "psql"),
                ("options", "-c statement_timeout=5s --application-name=switch"),
            ],
        )
        .unwrap();
        assert_eq!(got.database, "ann", "the database defaults to the user");
        assert_eq!(got.application.as_deref(), Some("psql"));
        let parameters: Vec<_> = got.parameters.iter().map(|(name, value)| (&**name, &**value)).collect();
        let switches = [("statement_timeout", "5s"), ("application_name", "switch")];
        assert_eq!(
            parameters,
            [&switches[..], &[("TimeZone", "UTC"), ("application_name", "psql")]].concat()
        );
    }

    #[test]
    fn replication_is_told_apart_and_physical_is_in_no_database() {
        let check = |value, kind, database| {
            let got =
                startup(196_608, &[("user", "a"), ("database", "crm"), ("replication", value)]).unwrap();
            assert_eq!((got.replication, got.database.as_str()), (kind, database), "{value}");
        };
        check("true", Some(Replication::Physical), "replication");
        check("database", Some(Replication::Logical), "crm");
        check("no", None, "crm");
    }

    #[test]
    fn openings_that_are_not_protocol_3_logins_are_refused() {
        assert!(matches!(startup(131_072, &[("user", "a")]), Err(StartupError::Version { major: 2, .. })));
        assert!(matches!(startup(196_608, &[]), Err(StartupError::NoUser)));
        for odd in ["", "t", "TRUE", "databas", "2"] {
            let replication = [("user", "a"), ("replication", odd)];
            assert!(matches!(startup(196_608, &replication), Err(StartupError::Replication)), "{odd}");
        }
        for length in [0u32, 7, 10_001, u32::MAX] {
            let mut bytes = BytesMut::from(&length.to_be_bytes()[..]);
            assert!(matches!(take_opening(&mut bytes), Err(StartupError::Length(_))), "{length}");
        }
    }

    #[test]
    fn a_newer_minor_version_is_negotiated_down() {
        let check = |version, options: &[(&str, &str)], minor, expect: &[u8]| {
            let pairs: Vec<_> = [("user", "a")].iter().chain(options).copied().collect();
            let got = startup(version, &pairs).unwrap();
            let mut out = BytesMut::new();
            put_negotiation(&mut out, &got);
            assert_eq!((got.minor, &out[..]), (minor, expect), "{version}");
        };
        check(196_608, &[], 0, b"");
        check(196_610, &[], 2, b"");
        check(196_611, &[], 2, b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0");
        check(196_608, &[("_pq_.x", "1")], 0, b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
    }

    #[test]
    fn every_truncation_waits() {
        let whole = packet(196_608, &[("user", "ann"), ("database", "crm")]);
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert!(matches!(take_opening(&mut part), Ok(None)), "cut at {cut}");
        }
    }

    #[test]
    fn a_cancel_request_keeps_its_key_whatever_its_length() {
        for length in [4, 32] {
            let key = CancelKey { pid: 7, secret: Bytes::from(vec![9; length]) };
            let mut out = BytesMut::new();
            put_cancel(&mut out, &key);
            assert_eq!(take_opening(&mut out).unwrap(), Some(Opening::Cancel(key)));
        }
    }
}
