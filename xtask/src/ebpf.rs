//! Builds the kernel programs with the compiler that scripts/prereqs.sh chose, and leaves the object where
//! agent/build.rs looks for it: `bpf/chaperone.bpf.o` in the target directory.
//!
//! The build is a cargo of its own with a target directory of its own: it must not see the outer cargo's variables
//! (a lint's compiler wrapper, for one), and it must not wait for the outer cargo's lock.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

const TARGET: &str = "bpfel-unknown-none";
const PROFILE: &str = "bpf";
const PACKAGE: &str = "chaperone-ebpf";

/// How to get a core library for BPF.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The compiler has one.
    Precompiled,
    /// The compiler has its source.
    BuildStd,
}

/// What scripts/prereqs.sh wrote down.
struct Toolchain {
    mode: Mode,
    rustc: PathBuf,
    linker_dir: PathBuf,
    llvm_dir: PathBuf,
}

/// Returns the path of the object, which is only touched when it changed.
pub(crate) fn build(root: &Path) -> Result<PathBuf> {
    let toolchain = match Toolchain::recorded()? {
        Some(toolchain) => toolchain,
        None => {
            install(root)?;
            Toolchain::recorded()?.context("scripts/prereqs.sh recorded no compiler for BPF")?
        }
    };
    let target_dir =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir)).join("bpf");
    eprintln!("==> building the kernel programs");
    let status =
        toolchain.cargo(root, &target_dir)?.status().context("starting cargo for the kernel programs")?;
    if !status.success() {
        bail!(
            "building the kernel programs failed: {status}; if the toolchain changed, run scripts/prereqs.sh again"
        );
    }
    publish(&target_dir.join(TARGET).join(PROFILE).join(PACKAGE), &target_dir.join("chaperone.bpf.o"))
}

impl Toolchain {
    fn recorded() -> Result<Option<Self>> {
        let path = tools_dir()?.join("ebpf.env");
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .with_context(|| format!("{} does not say {key}; remove it", path.display()))
        };
        let mode = match value("CHAPERONE_BPF_MODE")? {
            "precompiled" => Mode::Precompiled,
            "build-std" => Mode::BuildStd,
            other => bail!("{}: unknown mode {other}; remove it", path.display()),
        };
        let toolchain = Self {
            mode,
            rustc: value("CHAPERONE_BPF_RUSTC")?.into(),
            linker_dir: value("CHAPERONE_BPF_LINKER_DIR")?.into(),
            llvm_dir: value("CHAPERONE_BPF_LLVM_DIR")?.into(),
        };
        let complete = [&toolchain.rustc, &toolchain.linker_dir.join("bpf-linker"), &toolchain.llvm_dir]
            .into_iter()
            .all(|path| path.exists());
        Ok(complete.then_some(toolchain))
    }

    fn cargo(&self, root: &Path, target_dir: &Path) -> Result<Command> {
        // The real cargo, as an outer cargo names it: rustup's proxy would put a library directory of its own first.
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(root);
        for (name, _) in env::vars_os().filter(|(name, _)| belongs_to_outer_build(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command
            .args(["build", "--locked", "--package", PACKAGE, "--bin", PACKAGE, "--features", "kernel"])
            .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
            .arg(target_dir)
            .env("RUSTC", &self.rustc)
            .env("LD_LIBRARY_PATH", &self.llvm_dir)
            .env("PATH", prepend(&self.linker_dir, env::var_os("PATH"))?)
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags(root)?.join("\u{1f}"));
        match self.mode {
            // One dependency needs an unstable feature: inline assembly for BPF.
            Mode::Precompiled => command.env("RUSTC_BOOTSTRAP", "aya_ebpf"),
            Mode::BuildStd => command.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=core"),
        };
        Ok(command)
    }

    /// BTF for the maps, and no path of this machine in the object: it is the same wherever it is built.
    fn rustflags(&self, root: &Path) -> Result<Vec<String>> {
        let sysroot = Command::new(&self.rustc)
            .args(["--print", "sysroot"])
            .output()
            .with_context(|| format!("asking {} for its sysroot", self.rustc.display()))?;
        let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout)?.trim());
        let home = home()?;
        let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
        let remap = |from: PathBuf, to: &str| format!("--remap-path-prefix={}={to}", from.display());
        Ok(vec![
            "-Clink-arg=--btf".to_owned(),
            remap(sysroot.join("lib/rustlib/src/rust"), "/rust"),
            remap(cargo_home.join("registry/src"), "/registry"),
            remap(root.to_path_buf(), "/chaperone"),
        ])
    }
}

fn install(root: &Path) -> Result<()> {
    let status = Command::new("bash")
        .arg(root.join("scripts/prereqs.sh"))
        .current_dir(root)
        .status()
        .context("starting scripts/prereqs.sh")?;
    if !status.success() {
        bail!("scripts/prereqs.sh could not install what building the kernel programs needs: {status}");
    }
    Ok(())
}

/// Copies only what differs: the agent is compiled again when the file's time changes.
fn publish(built: &Path, object: &Path) -> Result<PathBuf> {
    let bytes = fs::read(built).with_context(|| format!("reading {}", built.display()))?;
    if fs::read(object).ok().as_ref() != Some(&bytes) {
        fs::write(object, &bytes).with_context(|| format!("writing {}", object.display()))?;
    }
    Ok(object.to_path_buf())
}

/// Everything a cargo sets for what it runs, and what chooses compilers; not what configures cargo itself.
fn belongs_to_outer_build(name: &str) -> bool {
    const KEPT: &[&str] = &["CARGO_HOME", "CARGO_BUILD_JOBS", "CARGO_TERM_COLOR", "RUSTUP_HOME"];
    const KEPT_PREFIXES: &[&str] = &["CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTRIES_", "CARGO_SOURCE_"];
    if KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return false;
    }
    ["CARGO", "RUST"].iter().any(|prefix| name.starts_with(prefix)) || name == "TARGET"
}

fn prepend(directory: &Path, path: Option<OsString>) -> Result<OsString> {
    let path = path.unwrap_or_default();
    env::join_paths(std::iter::once(directory.to_path_buf()).chain(env::split_paths(&path)))
        .context("a directory in PATH has a colon in its name")
}

/// Where scripts/prereqs.sh keeps what it installs.
fn tools_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("CHAPERONE_TOOLS") {
        return Ok(dir.into());
    }
    match env::var_os("XDG_CACHE_HOME") {
        Some(cache) => Ok(PathBuf::from(cache).join("chaperone")),
        None => Ok(home()?.join(".cache/chaperone")),
    }
}

fn home() -> Result<PathBuf> {
    env::home_dir().context("no home directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_builds_variables_stay_outside_and_cargos_settings_pass() {
        for name in
            ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_PKG_NAME", "RUSTUP_TOOLCHAIN", "TARGET"]
        {
            assert!(belongs_to_outer_build(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_HTTP_PROXY", "CARGO_NET_OFFLINE", "RUSTUP_HOME", "PATH", "HOME"] {
            assert!(!belongs_to_outer_build(name), "{name}");
        }
    }
}
