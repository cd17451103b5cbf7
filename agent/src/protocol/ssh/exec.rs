//! What a command line would run, as far as its text says.
//!
//! The target's login shell reads the line, and which shell that is nobody tells. So this understands only what every
//! POSIX shell understands alike: words, quotes, `;`, `&&`, `||`, `|`, newline, and `sh -c` around more of it. Whatever
//! expands, redirects into files, changes the environment or hands words to another interpreter is *dynamic*: its
//! effect is not in its text. A dynamic command is another action to policy, never a plain one. This small grammar is on
//! purpose: where it and a shell could differ about a line, the line is dynamic.
//!
//! Limits: what an ordinary program does with its arguments is not known here. A policy that permits `tar` permits
//! `tar --to-command`.

/// `sh -c` inside `sh -c`.
const DEPTH_MAX: usize = 4;

/// What a command line comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Analysis {
    /// The words of each command, in order.
    pub(super) commands: Vec<Vec<String>>,
    /// Why its effect cannot be told from its text.
    pub(super) dynamic: Option<String>,
}

/// A command that is known to serve a file transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Template {
    Rsync { sends: bool, path: String, options: Vec<String> },
    Git { writes: bool, repository: String },
}

impl Analysis {
    /// Names of the programs, as written.
    pub(super) fn programs(&self) -> Vec<String> {
        self.commands.iter().filter_map(|words| words.first().cloned()).collect()
    }

    /// The one command, its words joined by single spaces and quoted where needed; empty if there are more.
    pub(super) fn line(&self) -> String {
        match self.commands.as_slice() {
            [words] if self.dynamic.is_none() => {
                words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
            }
            _ => String::new(),
        }
    }

    pub(super) fn template(&self) -> Option<Template> {
        let [words] = self.commands.as_slice() else { return None };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["rsync", "--server", rest @ ..] => rsync(rest),
            ["git-upload-pack" | "git-upload-archive", repository] if !repository.starts_with('-') => {
                Some(Template::Git { writes: false, repository: (*repository).to_owned() })
            }
            ["git-receive-pack", repository] if !repository.starts_with('-') => {
                Some(Template::Git { writes: true, repository: (*repository).to_owned() })
            }
            _ => None,
        }
    }
}

