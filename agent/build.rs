//! Embeds the kernel programs: `CHAPERONE_EBPF_OBJECT` when it is set, else what `cargo xtask build` left in the
//! target directory, else nothing, and the agent then says at run time which command builds them.
//!
//! It does not build them itself: ordinary builds, tests and lints need no BPF toolchain.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed=CHAPERONE_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let object = match env::var_os("CHAPERONE_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path).canonicalize()?,
        None => conventional()?,
    };
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=CHAPERONE_EBPF_OBJECT={}", object.display());
    Ok(())
}

/// An empty file stands for "not built"; it has to exist, or cargo would take this script for stale every time.
fn conventional() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = manifest.parent().unwrap_or(Path::new("."));
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    let object = target.join("bpf").join("chaperone.bpf.o");
    if !object.exists() {
        fs::create_dir_all(target.join("bpf"))?;
        fs::write(&object, [])?;
    }
    Ok(object)
}
