//! The lookup program of one network namespace.
//!
//! Each namespace has an instance of its own, because the program cannot ask which one it runs in: an instance knows
//! its listeners by a map of its own. The object is read and linked once; an instance is its instructions with
//! that one map filled in. Loading the whole object instead takes a hundred times as long, and connections wait for it.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya::{
    EbpfError,
    maps::{Map, MapData, SockMap},
};
use aya_obj::{Object, generated::bpf_insn};
use libbpf_sys as bpf;

use super::InterceptError;
use crate::intercept::{bpffs::Pins, listener, listener::Listeners, state};

const NAME: &str = "lookup";

/// Stands for the listeners' map until there is one.
const UNKNOWN_MAP: i32 = i32::MAX;

/// The linked program, ready to be loaded for any namespace.
pub(in crate::intercept) struct LookupProgram {
    instructions: Vec<bpf_insn>,
    license: CString,
    /// Whose descriptors are in the instructions.
    _maps: Vec<MapData>,
}

impl LookupProgram {
    /// Links it with the pinned maps.
    pub(in crate::intercept) fn link(object: &[u8], pins: &Pins) -> Result<Self, InterceptError> {
        let mut object = Object::parse(object).map_err(EbpfError::from)?;
        let program = object.programs.get(NAME).ok_or(InterceptError::Missing { name: NAME })?;
        let (key, license) = (program.function_key(), program.license.clone());
        let mut maps = Vec::new();
        let mut descriptors = HashMap::new();
        for name in ["CFG", "STATS"] {
            let map = state::open_pinned(pins, name)?;
            descriptors.insert(name, map.fd().as_fd().as_raw_fd());
            maps.push(map);
        }
        // The other programs' maps do not matter: only this one is ever loaded from here.
        let all = object.maps.clone();
        let named = all.iter().map(|(name, map)| {
            (name.as_str(), descriptors.get(name.as_str()).copied().unwrap_or(UNKNOWN_MAP), map)
        });
        let texts: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(named, &texts).map_err(EbpfError::from)?;
        object.relocate_calls(&texts).map_err(EbpfError::from)?;
        let function = object.functions.get(&key).ok_or(InterceptError::Missing { name: NAME })?;
        Ok(Self { instructions: function.instructions.clone(), license, _maps: maps })
    }

    /// An instance that hands connections to these listeners.
    pub(super) fn instance(&self, listeners: &Listeners) -> Result<OwnedFd, InterceptError> {
        let slots = listener_map()
            .map_err(|source| InterceptError::Netns { what: "make a map for the listeners of a", source })?;
        let instructions = self.with_map(slots.as_raw_fd());
        let failed = |source| InterceptError::Map { name: "LSOCK", source };
        let map = MapData::from_fd(slots).map_err(failed)?;
        let mut map = SockMap::try_from(Map::SockMap(map)).map_err(failed)?;
        listener::publish(&mut map, listeners)?;
        // The loaded program holds the map from here on.
        load(&instructions, &self.license)
            .map_err(|source| InterceptError::Netns { what: "load the lookup program of a", source })
    }

    fn with_map(&self, descriptor: i32) -> Vec<bpf_insn> {
        /// BPF_LD | BPF_IMM | BPF_DW: loads what two instructions hold together.
        const LOAD_WIDE: u8 = 0x18;
        let mut instructions = self.instructions.clone();
        for instruction in &mut instructions {
            let names_map = u32::from(instruction.src_reg()) == bpf::BPF_PSEUDO_MAP_FD;
            if instruction.code == LOAD_WIDE && names_map && instruction.imm == UNKNOWN_MAP {
                instruction.imm = descriptor;
            }
        }
        instructions
    }
}

/// As `LSOCK` in the object: a slot for each address family.
fn listener_map() -> io::Result<OwnedFd> {
    // SAFETY: the name is a terminated string that outlives the call; null options mean defaults.
    let fd = unsafe {
        bpf::bpf_map_create(bpf::BPF_MAP_TYPE_SOCKMAP, c"LSOCK".as_ptr(), 4, 4, 2, std::ptr::null())
    };
    owned(fd)
}

fn load(instructions: &[bpf_insn], license: &CString) -> io::Result<OwnedFd> {
    const { assert!(size_of::<bpf_insn>() == size_of::<bpf::bpf_insn>()) };
    let mut options = bpf::bpf_prog_load_opts {
        sz: size_of::<bpf::bpf_prog_load_opts>() as u64,
        expected_attach_type: bpf::BPF_SK_LOOKUP,
        ..Default::default()
    };
    // SAFETY: both are the kernel's own struct of eight bytes, in the count that is given; strings are terminated; all
    // of it outlives the call.
    let fd = unsafe {
        bpf::bpf_prog_load(
            bpf::BPF_PROG_TYPE_SK_LOOKUP,
            c"lookup".as_ptr(),
            license.as_ptr(),
            instructions.as_ptr().cast(),
            instructions.len() as u64,
            &raw mut options,
        )
    };
    owned(fd)
}

/// libbpf returns a descriptor, or an error number below zero.
fn owned(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(fd.wrapping_neg()));
    }
    // SAFETY: a call has just returned this descriptor, so nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
