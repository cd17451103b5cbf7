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
        "time ls",
        "command rm x",
        "f() { rm x; }",
    ] {
        let analysis = analyse(text);
        assert!(analysis.dynamic.is_some(), "{text:?} is taken for plain: {:?}", analysis.commands);
        assert_eq!(analysis.line(), "", "{text:?}");
    }
}

#[test]
fn transfers_are_told_from_their_command_lines() {
    let rsync = |sends, path: &str| Some(Template::Rsync { sends, path: path.to_owned() });
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
        assert_eq!(analyse(text).template(), expect, "{text:?}");
    }
}

/// What is called plain is what a real shell would run: each command line is given to `sh`, with every program
/// replaced by one that prints its words.
#[test]
fn a_shell_agrees_about_plain_lines() {
    for line in ["r\\m -r'f' \"/a b\"", "ls 'a'\\''b' \"c\\\"d\"", "a-b c\\ d; e \"f\\\\g\" && h || i"] {
        let analysis = analyse(line);
        assert_eq!(analysis.dynamic, None, "{line}");
        for words in &analysis.commands {
            let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("printf '%s\\n' {}", quoted.join(" "))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), *words);
        }
    }
}
