use super::*;

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[test]
fn plain_commands_come_out_word_by_word() {
    for (text, expect) in [
        ("ls -l /srv", vec!["ls -l /srv"]),
        ("  uptime  ", vec!["uptime"]),
        (r"r\m -rf /", vec!["rm -rf /"]),
        (r#"'rm' -r"f" /"#, vec!["rm -rf /"]),
        ("ls; rm x && id || w | cat", vec!["ls", "rm x", "id", "w", "cat"]),
        ("ls;rm x&", vec!["ls", "rm x"]),
        ("sh -c 'ls; /bin/bash -c \"rm x\"'", vec!["ls", "rm x"]),
        ("ls 2>&1", vec!["ls"]),
        ("ls >/dev/null 2>&1; id", vec!["ls", "id"]),
        ("ls \\\n -l", vec!["ls -l"]),
        ("ls\nid\n", vec!["ls", "id"]),
        ("ls a=b", vec!["ls a=b"]),
    ] {
        let analysis = analyse(text);
        assert_eq!(analysis.dynamic, None, "{text:?}");
        let expect: Vec<Vec<String>> = expect.into_iter().map(words).collect();
        assert_eq!(analysis.commands, expect, "{text:?}");
    }
}

#[test]
fn what_a_text_does_not_say_is_dynamic() {
    for text in [
        "",
        " ",
        "$X",
        "ls $(id)",
        "ls `id`",
        "ls \"$(id)\"",
        "${IFS}",
        "ls *",
        "ls ?",
        "ls [a]",
        "{rm,-rf,/}",
        "(ls)",
        "if true; then rm x; fi",
        "for i in 1; do ls; done",
        "! ls",
        "eval ls",
        "exec ls",
        ". x",
        "source x",
        "X=1 ls",
        "LD_PRELOAD=/tmp/x.so ls",
        "ls > /etc/passwd",
        "ls >> x",
        "cat < /etc/shadow",
        "cat << E\nx\nE",
        "cat <<< x",
        "ls >(id)",
        "diff <(ls) x",
        "echo cm0K | base64 -d | sh",
        "bash",
        "bash script",
        "sh -s",
        "bash -lc ls",
        "python3 -c 'x'",
        "python3.11 x",
        "perl -e x",
        "sudo ls",
        "env ls",
        "/usr/bin/env ls",
        "xargs rm",
        "find / -exec rm x",
        "find . -delete",
        "nohup ls",
        "timeout 5 ls",
        "ssh other ls",
        "awk x",
        "sed x",
        "ls ~",
        "~/x",
        "cat x=~/y",
        "cat a:~",
        "\"\"~/x",
        "=ls",
        "ls # x",
        "ls \\",
        "ls 'x",
        "ls \"x",
        "ls |",
        "ls &&",
        "| ls",
        "; ls",
        "ls &> x",
        "ls >&x",
        "ls ;; id",
        "a\rb",
        "ls\u{a0}x",
        "%1",
        "\\",
        "''",
        "ls >/dev/nullx",
        "ls 2>&1x",
        "sh -c 'sh -c \"sh -c \\\"sh -c \\\\\\\"sh -c ls\\\\\\\"\\\"\"' x",
        "a ''2>&1",
        "a '2'>&1",
        "a \\2>&1",
        "a ''>&1",
        "a 12>&1",
        "time ls",
        "command rm x",
        "f() { rm x; }",
        "echo \u{4e03}\\; rm x",
        "echo \"\u{5f35}\\\"; rm x; \\\"\"",
        "echo \u{e9}|rm",
    ] {
        let analysis = analyse(text);
        assert!(analysis.dynamic.is_some(), "{text:?} is taken for plain: {:?}", analysis.commands);
        assert_eq!(analysis.line(), "", "{text:?}");
    }
}

#[test]
fn transfers_are_told_from_their_command_lines() {
    let rsync =
        |sends, path: &str| Some(Template::Rsync { sends, path: path.to_owned(), options: Vec::new() });
    for (text, expect) in [
        ("scp -t /tmp", None),
        ("rsync --server -vlogDtpre.iLsfxCIvu . /srv/x", rsync(false, "/srv/x")),
        ("rsync --server --sender -vlogDtpre.iLsfxCIvu . /srv/x", rsync(true, "/srv/x")),
        ("rsync --server -e.x --delete . x", rsync(false, "x")),
        ("rsync --server -vlogDtprse.iLsfxCIvu .", None),
        ("rsync --server -vlogDtprse.iLsfxCIvu . /srv/x", None),
        ("rsync --server -logRe.x . /srv/x", None),
        ("rsync --server -e.x -s . /srv/x", None),
        ("rsync --server --daemon .", None),
        ("rsync --server -e.x --log-file=/etc/x . x", None),
        ("rsync --server -e.x . --sender", None),
        (
            "git-upload-pack '/srv/a b.git'",
            Some(Template::Git { writes: false, repository: "/srv/a b.git".into() }),
        ),
        ("git-receive-pack 'x'", Some(Template::Git { writes: true, repository: "x".into() })),
        ("git-receive-pack x; ls", None),
        ("git-upload-pack --strict", None),
        ("git-upload-pack --timeout=1 x", None),
    ] {
        let mut template = analyse(text).template();
        if let Some(Template::Rsync { options, .. }) = &mut template {
            assert_eq!(options.is_empty(), !text.contains(" -"), "{text:?}");
            options.clear();
        }
        assert_eq!(template, expect, "{text:?}");
    }
}

/// Words, quotes, operators, and what each shell has of its own; blanks and words more often, so that lines come to something.
const PIECES: &[&str] = &[
    "a",
    "b",
    "ab",
    "c",
    "a",
    "b",
    " ",
    " ",
    " ",
    "  ",
    "\t",
    "\n",
    ";",
    "&&",
    "||",
    "|",
    "&",
    "'",
    "'",
    "\"",
    "\"",
    "\\",
    "\\\\",
    "\\\n",
    "$",
    "$a",
    "`",
    "*",
    "?",
    "~",
    "#",
    "!",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "=",
    "<",
    ">",
    "2>&1",
    ">/dev/null",
    "<(",
    "$'",
    "%",
    "^",
    ",",
    "-",
    "--",
    "\r",
    "\u{b}",
    "é",
    "\u{a0}",
    "1",
    "|&",
    ";;",
    "!!",
];

/// Lines to try: pieces at random, from a fixed beginning.
fn lines(count: usize) -> impl Iterator<Item = String> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    (0..count).map(move |_| {
        let pieces = 2 + random(12);
        let beginning = ["", "a ", "b\t"][random(3)];
        std::iter::once(beginning).chain((0..pieces).map(|_| PIECES[random(PIECES.len())])).collect()
    })
}

