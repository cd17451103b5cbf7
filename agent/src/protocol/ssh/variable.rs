//! Variables a client sets for what runs in its session: those that always pass, those that never do, and the rest, about
//! which policy is asked.
//!
//! The list of those that never pass is of what is known to make a loader, a shell, an interpreter or a common program run or
//! load something else. It cannot be complete: every program has variables of its own. So policy permits by name.

/// What becomes of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sort {
    Passes,
    Asks { name: String, value: String },
    Never(&'static str),
}

/// Longest name.
const NAME_MAX: usize = 80;

pub(super) fn sort(name: &str, value: &str) -> Sort {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.len() > NAME_MAX || !name.chars().all(letter) || !name.starts_with(|c: char| !c.is_ascii_digit())
    {
        // Also what is no name to a shell: functions, and a `=` that would make it another variable.
        return Sort::Never("it is no name of a variable");
    }
    // Language and terminal, and the version git wants to speak.
    match name {
        "LANG" | "LC_ALL" | "LC_CTYPE" if !reads_plainly(value) => {}
        "LANG" | "GIT_PROTOCOL" | "COLORTERM" => return Sort::Passes,
        _ if name.starts_with("LC_") => return Sort::Passes,
        _ => {}
    }
    // Some programs look for them in either spelling.
    let upper = name.to_ascii_uppercase();
    if NEVER.contains(&upper.as_str()) || NEVER_PREFIXES.iter().any(|prefix| upper.starts_with(prefix)) {
        return Sort::Never("it can make a program run or load another");
    }
    Sort::Asks { name: name.to_owned(), value: value.to_owned() }
}

/// A locale in which command lines are read as they are decided: with another character set a shell may take a letter and the sign
/// behind it for one.
fn reads_plainly(locale: &str) -> bool {
    let name = locale.split('@').next().unwrap_or_default();
    let utf8 = name
        .rsplit_once('.')
        .is_some_and(|(_, set)| set.eq_ignore_ascii_case("UTF-8") || set.eq_ignore_ascii_case("UTF8"));
    utf8 || matches!(name, "" | "C" | "POSIX")
}

/// Everything of a loader, an interpreter, or a program that runs others by it.
const NEVER_PREFIXES: &[&str] = &[
    "LD_", "DYLD_", "BASH_", "GIT_", "SSH_", "SUDO_", "PYTHON", "PERL", "RUBY", "NODE_", "NPM_", "LUA_",
    "PHP", "TCL", "JAVA_", "JDK_", "_JAVA", "MAVEN_", "GRADLE_", "RSYNC_", "LESS", "GCONV_", "MALLOC_",
    "GLIBC_", "DOTNET_", "CORECLR_", "OPENSSL_", "SYSTEMD_",
];

const NEVER: &[&str] = &[
    "PATH",
    "ENV",
    "SHELL",
    "SHELLOPTS",
    "BASHOPTS",
    "IFS",
    "CDPATH",
    "PS1",
    "PS2",
    "PS4",
    "PROMPT_COMMAND",
    "FPATH",
    "ZDOTDIR",
    "HOME",
    "USER",
    "LOGNAME",
    "MAIL",
    "TMPDIR",
    "TERMINFO",
    "TERMINFO_DIRS",
    "TERMCAP",
    "LOCPATH",
    "NLSPATH",
    "HOSTALIASES",
    "RES_OPTIONS",
    "LOCALDOMAIN",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "MANPAGER",
    "BROWSER",
    "CLASSPATH",
    "MAKEFLAGS",
    "MFLAGS",
    "CC",
    "CXX",
    "TAR_OPTIONS",
    "TAPE",
    "GZIP",
    "XZ_OPT",
    "VIMINIT",
    "EXINIT",
    "MYVIMRC",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_RUNTIME_DIR",
    "INPUTRC",
    "PSQLRC",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "MYSQL_HOME",
    "HGRCPATH",
    "SVN_SSH",
    "CVS_RSH",
    "KUBECONFIG",
    "DOCKER_HOST",
    "DISPLAY",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_something_never_passes_and_the_rest_is_asked_about() {
        let asks = |name: &str| Sort::Asks { name: name.to_owned(), value: "v".to_owned() };
        for name in ["LC_x", "LC_TIME", "GIT_PROTOCOL", "COLORTERM"] {
            assert_eq!(sort(name, "v"), Sort::Passes, "{name}");
        }
        for name in ["LANG", "LC_ALL", "LC_CTYPE"] {
            for plain in ["", "C", "POSIX", "C.UTF-8", "de_DE.utf8", "ca_ES.UTF-8@valencia"] {
                assert_eq!(sort(name, plain), Sort::Passes, "{name}={plain}");
            }
            for other in ["zh_TW", "zh_TW.BIG5", "zh_CN.GBK", "ja_JP.SJIS", "x.UTF-8/../zh_TW.BIG5", "/tmp/x"]
            {
                assert!(matches!(sort(name, other), Sort::Asks { .. }), "{name}={other}");
            }
        }
        for name in ["RELEASE", "TZ", "http_proxy", "DEPLOY_ID", "_x", "GITHUB_SHA", "LANGUAGE", "TERM"] {
            assert_eq!(sort(name, "v"), asks(name), "{name}");
        }
        for name in [
            "LD_PRELOAD",
            "ld_preload",
            "PATH",
            "BASH_ENV",
            "ENV",
            "GIT_SSH_COMMAND",
            "GIT_CONFIG_COUNT",
            "PYTHONPATH",
            "PERL5OPT",
            "NODE_OPTIONS",
            "BASH_FUNC_ls%%",
            "LC_A=B",
            "A=B",
            "",
            "1A",
            "A B",
            "\u{e9}",
            "PROMPT_COMMAND",
            "LESSOPEN",
        ] {
            assert!(matches!(sort(name, "v"), Sort::Never(_)), "{name}");
        }
        assert!(matches!(sort(&"A".repeat(81), "v"), Sort::Never(_)));
    }
}
