//! The names of a transfer: entries as the sender writes them, in the order both ends number them by.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::How;
use super::wire::{Input, Stop};

/// What the names of a transfer may take in memory, with what is kept beside each.
const NAMES_MAX: usize = 4 << 20;
const BESIDE: usize = 64;
/// Longest path of the protocol.
const PATH_MAX: usize = 4096;

/// What an entry says of itself.
mod says {
    pub(super) const SAME_MODE: u32 = 1 << 1;
    pub(super) const MORE: u32 = 1 << 2;
    pub(super) const SAME_USER: u32 = 1 << 3;
    pub(super) const SAME_GROUP: u32 = 1 << 4;
    pub(super) const SAME_NAME: u32 = 1 << 5;
    pub(super) const LONG_NAME: u32 = 1 << 6;
    pub(super) const SAME_TIME: u32 = 1 << 7;
    pub(super) const SAME_MAJOR: u32 = 1 << 8;
    pub(super) const LINKED: u32 = 1 << 9;
    pub(super) const USER_NAME: u32 = 1 << 10;
    pub(super) const GROUP_NAME: u32 = 1 << 11;
    pub(super) const FIRST_LINKED: u32 = 1 << 12;
    pub(super) const NANOSECONDS: u32 = 1 << 13;
    pub(super) const SAME_ACCESS_TIME: u32 = 1 << 14;
}

const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTERS: u32 = 0o020_000;
const BLOCKS: u32 = 0o060_000;

#[derive(Debug, Clone)]
struct Entry {
    name: Vec<u8>,
    mode: u32,
}

/// A list by itself: with recursion by parts there is one for each folder.
struct List {
    start: i64,
    /// Of regular files.
    names: Vec<Option<Box<str>>>,
    bytes: usize,
}

/// All lists of a transfer that are in use.
#[derive(Default)]
pub(super) struct Lists {
    done: VecDeque<List>,
    /// Lists so far, and the number the next one begins at.
    begun: bool,
    next: i64,
    under_way: Vec<Entry>,
    bytes: usize,
    /// Carried from entry to entry.
    last_name: Vec<u8>,
    last_mode: u32,
}

impl Lists {
    /// The next entry; whether that was the end of the list instead.
    pub(super) fn entry(&mut self, how: &How, input: &mut Input<'_>) -> Result<bool, Stop> {
        if self.bytes > NAMES_MAX {
            return Err(Stop::Odd("too many names"));
        }
        let flags = if how.varint_flags {
            let flags = input.varint()?;
            if flags == 0 {
                input.varint()?;
                return Ok(true);
            }
            flags
        } else {
            let mut flags = u32::from(input.byte()?);
            if flags == 0 {
                return Ok(true);
            }
            if flags & says::MORE != 0 {
                flags |= u32::from(input.byte()?) << 8;
            }
            if flags == says::MORE | says::FIRST_LINKED {
                input.varint()?;
                return Ok(true);
            }
            flags
        };
        let name = self.name(flags, input)?;
        let mode = self.rest(how, flags, input)?;
        self.bytes += name.len() + BESIDE;
        self.last_name.clone_from(&name);
        self.last_mode = mode;
        self.under_way.push(Entry { name, mode });
        Ok(false)
    }

    fn name(&self, flags: u32, input: &mut Input<'_>) -> Result<Vec<u8>, Stop> {
        let same = if flags & says::SAME_NAME != 0 { usize::from(input.byte()?) } else { 0 };
        let length = match flags & says::LONG_NAME {
            0 => usize::from(input.byte()?),
            _ => usize::try_from(input.varint()?).unwrap_or(usize::MAX),
        };
        let begin = self.last_name.get(..same).ok_or(Stop::Odd("a name out of nothing"))?;
        if length >= PATH_MAX - same {
            return Err(Stop::Odd("a name that is too long"));
        }
        let name = [begin, input.take(length)?].concat();
        // One that the other end would tidy up before it sorts by it.
        let tidy = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
        if name != b"." && !name.split(|byte| *byte == b'/').all(tidy) {
            return Err(Stop::Odd("a name that is not plain"));
        }
        Ok(name)
    }

