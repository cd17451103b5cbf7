//! Names of unix sockets as typed: what is protected, what stays allowed. Pure.

/// Longest path, zero byte excluded (unix(7)).
const LONGEST: usize = 107;

/// Refuses names that cannot be one, and an allow-list that lets through what is protected.
pub(super) fn check(protected: &[(String, String)], allow: &[String], problems: &mut Vec<String>) {
    for (key, name) in protected {
        if name.ends_with('*') || !is_name(name) {
            problems.push(format!("{key}: `{name}` is not a path or @name of a unix socket"));
        }
        for entry in allow.iter().filter(|entry| covers(entry, name)) {
            problems.push(format!("intercept.unix_allow: `{entry}` allows `{name}`, which {key} protects"));
        }
    }
    for (index, entry) in allow.iter().enumerate() {
        let name = entry.strip_suffix('*').unwrap_or(entry);
        if !is_name(name) || name.contains('*') {
            problems.push(format!(
                "intercept.unix_allow: `{entry}` is not a path or @name of a unix socket, or the beginning of one with a `*`"
            ));
        } else if matches!(name, "/" | "@") {
            problems.push(format!("intercept.unix_allow: `{entry}` would allow everything"));
        }
        if allow.iter().take(index).any(|earlier| earlier.trim_end_matches('*') == name) {
            problems.push(format!("intercept.unix_allow: `{entry}` appears twice"));
        }
    }
    if !allow.is_empty() && protected.is_empty() {
        problems.push(
            "intercept.unix_allow: does nothing, because no target has `unix_sockets` to protect".to_owned(),
        );
    }
}

fn is_name(name: &str) -> bool {
    let clean = |path: &str| !path.split('/').any(|part| matches!(part, "." | "..")) && !path.contains("//");
    name.len() <= LONGEST
        && !name.contains('\0')
        && match name.as_bytes().first() {
            Some(b'/') => clean(name),
            Some(b'@') => true,
            _ => false,
        }
}

fn covers(entry: &str, name: &str) -> bool {
    match entry.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => entry == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_cannot_be_meant_are_refused() {
        let problems = |protected: &[&str], allow: &[&str]| {
            let protected: Vec<_> = protected
                .iter()
                .map(|&name| ("targets.shop.unix_sockets".to_owned(), name.to_owned()))
                .collect();
            let allow: Vec<_> = allow.iter().map(|&name| name.to_owned()).collect();
            let mut problems = Vec::new();
            check(&protected, &allow, &mut problems);
            problems
        };
        let socket = "/run/postgresql/.s.PGSQL.5432";
        assert_eq!(problems(&[socket, "@pg"], &["/run/app/*", "@app", "/run/x.sock"]), [""; 0]);
        for (protected, allow, word) in [
            (vec![socket], vec!["/run/postgresql/*"], "which targets.shop.unix_sockets protects"),
            (vec![socket], vec![socket], "protects"),
            (vec!["@pg"], vec!["@p*"], "protects"),
            (vec!["run/pg"], vec![], "is not a path"),
            (vec!["/run/pg*"], vec![], "is not a path"),
            (vec![socket], vec!["/run/app/../postgresql/x"], "is not a path"),
            (vec!["@pg"], vec!["/*"], "everything"),
            (vec!["@pg"], vec!["/run/a*b"], "is not a path"),
            (vec!["@pg"], vec!["/run/a", "/run/a*"], "twice"),
            (vec![], vec!["/run/a"], "does nothing"),
        ] {
            let found = problems(&protected, &allow);
            assert!(found.iter().any(|problem| problem.contains(word)), "{protected:?} {allow:?}: {found:?}");
        }
    }
}
