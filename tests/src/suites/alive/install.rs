//! `install` and `uninstall` into a directory, as packages do it; what they make, keep and take away again.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::harness::report::Case;
use crate::harness::spawn::Program;
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case {
        name: "install makes program, directories, starters and units, and says so beforehand",
        run: install,
    },
    Case { name: "the starter configuration and policy fit each other", run: starters },
    Case { name: "systemd finds no fault with the unit, and its exposure is below 4.5", run: unit },
    Case { name: "installing again changes nothing, and never the operator's files", run: again },
    Case { name: "uninstall takes back what was made, and nothing that was changed", run: uninstall },
    Case { name: "uninstall --purge leaves nothing", run: purge },
];

/// Paths below the root with their modes, and the content of files that are not the program.
type Tree = BTreeMap<String, (u32, Vec<u8>)>;

fn root(world: &World) -> Result<PathBuf> {
    world.scratch.folder("root", 0o755)
}

fn chaperone(world: &World, command: &str, more: &[&str]) -> Result<String> {
    let root = root(world)?;
    world.agent.program(&[command, "--root"]).args([&root]).args(more).run()?.ok()
}

fn tree(world: &World) -> Result<Tree> {
    let root = root(world)?;
    let mut found = Tree::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(&root)?.to_string_lossy().into_owned();
            let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
            let is_program = name == "usr/local/bin/chaperone";
            let content = if path.is_file() && !is_program { fs::read(&path)? } else { Vec::new() };
            if path.is_dir() {
                folders.push(path);
            }
            found.insert(name, (mode, content));
        }
    }
    Ok(found)
}

fn install(world: &mut World) -> Result<()> {
    let planned = chaperone(world, "install", &["--dry-run"])?;
    ensure!(tree(world)?.is_empty(), "a dry run made something");
    let said = chaperone(world, "install", &[])?;
    for line in planned.lines().skip(1) {
        ensure!(said.contains(line), "planned and not done: {line}\n{said}");
    }
    let made = tree(world)?;
    for (name, mode) in [
        ("usr/local/bin/chaperone", 0o755),
        ("etc/chaperone", 0o750),
        ("etc/chaperone/policy", 0o750),
        ("etc/chaperone/chaperone.toml", 0o640),
        ("etc/chaperone/policy/ai-agents.cedar", 0o640),
        ("var/lib/chaperone", 0o700),
        ("etc/systemd/system/chaperone.service", 0o644),
        ("etc/systemd/system/chaperone.slice", 0o644),
    ] {
        let (found, _) = made.get(name).with_context(|| format!("{name} was not made:\n{said}"))?;
        ensure!(*found == mode, "{name} has mode {found:o}, not {mode:o}");
    }
    let same = fs::read(root(world)?.join("usr/local/bin/chaperone"))?
        == fs::read(world.scratch.path().join("chaperone"))?;
    ensure!(same, "the program is another one");
    Ok(())
}

fn starters(world: &mut World) -> Result<()> {
    let etc = root(world)?.join("etc/chaperone");
    let starter = fs::read_to_string(etc.join("chaperone.toml"))?;
    // As an operator would, with the example target switched on.
    let (before, example) = starter.split_once("# [[targets]]").context("no example target")?;
    let uncommented = example.lines().map(|line| line.strip_prefix("# ").unwrap_or(line));
    let edited = format!("{before}[[targets]]\n{}\n", uncommented.collect::<Vec<_>>().join("\n"));
    let secrets = world.scratch.folder("secrets", 0o700)?;
    fs::write(secrets.join("shop.password"), "secret")?;
    fs::set_permissions(secrets.join("shop.password"), fs::Permissions::from_mode(0o600))?;
    fs::copy(world.postgres.file("ca.pem"), secrets.join("shop-ca.pem"))?;
    for (name, text) in [("as-made", &starter), ("with-target", &edited)] {
        let text = text
            .replace("/etc/chaperone/shop", &format!("{}/shop", secrets.display()))
            .replace("Columns that arrive", "# Columns that arrive");
        let config = world.scratch.path().join(format!("{name}.toml"));
        fs::write(&config, format!("policy_dir = {:?}\n{text}", etc.join("policy")))?;
        Program::new(world.scratch.path().join("chaperone"))
            .args(["--config".as_ref(), config.as_os_str(), "check".as_ref()])
            .run()?
            .ok()
            .with_context(|| name.to_owned())?;
    }
    Ok(())
}

fn unit(world: &mut World) -> Result<()> {
    let units = world.scratch.folder("units", 0o755)?;
    let installed = root(world)?.join("etc/systemd/system");
    fs::copy(installed.join("chaperone.slice"), units.join("chaperone.slice"))?;
    let text = fs::read_to_string(installed.join("chaperone.service"))?;
    // systemd looks whether the program is there.
    let text =
        text.replace("/usr/local/bin/chaperone", &world.scratch.path().join("chaperone").to_string_lossy());
    let unit = units.join("chaperone.service");
    fs::write(&unit, text)?;
    let analyze = |args: &[&str]| Program::new("/usr/bin/systemd-analyze").args(args).args([&unit]).run();
    let verified = analyze(&["verify", "--man=no"])?;
    ensure!(verified.code == Some(0) && verified.stderr.is_empty(), "{verified}");
    let exposure = analyze(&["security", "--offline=yes", "--threshold=45"])?;
    ensure!(exposure.code == Some(0), "{exposure}");
    Ok(())
}

fn again(world: &mut World) -> Result<()> {
    let before = tree(world)?;
    let said = chaperone(world, "install", &[])?;
    ensure!(!said.contains("made") && !said.contains("replaced"), "{said}");
    ensure!(tree(world)? == before);
    let config = root(world)?.join("etc/chaperone/chaperone.toml");
    let service = root(world)?.join("etc/systemd/system/chaperone.service");
    fs::write(&config, "# mine\n")?;
    fs::write(&service, "# of an older version\n")?;
    let said = chaperone(world, "install", &[])?;
    ensure!(fs::read_to_string(&config)? == "# mine\n", "the operator's configuration was overwritten");
    ensure!(
        said.contains("replaced") && fs::read(&service)? == before["etc/systemd/system/chaperone.service"].1
    );
    Ok(())
}

fn uninstall(world: &mut World) -> Result<()> {
    let planned = chaperone(world, "uninstall", &["--dry-run"])?;
    let before = tree(world)?;
    let journal = root(world)?.join("var/lib/chaperone/journal");
    fs::create_dir(&journal)?;
    fs::write(journal.join("head"), "kept")?;
    let said = chaperone(world, "uninstall", &[])?;
    ensure!(planned.contains("removed") && before.len() > 8, "{planned}");
    let left: Vec<String> =
        tree(world)?.into_iter().filter(|(name, _)| !is_folder(world, name)).map(|(name, _)| name).collect();
    ensure!(left == ["etc/chaperone/chaperone.toml", "var/lib/chaperone/journal/head"], "{left:?}\n{said}");
    ensure!(said.contains("kept, because it was changed"), "{said}");
    Ok(())
}

fn is_folder(world: &World, name: &str) -> bool {
    root(world).is_ok_and(|root| root.join(name).is_dir())
}

fn purge(world: &mut World) -> Result<()> {
    chaperone(world, "uninstall", &["--purge"])?;
    for gone in ["etc/chaperone", "var/lib/chaperone"] {
        ensure!(!Path::new(&root(world)?).join(gone).exists(), "{gone} is still there");
    }
    Ok(())
}