/// `rsync --server [--sender] -flags [--known-options] . path`; anything else is no transfer we know.
fn rsync(rest: &[&str]) -> Option<Template> {
    const KNOWN: &[&str] = &[
        "--delete",
        "--delete-before",
        "--delete-during",
        "--delete-delay",
        "--delete-after",
        "--partial",
        "--numeric-ids",
        "--inplace",
        "--ignore-existing",
        "--existing",
        "--force",
        "--size-only",
        "--no-implied-dirs",
        "--dirs",
        "--no-r",
        "--stats",
        "--safe-links",
        "--mkpath",
    ];
    let (sends, rest) = match rest {
        ["--sender", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let [options @ .., ".", path] = rest else { return None };
    // The letters say how to copy; `e` brings what the other side can, which looks like `e.iLsfxCIvu`. Not `s`, with
    // which the paths come by another way than the command line, and not `R`, with which the client names folders.
    let harmless = |option: &&str| {
        KNOWN.contains(option)
            || option.strip_prefix('-').is_some_and(|letters| {
                let how = letters.split('e').next().unwrap_or_default();
                !letters.starts_with('-')
                    && letters.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
                    && !how.contains(['s', 'R'])
            })
    };
    let options_of = || options.iter().map(|option| (*option).to_owned()).collect();
    (options.iter().all(harmless) && !path.starts_with('-')).then(|| Template::Rsync {
        sends,
        path: (*path).to_owned(),
        options: options_of(),
    })
}

/// Reads a command line.
pub(super) fn analyse(text: &str) -> Analysis {
    let mut analysis = Analysis::default();
    if let Err(why) = read(text, 0, &mut analysis.commands) {
        analysis.dynamic = Some(why);
    } else if analysis.commands.is_empty() {
        analysis.dynamic = Some("it is empty".to_owned());
    }
    analysis
}

/// Appends the commands of `text`; an error says why it is dynamic.
fn read(text: &str, depth: usize, commands: &mut Vec<Vec<String>>) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err("shells within shells".to_owned());
    }
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    // A part of the word that is under way was quoted.
    let mut marked = false;
    let mut chars = text.chars().peekable();
    let mut expects_command = false;
    let mut before = ' ';
    while let Some(c) = chars.next() {
        swallowed(std::mem::replace(&mut before, c), c)?;
        marked = match c {
            ' ' | '\t' | '\n' | ';' | '|' | '&' => false,
            '\\' | '\'' | '"' => true,
            _ => marked,
        };
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\n' | ';' | '|' | '&' => {
                words.extend(word.take());
                let doubled = matches!(c, '|' | '&') && chars.next_if_eq(&c).is_some();
                if matches!(chars.peek(), Some('&' | '|' | '>' | ';')) {
                    return Err(format!("`{c}` before another operator"));
                }
                if words.is_empty() && (expects_command || c != '\n') {
                    return Err(format!("`{c}` without a command before it"));
                }
                expects_command = matches!(c, '|') || doubled;
                finish(std::mem::take(&mut words), depth, commands)?;
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err("it ends in a backslash".to_owned()),
            },
            '\'' => single_quoted(&mut chars, word.get_or_insert_default())?,
            '"' => double_quoted(&mut chars, word.get_or_insert_default())?,
            '>' | '<' => redirect(c, &mut chars, (word.take(), marked), &mut words)?,
            '#' if word.is_none() => return Err("a comment".to_owned()),
            '=' if word.is_none() => return Err("`=` at the beginning of a word expands".to_owned()),
            // Also behind the signs where bash expands it in the middle of a word.
            '~' if word.as_ref().is_none_or(|word| word.is_empty() || word.ends_with(['=', ':'])) => {
                return Err("`~` expands".to_owned());
            }
            '$' | '`' | '*' | '?' | '[' | ']' | '{' | '}' | '(' | ')' | '!' | '^' => {
                return Err(format!("`{c}` expands or groups"));
            }
            c if c.is_control() || (c.is_whitespace() && !c.is_ascii()) => {
                return Err("a control character".to_owned());
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if words.is_empty() && expects_command {
        return Err("it ends in an operator".to_owned());
    }
    finish(words, depth, commands)
}

/// In the locales of Big5, GBK and Shift JIS the last byte of a letter and the sign behind it can be one letter to a shell:
/// then that sign is neither an escape nor an operator.
fn swallowed(before: char, c: char) -> Result<(), String> {
    if !before.is_ascii() && matches!(c, '\\' | '|') {
        return Err(format!("`{c}` behind a letter that other character sets read with it"));
    }
    Ok(())
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn single_quoted(chars: &mut Chars<'_>, word: &mut String) -> Result<(), String> {
    for c in chars.by_ref() {
        match c {
            '\'' => return Ok(()),
            '\0' => return Err("a control character".to_owned()),
            c => word.push(c),
        }
    }
    Err("a quote is not closed".to_owned())
}

fn double_quoted(chars: &mut Chars<'_>, word: &mut String) -> Result<(), String> {
    let mut before = '"';
    while let Some(c) = chars.next() {
        swallowed(std::mem::replace(&mut before, c), c)?;
        match c {
            '"' => return Ok(()),
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c @ ('$' | '`' | '"' | '\\')) => word.push(c),
                Some(c) => word.extend(['\\', c]),
                None => break,
            },
            '$' | '`' | '!' => return Err(format!("`{c}` expands")),
            '\0' => return Err("a control character".to_owned()),
            c => word.push(c),
        }
    }
    Err("a quote is not closed".to_owned())
}

/// `2>&1` and /dev/null change nothing outside; every other redirection reads or writes what no rule is asked about.
fn redirect(
    c: char,
    chars: &mut Chars<'_>,
    (word, marked): (Option<String>, bool),
    words: &mut Vec<String>,
) -> Result<(), String> {
    // A digit right before it is a file descriptor, other text a word. Quoted digits are words, and more than one digit
    // is a word to some shells.
    match word {
        Some(number) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            if marked || number.len() != 1 {
                return Err("a number before a redirection".to_owned());
            }
        }
        other => words.extend(other),
    }
    let rest: String = chars.clone().collect();
    let harmless = ["&1", "&2", "/dev/null", " /dev/null", ">/dev/null", "> /dev/null"];
    for target in harmless {
        let ends = rest
            .strip_prefix(target)
            .is_some_and(|after| after.is_empty() || after.starts_with([' ', '\t', '\n', ';', '|', '&']));
        if ends && !(c == '<' && target.starts_with('>')) {
            chars.nth(target.chars().count() - 1);
            return Ok(());
        }
    }
    Err("it redirects to or from a file".to_owned())
}

