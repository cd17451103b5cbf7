//! Run-time settings that a client asks for at login: parameters of the startup message, and command-line switches in
//! its `options` (libpq's `PGOPTIONS`). What a SET could change is passed on, everything else is an error: a setting
//! that is dropped in silence is a timeout somebody relies on and does not have.

use chaperone_sql::may_set_at_login;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    #[error("setting \"{}\" may not be chosen at login", printable(.0))]
    Setting(String),
    #[error("switch \"{}\" in the connection's options is not served", printable(.0))]
    Switch(String),
    #[error("setting \"{}\" in the connection's options has no value", printable(.0))]
    NoValue(String),
}

impl OptionsError {
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Setting(_) => {
                "Leave it out. Settings that change what a statement means, or what may be seen, are the agent's; \
                 whoever may do anything in the database can SET them once connected."
            }
            Self::Switch(_) | Self::NoValue(_) => "Write -c name=value or --name=value.",
        }
    }
}

/// What a client sent is shown in logs and records.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(64).collect()
}

/// One setting, as it is passed on; none for the encoding, which is UTF-8 whatever is asked: servers tell clients which
/// one is in use, and clients convert.
///
/// # Errors
/// When a SET could not change it to this.
pub(super) fn setting(name: &str, value: &str) -> Result<Option<(String, String)>, OptionsError> {
    if name.eq_ignore_ascii_case("client_encoding") {
        return Ok(None);
    }
    match may_set_at_login(name, value) {
        true => Ok(Some((name.to_owned(), value.to_owned()))),
        false => Err(OptionsError::Setting(name.to_owned())),
    }
}

/// The settings in `options`, in their order. Words and switches are told apart as the server does
/// (`pg_split_opts`, `process_postgres_switches`).
///
/// # Errors
/// When it holds anything but settings.
pub(super) fn switches(options: &str) -> Result<Vec<(String, String)>, OptionsError> {
    let mut words = words(options).into_iter();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let assignment = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(long), _) if !long.is_empty() => long.to_owned(),
            (None, Some("")) => words.next().ok_or_else(|| OptionsError::NoValue("-c".into()))?,
            (None, Some(rest)) => rest.to_owned(),
            _ => return Err(OptionsError::Switch(word)),
        };
        let Some((name, value)) = assignment.split_once('=') else {
            return Err(OptionsError::NoValue(assignment));
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// Whether a `search_path` is the one that is in force anyway: `pinned` has `pg_temp` behind it. So `currentSchema=public`
/// of a JDBC URL is no wish for anything else.
pub(super) fn is_pinned_path(asked: &str, pinned: &str) -> bool {
    let schema = |name: &str| name.trim().trim_matches('"').to_owned();
    let schemas = |path: &str| path.split(',').map(schema).collect::<Vec<_>>();
    let (asked, mut pinned) = (schemas(asked), schemas(pinned));
    if pinned.last().is_some_and(|last| last == "pg_temp")
        && asked.last().is_none_or(|last| last != "pg_temp")
    {
        pinned.pop();
    }
    // The catalogue comes first whether it is named or not.
    pinned.retain(|name| name != "pg_catalog");
    asked == pinned && asked.iter().all(|name| !name.is_empty())
}

/// Words between blanks; a backslash makes the next character part of one.
fn words(options: &str) -> Vec<String> {
    // isspace() in the C locale, which the server splits by.
    let blank = |letter: char| matches!(letter, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let mut words = Vec::new();
    let mut letters = options.chars().peekable();
    loop {
        while letters.next_if(|letter| blank(*letter)).is_some() {}
        if letters.peek().is_none() {
            return words;
        }
        let mut word = String::new();
        while let Some(letter) = letters.next_if(|letter| !blank(*letter)) {
            match letter {
                '\\' => word.extend(letters.next()),
                letter => word.push(letter),
            }
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_split_as_the_server_does() {
        let ok = |options, expect: &[(&str, &str)]| {
            let got = switches(options).unwrap();
            let got: Vec<_> = got.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(got, expect, "{options}");
        };
        ok("", &[]);
        ok("  \t\n", &[]);
        ok("-c statement_timeout=5s", &[("statement_timeout", "5s")]);
        ok("-cstatement_timeout=5s --work-mem=8MB", &[("statement_timeout", "5s"), ("work_mem", "8MB")]);
        ok(r"-c application_name=two\ words\\x", &[("application_name", r"two words\x")]);
        ok("-c jit=", &[("jit", "")]);
        ok("-c a=b=c", &[("a", "b=c")]);
        ok("-c a=x\\", &[("a", "x")]);
    }

    #[test]
    fn anything_but_settings_is_an_error() {
        for (options, error) in [
            ("-c", OptionsError::NoValue("-c".into())),
            ("-c jit", OptionsError::NoValue("jit".into())),
            ("--jit", OptionsError::NoValue("jit".into())),
            ("--", OptionsError::Switch("--".into())),
            ("-", OptionsError::Switch("-".into())),
            ("-e", OptionsError::Switch("-e".into())),
            ("-ec jit=off", OptionsError::Switch("-ec".into())),
            ("jit=off", OptionsError::Switch("jit=off".into())),
            ("-O -c jit=off", OptionsError::Switch("-O".into())),
        ] {
            assert_eq!(switches(options), Err(error), "{options}");
        }
    }

    #[test]
    fn only_what_a_set_could_change_is_passed_on() {
        assert!(matches!(setting("TimeZone", "UTC"), Ok(Some(_))));
        assert!(matches!(setting("standard_conforming_strings", "on"), Ok(Some(_))));
        assert_eq!(setting("client_encoding", "SJIS"), Ok(None));
        for name in ["role", "session_authorization", "row_security", "my.own", "no\0such"] {
            assert!(setting(name, "on").is_err(), "{name}");
        }
        assert!(setting("standard_conforming_strings", "off").is_err());
        assert!(setting("client_min_messages", "debug5").is_err());
    }

    #[test]
    fn the_path_that_is_in_force_may_be_asked_for() {
        let pinned = r#""pg_catalog", "app", "public", "pg_temp""#;
        for asked in ["app, public", "app,public", r#""app", "public""#, "app,public,pg_temp"] {
            assert!(is_pinned_path(asked, pinned), "{asked}");
        }
        for asked in
            ["", "public", "public, app", "pg_temp, app, public", "app", "App, public", "app, public, other"]
        {
            assert!(!is_pinned_path(asked, pinned), "{asked}");
        }
        assert!(!is_pinned_path("", ""));
    }

    #[test]
    fn an_error_shows_no_control_characters() {
        let said = OptionsError::Setting("a\x1b[2Jb\r\nc".into()).to_string();
        assert_eq!(said, "setting \"a[2Jbc\" may not be chosen at login");
    }
}
