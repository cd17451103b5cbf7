//! rsync: permitted by path, and its files on record one by one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Stage, TRUSTING};
use crate::harness::report::Case;
use crate::harness::spawn::{Output, Program};
use crate::harness::trail::holds;

pub(super) const CASES: &[Case<Stage>] = &[
    Case { name: "rsync pushes and pulls by path", run: rsync },
    Case { name: "rsync makes and follows links only where that is permitted", run: links },
    Case {
        name: "each file that rsync sends whole is on record with its digest, in every way of sending",
        run: listed,
    },
    Case {
        name: "files that rsync sends by differences or packed are named, and what is not known is said",
        run: partly,
    },
];

fn rsync(stage: &mut Stage) -> Result<()> {
    let shell = format!("ssh {} -p {}", TRUSTING.join(" "), stage.sshd.port);
    let local = stage.home("tree");
    fs::create_dir_all(&local)?;
    fs::write(local.join("a"), "a\n")?;
    let inside = stage.files("in/tree/");
    let run = |args: &[&str]| stage.client("/usr/bin/rsync")?.args(["-a", "-e", &shell]).args(args).run();
    let from = format!("{}/", local.display());
    run(&[&from, &format!("rsync@127.0.0.1:{inside}")])?.ok()?;
    ensure!(fs::read_to_string(stage.files("in/tree/a"))? == "a\n");
    holds(
        stage.trail("rsync")?.all("statement").first().context("nothing on record")?,
        &json!({"verdict": "permit", "step": "exec", "policies": ["bots-files", "bots-keep-links"]}),
    )?;
    let back = format!("{}/", stage.home("back").display());
    run(&["--delete", &format!("rsync@127.0.0.1:{inside}"), &back])?.ok()?;
    ensure!(fs::read_to_string(stage.home("back/a"))? == "a\n");
    for path in [stage.files("closed/"), stage.files("in/../closed/"), "/etc/".to_owned()] {
        let output = run(&[&from, &format!("rsync-out@127.0.0.1:{path}")])?;
        ensure!(output.code != Some(0) && output.stderr.contains("chaperone: denied"), "{path}: {output}");
    }
    ensure!(fs::read_dir(stage.files("closed"))?.count() == 1, "something was made in the closed folder");
    Ok(())
}

/// Names that sort in different ways by different rules.
const NAMES: [&str; 12] = ["a", "a.b", "a-b", "ab", "B", "\u{e9}", "z z", "A", "a b", "_", "~x", "0"];

fn tree(stage: &Stage) -> Result<PathBuf> {
    let root = stage.home("rsync-tree");
    let _ = fs::remove_dir_all(&root);
    for (i, folder) in NAMES.iter().enumerate() {
        let folder = root.join(folder);
        fs::create_dir_all(&folder)?;
        for (j, name) in NAMES.iter().enumerate() {
            match (i + j) % 3 {
                0 => fs::write(folder.join(name), format!("{i} {j}\n").repeat(j * j * j))?,
                1 => {
                    fs::create_dir(folder.join(name))?;
                    fs::write(folder.join(name).join("x"), format!("{j} {i}"))?;
                    fs::write(folder.join(name).join(name), format!("{j} in {i}"))?;
                }
                _ => {}
            }
        }
        fs::write(root.join(format!("file {i}")), "x".repeat(i * 20_011))?;
    }
    std::os::unix::fs::symlink("a/0", root.join("link"))?;
    Ok(root)
}

/// Paths below a folder with their digests.
fn digests(root: &Path) -> Result<BTreeMap<String, String>> {
    let script = "cd \"$1\" && find . -type f -exec sha256sum {} +";
    let text = Program::new("/bin/sh").args(["-c", script, "sh"]).args([root]).run()?.ok()?;
    text.lines()
        .map(|line| {
            let (digest, path) = line.split_once("  ./").with_context(|| line.to_owned())?;
            Ok((path.to_owned(), digest.to_owned()))
        })
        .collect()
}

impl Stage {
    fn rsync(&self, options: &[&str], from: &str, to: &str) -> Result<Output> {
        let shell = format!("ssh {} -p {}", TRUSTING.join(" "), self.sshd.port);
        self.client("/usr/bin/rsync")?.args(["-e", &shell]).args(options).args([from, to]).run()
    }

    /// What is on record of the files of a session: path, bytes, digest.
    fn listed(&self, login: &str, bytes: &str) -> Result<BTreeMap<String, (u64, Option<String>)>> {
        let trail = self.trail(login)?;
        let streams = trail.first("streams")?;
        ensure!(streams.get("unlisted").is_none(), "{streams}");
        let files = trail.all("file_content").into_iter().map(|event| {
            let digest = event.get("sha256").and_then(Value::as_str).map(str::to_owned);
            let path = event["path"].as_str().with_context(|| event.to_string())?;
            Ok((path.to_owned(), (event[bytes].as_u64().unwrap_or_default(), digest)))
        });
        files.collect()
    }
}