/// What `shell` runs of each line, with programs that only tell their words, and end with `status`.
fn run_by(shell: &str, status: u8, lines: &[String]) -> Vec<Vec<Vec<String>>> {
    let names =
        ["a", "b", "c", "aa", "ab", "ac", "ba", "bb", "bc", "ca", "cb", "cc", "aab", "aba", "abb", "bab"];
    // In one write each: those of a pipeline run side by side.
    let told =
        |name| format!("{name}() {{ printf '\\036%s' {name} \"$@\" \"$end\" >&3; return {status}; }}\n");
    let programs: String = names.map(told).concat();
    let script = format!(
        "end='\u{1d}'\n{programs}exec 3>&1 >/dev/null 2>&1 </dev/null\nfor line; do (eval \"$line\"; wait); printf '\\034' >&3; done\n"
    );
    let output = std::process::Command::new(shell)
        .args(["-c", &script, "sh"])
        .args(lines)
        .env_clear()
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut of_lines: Vec<Vec<Vec<String>>> = text
        .split('\u{1c}')
        .map(|ran| {
            let ran = ran.split_terminator('\u{1d}');
            let words = |words: &str| {
                let words = words.strip_suffix('\u{1e}').unwrap_or(words).split('\u{1e}').skip(1);
                words.map(str::to_owned).collect()
            };
            ran.map(words).collect()
        })
        .collect();
    assert_eq!(of_lines.pop(), Some(Vec::new()), "{shell} did not come to the end");
    assert_eq!(of_lines.len(), lines.len(), "{shell}");
    of_lines
}

/// Where a line is called plain, no shell runs anything else for it, nor with other words.
#[test]
fn shells_run_nothing_but_what_plain_lines_are_said_to_run() {
    let mut plain: Vec<String> =
        ["a\\b -r'f' \"/a b\"", "ab 'a'\\''b' \"c\\\"d\"", "a-b c\\ d; b \"f\\\\g\" && c || ab i"]
            .map(str::to_owned)
            .into();
    plain.extend(lines(40_000).filter(|line| analyse(line).dynamic.is_none()));
    assert!(plain.len() > 1000, "{} lines are too few", plain.len());
    for shell in ["/bin/dash", "/bin/bash"] {
        let mut ran = 0;
        // Success goes past `||`, failure past `&&`.
        for status in [0, 1] {
            for (line, told) in plain.iter().zip(run_by(shell, status, &plain)) {
                let mut ours = analyse(line).commands;
                for words in told {
                    let place = ours.iter().position(|known| *known == words);
                    let place = place
                        .unwrap_or_else(|| panic!("{shell} runs {words:?} for {line:?}, not in {ours:?}"));
                    ours.remove(place);
                    ran += 1;
                }
            }
        }
        assert!(ran > 1000, "{shell} ran {ran} programs for {} lines", plain.len());
    }
}