    /// What follows the name; the mode.
    fn rest(&self, how: &How, flags: u32, input: &mut Input<'_>) -> Result<u32, Stop> {
        let links = says::LINKED | says::FIRST_LINKED;
        if flags & links == says::LINKED {
            let first = i64::from(input.varint()?);
            if first >= self.next {
                // All else is as with that one.
                let at = usize::try_from(first - self.next).ok();
                let first = at.and_then(|at| self.under_way.get(at));
                return first.map(|first| first.mode).ok_or(Stop::Odd("a link to nothing"));
            }
        }
        input.long(3)?;
        if flags & says::SAME_TIME == 0 {
            input.long(4)?;
        }
        if flags & says::NANOSECONDS != 0 {
            input.varint()?;
        }
        let mode = match flags & says::SAME_MODE {
            0 => input.int()?.cast_unsigned(),
            _ => self.last_mode,
        };
        let kind = mode & KIND;
        if how.has('U') && kind != FOLDER && flags & says::SAME_ACCESS_TIME == 0 {
            input.long(4)?;
        }
        for (letter, same, named) in
            [('o', says::SAME_USER, says::USER_NAME), ('g', says::SAME_GROUP, says::GROUP_NAME)]
        {
            if how.has(letter) && flags & same == 0 {
                input.varint()?;
                if flags & named != 0 {
                    input.name()?;
                }
            }
        }
        let special = !matches!(kind, FILE | FOLDER | LINK);
        if how.has('D') && (matches!(kind, CHARACTERS | BLOCKS) || (special && how.version < 31)) {
            if flags & says::SAME_MAJOR == 0 {
                input.varint()?;
            }
            input.varint()?;
        }
        if how.has('l') && kind == LINK {
            let length = usize::try_from(input.varint()?).unwrap_or(usize::MAX);
            if length >= PATH_MAX {
                return Err(Stop::Odd("a link that is too long"));
            }
            input.take(length)?;
        }
        if how.has('c') && kind == FILE {
            input.take(how.sum)?;
        }
        Ok(mode)
    }

    /// The list is complete: sorted, and numbered behind the one before.
    pub(super) fn finish(&mut self, how: &How) {
        let mut entries = std::mem::take(&mut self.under_way);
        entries.sort_by(compare);
        if !std::mem::replace(&mut self.begun, true) {
            self.next = i64::from(how.recurses);
        }
        let start = self.next;
        // A list without names is kept, too.
        self.bytes += BESIDE;
        let bytes = BESIDE + entries.iter().map(|entry| entry.name.len() + BESIDE).sum::<usize>();
        let of = |entry: Entry| -> Option<Box<str>> {
            (entry.mode & KIND == FILE).then(|| String::from_utf8_lossy(&entry.name).into())
        };
        let names: Vec<Option<Box<str>>> = entries.into_iter().map(of).collect();
        // One number between lists is the folder's own.
        self.next = start + i64::try_from(names.len()).unwrap_or(i64::MAX / 2) + i64::from(how.recurses);
        self.done.push_back(List { start, names, bytes });
    }

    /// The regular file with this number.
    pub(super) fn file(&self, number: i64) -> Option<&str> {
        let behind = self.done.partition_point(|list| list.start <= number);
        let list = self.done.get(behind.checked_sub(1)?)?;
        let at = usize::try_from(number - list.start).ok()?;
        list.names.get(at)?.as_deref()
    }

    /// The first list is not needed any more; whether others are left.
    pub(super) fn forget(&mut self) -> bool {
        if let Some(list) = self.done.pop_front() {
            self.bytes = self.bytes.saturating_sub(list.bytes);
        }
        !self.done.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }
}

/// The order both ends number names by: part for part, files of a folder before the folders in it, folders as if their names
/// ended in a slash.
fn compare(a: &Entry, b: &Entry) -> Ordering {
    let (mut a, mut b) = (parts(a), parts(b));
    loop {
        return match (a.next(), b.next()) {
            (None, None) => Ordering::Equal,
            (None, Some((part, folder))) if !folder && part.is_empty() => Ordering::Equal,
            (Some((part, folder)), None) if !folder && part.is_empty() => Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some((_, true)), Some((_, false))) => Ordering::Greater,
            (Some((_, false)), Some((_, true))) => Ordering::Less,
            (Some((a, false)), Some((b, false))) => a.cmp(b),
            (Some((a, true)), Some((b, true))) if a == b => continue,
            (Some((a, true)), Some((b, true))) => a.iter().chain(b"/").cmp(b.iter().chain(b"/")),
        };
    }
}

/// The parts of a path, and whether each is a folder.
fn parts(entry: &Entry) -> impl Iterator<Item = (&[u8], bool)> {
    let mut parts = entry.name.split(|byte| *byte == b'/').peekable();
    let folder = entry.mode & KIND == FOLDER;
    std::iter::from_fn(move || {
        let part = parts.next()?;
        let last = parts.peek().is_none();
        // The folder itself stands before all that is in it.
        if last && folder && part == b"." { Some((&b""[..], false)) } else { Some((part, !last || folder)) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_rsync() {
        // As `rsync -r --list-only` 3.2.7 and 3.5.0 print them.
        let expect = [
            ".", "B", "a", "a.x", "b.txt", "z", "\u{e9}", "A/", "A/x", "a-b/", "a-b/f", "a.d/", "a.d/f",
            "a.d/b/", "a.d/b/f", "ab/", "ab/f",
        ];
        let entry = |text: &&str| {
            let folder = text.ends_with('/') || *text == ".";
            Entry { name: text.trim_end_matches('/').into(), mode: if folder { FOLDER } else { FILE } }
        };
        let mut entries: Vec<Entry> = expect.iter().rev().map(entry).collect();
        entries.sort_by(compare);
        let sorted: Vec<&[u8]> = entries.iter().map(|entry| &entry.name[..]).collect();
        let expect: Vec<&[u8]> = expect.iter().map(|text| text.trim_end_matches('/').as_bytes()).collect();
        assert_eq!(sorted, expect);
    }
}