/// One simple command.
fn finish(words: Vec<String>, depth: usize, commands: &mut Vec<Vec<String>>) -> Result<(), String> {
    let Some(first) = words.first() else { return Ok(()) };
    if first.contains('=') {
        return Err("it changes the environment of a command".to_owned());
    }
    if first.is_empty() || first.starts_with('%') || SHELL_WORDS.contains(&first.as_str()) {
        return Err(format!("`{first}` belongs to the shell"));
    }
    let name = first.rsplit('/').next().unwrap_or_default();
    if SHELLS.contains(&name) {
        return match words.as_slice() {
            [_, option, text] if option == "-c" => read(text, depth + 1, commands),
            _ => Err(format!("`{name}` reads its commands from elsewhere")),
        };
    }
    if name == "scp" {
        return Err("scp -O says nothing of its files here; scp without -O is decided by file".to_owned());
    }
    // python3.11 is python3 is python.
    let family = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if INTERPRETERS.contains(&name) || INTERPRETERS.contains(&family) {
        return Err(format!("`{name}` runs what its arguments or its input say"));
    }
    if name == "find"
        && words.iter().any(|word| {
            matches!(
                word.as_str(),
                "-exec"
                    | "-execdir"
                    | "-ok"
                    | "-okdir"
                    | "-delete"
                    | "-fprint"
                    | "-fprintf"
                    | "-fprint0"
                    | "-fls"
            )
        })
    {
        return Err("`find` with an action".to_owned());
    }
    commands.push(words);
    Ok(())
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "rbash"];

/// Reserved words, and builtins that run or change what is not in the words.
const SHELL_WORDS: &[&str] = &[
    "if",
    "then",
    "else",
    "elif",
    "fi",
    "do",
    "done",
    "case",
    "esac",
    "while",
    "until",
    "for",
    "in",
    "function",
    "select",
    "time",
    "coproc",
    "[[",
    "eval",
    "exec",
    "source",
    ".",
    "command",
    "builtin",
    "trap",
    "alias",
    "unalias",
    "set",
    "unset",
    "export",
    "readonly",
    "declare",
    "typeset",
    "local",
    "read",
    "mapfile",
    "enable",
    "hash",
    "bind",
    "shopt",
    "umask",
    "ulimit",
    "fc",
    "history",
    "jobs",
    "fg",
    "bg",
    "wait",
    "noglob",
    "nocorrect",
];

/// Programs whose business is to run other programs, or programs of their input. Not complete, and need not be: a
/// policy names the programs it permits.
const INTERPRETERS: &[&str] = &[
    "env",
    "sudo",
    "su",
    "doas",
    "runuser",
    "pkexec",
    "xargs",
    "parallel",
    "nohup",
    "nice",
    "ionice",
    "timeout",
    "setsid",
    "stdbuf",
    "chroot",
    "unshare",
    "nsenter",
    "setpriv",
    "capsh",
    "watch",
    "script",
    "expect",
    "strace",
    "ltrace",
    "gdb",
    "perf",
    "busybox",
    "toybox",
    "python",
    "perl",
    "ruby",
    "node",
    "nodejs",
    "php",
    "lua",
    "tclsh",
    "awk",
    "gawk",
    "mawk",
    "nawk",
    "sed",
    "ed",
    "ex",
    "vi",
    "vim",
    "nvim",
    "emacs",
    "csh",
    "tcsh",
    "fish",
    "pwsh",
    "make",
    "ssh",
    "sftp",
    "socat",
    "nc",
    "ncat",
    "at",
    "batch",
    "crontab",
    "systemd-run",
    "docker",
    "podman",
    "kubectl",
    "tmux",
    "screen",
    "start-stop-daemon",
    "flock",
    "taskset",
    "chrt",
    "cpulimit",
    "proot",
    "fakeroot",
];

#[cfg(test)]
mod tests;