fn links(stage: &mut Stage) -> Result<()> {
    let root = stage.home("rsync-links");
    fs::create_dir_all(&root)?;
    fs::write(root.join("plain"), "plain")?;
    std::os::unix::fs::symlink(stage.files("closed"), root.join("way-out"))?;
    let (from, there) = (format!("{}/", root.display()), stage.files("in/rsync-links/"));
    let remote = format!("rs-out@127.0.0.1:{there}");
    for options in [&["-a"][..], &["-rl"], &["-rD"], &["-rK"], &["-a", "--no-D"], &["-a", "--safe-links"]] {
        let output = stage.rsync(options, &from, &remote)?;
        ensure!(
            output.code != Some(0) && output.stderr.contains("--no-links --no-D"),
            "{options:?}: {output}"
        );
    }
    ensure!(!Path::new(&there).exists(), "something was made");
    for options in [&["-rpt"][..], &["-a", "--no-links", "--no-D"], &["-a", "--safe-links", "--no-D"]] {
        stage.rsync(options, &from, &remote)?.ok()?;
        ensure!(fs::read_dir(&there)?.count() == 1, "{options:?} made a link");
    }
    let to = format!("{}/", stage.home("rsync-links-back").display());
    let output = stage.rsync(&["-rL"], &remote, &to)?;
    ensure!(output.code != Some(0) && output.stderr.contains("denied"), "{output}");
    stage.rsync(&["-a"], &remote, &to)?.ok().map(drop)
}

fn listed(stage: &mut Stage) -> Result<()> {
    let root = tree(stage)?;
    let expect = digests(&root)?;
    let ways: [(&str, &[&str]); 4] = [
        ("plain", &["-a"]),
        ("at-once", &["-a", "--no-inc-recursive", "--delete"]),
        ("older", &["-aHc", "--protocol=31"]),
        ("oldest", &["-aU", "--numeric-ids", "--protocol=30"]),
    ];
    for (name, options) in ways {
        let there = stage.files(&format!("in/rsync-{name}/"));
        let from = format!("{}/", root.display());
        stage.rsync(options, &from, &format!("rs-{name}@127.0.0.1:{there}"))?.ok()?;
        let back = stage.home(&format!("rsync-{name}"));
        let to = format!("{}/", back.display());
        stage.rsync(options, &format!("rs-{name}-back@127.0.0.1:{there}"), &to)?.ok()?;
        ensure!(digests(&back)? == expect, "{name}: the copy differs");
        for (login, bytes) in
            [(format!("rs-{name}"), "written_bytes"), (format!("rs-{name}-back"), "read_bytes")]
        {
            let told = stage.listed(&login, bytes)?;
            for (path, digest) in &expect {
                let size = fs::metadata(root.join(path))?.len();
                let entry = told.get(path);
                ensure!(
                    entry == Some(&(size, Some(digest.clone()))),
                    "{login}, {path}: {entry:?}, not {size} {digest}"
                );
            }
            ensure!(told.len() == expect.len(), "{login}: {} are on record of {}", told.len(), expect.len());
        }
    }
    let session = stage.trail("rs-plain")?.session;
    let text = stage.world.agent.command(&["replay", &session])?.ok()?;
    let digest = expect.get("file 3").context("no such file")?;
    ensure!(text.contains(&format!("written    file 3, 60033 bytes, sha256 {digest}")), "{text}");
    Ok(())
}

fn partly(stage: &mut Stage) -> Result<()> {
    let root = stage.home("rsync-parts");
    fs::create_dir_all(&root)?;
    let big = root.join("big");
    super::noise(&big, 1)?;
    fs::write(root.join("same"), "same")?;
    let there = stage.files("in/rsync-parts/");
    let from = format!("{}/", root.display());
    stage.rsync(&["-a"], &from, &format!("rs-first@127.0.0.1:{there}"))?.ok()?;
    let mut bytes = fs::read(&big)?;
    bytes.extend_from_slice(b"more");
    fs::write(&big, &bytes)?;
    stage.rsync(&["-a"], &from, &format!("rs-more@127.0.0.1:{there}"))?.ok()?;
    ensure!(fs::read(stage.files("in/rsync-parts/big"))? == bytes, "the copy differs");
    let told = stage.listed("rs-more", "written_bytes")?;
    let (sent, digest) = told.get("big").context("it is not on record")?;
    ensure!(told.len() == 1 && *sent < 100_000 && digest.is_none(), "{told:?}");
    let packed = stage.home("rsync-packed");
    let to = format!("{}/", packed.display());
    stage.rsync(&["-az"], &format!("rs-packed@127.0.0.1:{there}"), &to)?.ok()?;
    ensure!(fs::read(packed.join("big"))? == bytes, "the copy differs");
    let told = stage.listed("rs-packed", "read_bytes")?;
    let names: Vec<&String> = told.keys().collect();
    ensure!(names == ["big", "same"] && told.values().all(|(_, digest)| digest.is_none()), "{told:?}");
    // What is not known here goes through all the same.
    let to = format!("{}/", stage.home("rsync-unknown").display());
    stage.rsync(&["-aX"], &format!("rs-unknown@127.0.0.1:{there}"), &to)?.ok()?;
    let trail = stage.trail("rs-unknown")?;
    ensure!(trail.all("file_content").is_empty());
    holds(trail.first("streams")?, &json!({"unlisted": "an option that is not known here"}))?;
    let session = trail.session;
    let text = stage.world.agent.command(&["replay", &session])?.ok()?;
    ensure!(text.contains("unlisted   files may be missing above: an option"), "{text}");
    Ok(())
}
