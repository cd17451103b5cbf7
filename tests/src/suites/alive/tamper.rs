//! Root on the host takes things away from a running agent: what stays in force, what is put back, what is recorded.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Prober, agent_pid, served};
use crate::harness::report::Case;
use crate::harness::spawn::{Program, wait_for};
use crate::harness::world::World;

pub(super) const CASES: &[Case<World>] = &[
    Case { name: "removed pins are put back, and nothing was open meanwhile", run: pins },
    Case { name: "an unmounted bpffs changes nothing, is recorded, and is filled again", run: bpffs },
    Case { name: "a detached link is attached again within seconds, and recorded", run: link },
    Case {
        name: "pins removed while no agent runs: nothing is governed, and the next start records it",
        run: orphaned,
    },
    Case { name: "an agent moved into another cgroup stays exempt, and records it", run: moved },
];

fn pins(world: &mut World) -> Result<()> {
    let prober = Prober::start(world, "pins")?;
    let known = recorded(world)?;
    let pins = world.agent.bpffs.join("pins");
    let names = |folder: &str| -> Result<Vec<_>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(pins.join(folder))? {
            names.push(entry?.path());
        }
        names.sort();
        Ok(names)
    };
    let before = [names("links")?, names("maps")?];
    ensure!(!before[0].is_empty() && !before[1].is_empty());
    for pin in before.iter().flatten() {
        fs::remove_file(pin)?;
    }
    wait_for("the pins", Duration::from_secs(8), || {
        Ok(([names("links")?, names("maps")?] == before).then_some(()))
    })?;
    let found = wait_for_record(world, known)?;
    ensure!(
        found.contains("the pin of connect4 was removed") && found.contains("the pin of map SKS"),
        "{found}"
    );
    prober.end_undisturbed(world)?;
    // What was pinned again is what a new agent finds.
    world.agent.kill();
    let refused = world.client("none").psql(&["select 1"])?;
    world.start_agent()?;
    ensure!(refused.code == Some(2), "{refused}");
    served(world, "after-pins")
}

fn bpffs(world: &mut World) -> Result<()> {
    let prober = Prober::start(world, "bpffs")?;
    let known = recorded(world)?;
    let bpffs = &world.agent.bpffs;
    umount2(bpffs, MntFlags::MNT_DETACH)?;
    let found = wait_for_record(world, known);
    served(world, "without-bpffs")?;
    mount(Some("bpf"), bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)?;
    let links = bpffs.join("pins/links/egress");
    wait_for("the pins", Duration::from_secs(8), || Ok(links.exists().then_some(())))?;
    let found = found?;
    ensure!(
        found.contains("the pin directory is gone") && found.contains("not on a bpf file system"),
        "{found}"
    );
    prober.end_undisturbed(world)?;
    served(world, "after-bpffs")
}

/// BPF_LINK_DETACH through the pin: only with CAP_SYS_ADMIN, or CAP_BPF and access to the pins.
const DETACH: &str = "\
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, 128)
    got = libc.syscall(321 if os.uname().machine == 'x86_64' else 280, command, buffer, 128)
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got
path = ctypes.create_string_buffer(sys.argv[1].encode())
link = bpf(7, struct.pack('=QII', ctypes.addressof(path), 0, 0))
bpf(34, struct.pack('=I', link))
";

fn link(world: &mut World) -> Result<()> {
    let known = recorded(world)?;
    let pin = world.agent.bpffs.join("pins/links/connect4");
    Program::new("/usr/bin/python3").args(["-c".as_ref(), DETACH.as_ref(), pin.as_os_str()]).run()?.ok()?;
    let found = wait_for_record(world, known)?;
    ensure!(found.contains("program connect4 was detached"), "{found}");
    let prober = Prober::start(world, "link")?;
    served(world, "after-link")?;
    std::thread::sleep(Duration::from_millis(500));
    prober.end_undisturbed(world)?;
    Ok(())
}

/// What root on the host can do, as the threat model says; what covers it is that it does not stay unseen.
fn orphaned(world: &mut World) -> Result<()> {
    let known = recorded(world)?;
    world.agent.kill();
    let direct = |world: &World| {
        world
            .client("shop_scram")
            .env("PGPASSWORD", crate::harness::postgres::SCRAM_PASSWORD)
            .psql(&["select 9"])
    };
    let refused = direct(world);
    let pins = world.agent.bpffs.join("pins/links");
    for pin in fs::read_dir(&pins)? {
        fs::remove_file(pin?.path())?;
    }
    let reached = direct(world);
    world.start_agent()?;
    ensure!(refused?.code == Some(2), "reached with the pins there");
    ensure!(reached?.ok()? == "9\n", "the server cannot be reached at all");
    let found = wait_for_record(world, known)?;
    ensure!(found.contains("kernel programs were gone"), "{found}");
    // Told once; and who lets go properly is no tamperer.
    world.agent.stop()?;
    let detached = world.agent.command(&["detach"]);
    world.start_agent()?;
    detached?.ok()?;
    ensure!(recorded(world)? == known + 1, "{:?}", tampering(world)?);
    served(world, "after-orphaned-pins")
}

fn moved(world: &mut World) -> Result<()> {
    let known = recorded(world)?;
    let pid = agent_pid(world)?.to_string();
    fs::write(world.places.outside.path().join("cgroup.procs"), &pid)?;
    let found = wait_for_record(world, known);
    let answered = served(world, "moved");
    fs::write(world.places.agent.path().join("cgroup.procs"), &pid)?;
    wait_for_record(world, known + 1)?;
    ensure!(found?.contains("moved into another cgroup"));
    answered?;
    served(world, "moved-back")
}

/// How many times tampering is recorded.
fn recorded(world: &World) -> Result<usize> {
    Ok(tampering(world)?.len())
}

/// The first one after the `known` ones.
fn wait_for_record(world: &World, known: usize) -> Result<String> {
    wait_for("a record of the tampering", Duration::from_secs(8), || {
        Ok(tampering(world)?.into_iter().nth(known))
    })
    .context(world.agent.log_tail())
}

/// Straight from the segments: the payloads are JSON.
fn tampering(world: &World) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut segments: Vec<_> =
        fs::read_dir(world.agent.journal())?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    segments.sort();
    for segment in segments.iter().filter(|path| path.extension().is_some_and(|extension| extension == "chj"))
    {
        let bytes = fs::read(segment)?;
        let text = String::from_utf8_lossy(&bytes);
        found.extend(
            text.split("{\"event\":\"tampered\"")
                .skip(1)
                .map(|rest| rest.split('}').next().unwrap_or_default().to_owned()),
        );
    }
    Ok(found)
}
