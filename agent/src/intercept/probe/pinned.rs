//! What is pinned and in force on this host now, for `chaperone doctor`: by whom or for whom the programs run is seen
//! from the links, not from the agent's word.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use chaperone_ebpf::{Config, LAYOUT, STALE_AFTER_NS};

use super::{Feature, optional};
use crate::intercept::{bpffs::Pins, cgroup_path, cgroup2_mount, pinned_links, state};

pub(super) fn features(bpffs: &Path) -> Vec<Feature> {
    let links = match pinned_links(bpffs) {
        Ok(links) => links,
        Err(error) => {
            return vec![optional(
                format!("programs pinned at {}", bpffs.display()),
                false,
                "pins keep the programs in force when the agent dies",
                error.to_string(),
            )];
        }
    };
    let missing: Vec<&str> = links.iter().filter(|(_, at)| at.is_none()).map(|(name, _)| *name).collect();
    if missing.len() == links.len() {
        return vec![optional(
            format!("programs pinned at {}", bpffs.display()),
            false,
            "they are what governs; without them nothing is intercepted",
            "`chaperone run` attaches and pins them",
        )];
    }
    let place = links.iter().find(|(name, _)| *name == "connect4").and_then(|(_, at)| *at);
    let mut found = vec![optional(
        format!("{} programs pinned, governing {}", links.len() - missing.len(), described(place)),
        missing.is_empty(),
        "every one of them closes a way around",
        format!("missing or attached nowhere: {}; a start of the agent attaches them", missing.join(", ")),
    )];
    found.extend(beat(&Pins::new(bpffs)));
    found
}

fn described(cgroup: Option<u64>) -> String {
    let path = cgroup.and_then(|id| cgroup_path(id, &cgroup2_mount().ok()?).ok().flatten());
    path.map_or_else(|| "no cgroup".to_owned(), |path| format!("cgroup {}", path.display()))
}

fn beat(pins: &Pins) -> Option<Feature> {
    let array = |name: &str| Map::from_map_data(MapData::from_pin(pins.map(name)).ok()?).ok();
    let beats: Array<MapData, u64> = array("BEAT")?.try_into().ok()?;
    let config: Array<MapData, Config> = array("CFG")?.try_into().ok()?;
    let layout = config.get(&0, 0).ok()?.layout;
    if layout != LAYOUT {
        return Some(optional(
            format!("pinned maps of layout {LAYOUT}"),
            false,
            "another version's agent filled them, and this one cannot take over from it",
            "stop that agent, run its `chaperone detach`, and start this version",
        ));
    }
    let age_ns = state::boottime_ns().ok()?.saturating_sub(beats.get(&0, 0).ok()?);
    Some(optional(
        format!("heartbeat {:.1} s old", age_ns as f64 / 1e9),
        age_ns < STALE_AFTER_NS,
        "governed connects to targets get EPERM while it is older than three seconds",
        "start the agent, or see in its log why its heart does not beat",
    ))
}
