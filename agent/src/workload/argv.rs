//! Arguments as the record may keep them: without the passwords people put there. Pure.
//!
//! An aid, not a boundary: only the usual spellings are known.

const HIDDEN: &str = "***";

/// Words whose value, behind `=` or in the next argument, is a secret.
const SECRET: &[&str] = &["password", "passwd", "pwd", "token", "secret", "api-key", "apikey"];

/// The arguments with passwords in URLs, `password=...` and `--password ...` replaced.
pub(super) fn redacted(argv: &[String]) -> Vec<String> {
    let mut next_is_secret = false;
    argv.iter()
        .map(|argument| {
            let hide = std::mem::replace(&mut next_is_secret, is_secret_option(argument));
            if hide && !argument.starts_with('-') { HIDDEN.to_owned() } else { redact(argument) }
        })
        .collect()
}

/// `--password` alone; its value comes next.
fn is_secret_option(argument: &str) -> bool {
    argument.strip_prefix("--").is_some_and(|name| SECRET.contains(&name.to_ascii_lowercase().as_str()))
}

fn redact(argument: &str) -> String {
    redact_urls(&redact_assignments(argument))
}

/// `postgres://user:password@host`.
fn redact_urls(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after.find(['/', '?', ' ', '\'', '"']).unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
            Some((user, host)) => out.push_str(&format!("{user}:{HIDDEN}@{host}")),
            None => out.push_str(authority),
        }
        rest = behind;
    }
    out + rest
}

/// `password=...` in connection strings, variables and options.
fn redact_assignments(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut out = String::new();
    let mut from = 0;
    for (at, _) in lower.match_indices('=').filter(|(at, _)| ends_in_secret(lower.get(..*at).unwrap_or(""))) {
        if at < from {
            continue;
        }
        let value = text.get(at + 1..).unwrap_or("");
        let length = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                value.get(1..).and_then(|inside| inside.find(quote)).map_or(value.len(), |end| end + 2)
            }
            _ => value.find([' ', '&', ';']).unwrap_or(value.len()),
        };
        out.push_str(text.get(from..=at).unwrap_or(""));
        out.push_str(HIDDEN);
        from = at + 1 + length;
    }
    out + text.get(from..).unwrap_or("")
}

fn ends_in_secret(name: &str) -> bool {
    SECRET.iter().any(|secret| name.ends_with(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_the_usual_places_are_hidden_and_the_rest_stays() {
        let cases: [(&[&str], &[&str]); 9] = [
            (&["psql", "-c", "select 1"], &["psql", "-c", "select 1"]),
            (&["psql", "postgres://bot:s3cr@t@db:5432/x"], &["psql", "postgres://bot:***@db:5432/x"]),
            (&["psql", "postgres://bot@db/x"], &["psql", "postgres://bot@db/x"]),
            (&["psql", "host=db password=s3cret user=bot"], &["psql", "host=db password=*** user=bot"]),
            (&["psql", "password='s3 cret' user=bot"], &["psql", "password=*** user=bot"]),
            (&["env", "PGPASSWORD=x", "psql"], &["env", "PGPASSWORD=***", "psql"]),
            (&["tool", "--password", "x", "--quiet"], &["tool", "--password", "***", "--quiet"]),
            (&["tool", "--password=x", "--token", "-v"], &["tool", "--password=***", "--token", "-v"]),
            (&["x", "a?password=1&b=2", "é=ü"], &["x", "a?password=***&b=2", "é=ü"]),
        ];
        for (given, expected) in cases {
            let given: Vec<String> = given.iter().map(|&argument| argument.to_owned()).collect();
            assert_eq!(redacted(&given), expected, "{given:?}");
        }
    }
}
