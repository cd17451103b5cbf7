//! What the sending end says after the handshake: names, and then the content of one file after another.

use bytes::{Buf as _, BytesMut};
use ring::digest;

use super::How;
use super::list::Lists;
use super::wire::{Input, Last, Stop};

/// What may wait to be understood: more than any one thing the protocol has but content.
const WAITING_MAX: usize = 64 << 10;

/// A file that went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) path: String,
    /// Of its content, as it was sent.
    pub(super) bytes: u64,
    /// Of the whole file, when the whole of it was sent as it is.
    pub(super) sha256: Option<String>,
}

/// What is said about a file that is about to be sent.
mod item {
    pub(super) const BASIS: u16 = 1 << 11;
    pub(super) const NAME: u16 = 1 << 12;
    pub(super) const TRANSFER: u16 = 1 << 15;
}

/// Lists of users and groups.
const ID_LISTS: [char; 2] = ['o', 'g'];

enum At {
    /// Rules of what not to delete.
    Rules,
    Names,
    Ids(usize),
    /// Between files.
    Next,
    /// Between pieces of a file.
    Piece(Content),
    /// In one.
    Inside(Content, usize),
    /// The sender's own checksum of it.
    Sum(Content),
    Over,
}

struct Content {
    path: String,
    bytes: u64,
    /// Nothing of it was taken from what the receiver had, and nothing was packed.
    whole: bool,
    hash: digest::Context,
}

pub(super) struct Sender {
    how: How,
    lists: Lists,
    at: At,
    last: Last,
    phase: u32,
}

impl Sender {
    pub(super) fn new(how: How) -> Self {
        let at = if how.rules { At::Rules } else { At::Names };
        Self { how, lists: Lists::default(), at, last: Last::default(), phase: 0 }
    }

    /// Nothing more comes: the file that was under way, if one was.
    pub(super) fn cut(&mut self) -> Option<Sent> {
        match std::mem::replace(&mut self.at, At::Over) {
            At::Piece(content) | At::Inside(content, _) | At::Sum(content) => {
                Some(Content { whole: false, ..content }.sent())
            }
            At::Rules | At::Names | At::Ids(_) | At::Next | At::Over => None,
        }
    }

    /// Takes what it understands off the front of `data`; calls `each` with every file that is complete.
    pub(super) fn take(
        &mut self,
        data: &mut BytesMut,
        mut each: impl FnMut(Sent),
    ) -> Result<(), &'static str> {
        loop {
            if let At::Over = self.at {
                data.clear();
                return Ok(());
            }
            if let At::Inside(content, left) = &mut self.at {
                let count = data.len().min(*left);
                let bytes = data.split_to(count);
                content.bytes += count as u64;
                if content.whole {
                    content.hash.update(&bytes);
                }
                *left -= count;
                if *left > 0 {
                    return Ok(());
                }
            }
            let mut input = Input::new(data);
            match self.step(&mut input, &mut each) {
                Ok(()) => {
                    let used = data.len() - input.left();
                    data.advance(used);
                }
                Err(Stop::Short) if data.len() <= WAITING_MAX => return Ok(()),
                Err(Stop::Short) => return Err("something that is too long"),
                Err(Stop::Odd(why)) => return Err(why),
            }
        }
    }

    fn step(&mut self, input: &mut Input<'_>, each: &mut impl FnMut(Sent)) -> Result<(), Stop> {
        let next = match &mut self.at {
            At::Rules => match input.count()? {
                0 => At::Names,
                length => {
                    input.take(length)?;
                    At::Rules
                }
            },
            At::Names => {
                if !self.lists.entry(&self.how, input)? {
                    return Ok(());
                }
                self.lists.finish(&self.how);
                if self.how.recurses { At::Next } else { self.ids(0) }
            }
            At::Ids(which) => {
                let (which, id) = (*which, input.varint()?);
                if id != 0 || self.how.root_named {
                    input.name()?;
                }
                if id != 0 { At::Ids(which) } else { self.ids(which + 1) }
            }
            At::Next => self.next(input)?,
            At::Piece(_) => {
                let packed = self.how.has('z');
                let piece = if packed { Piece::packed(input)? } else { Piece::plain(input)? };
                let At::Piece(mut content) = std::mem::replace(&mut self.at, At::Over) else { return Ok(()) };
                content.whole &= !packed && piece != Piece::Known;
                match piece {
                    Piece::Bytes(count) => At::Inside(content, count),
                    Piece::Known => At::Piece(content),
                    Piece::End => At::Sum(content),
                }
            }
            At::Inside(..) => {
                let At::Inside(content, _) = std::mem::replace(&mut self.at, At::Over) else { return Ok(()) };
                At::Piece(content)
            }
            At::Sum(_) => {
                input.take(self.how.sum)?;
                let At::Sum(content) = std::mem::replace(&mut self.at, At::Over) else { return Ok(()) };
                each(content.sent());
                At::Next
            }
            At::Over => return Ok(()),
        };
        self.at = next;
        Ok(())
    }

    /// The first list of users or groups from `which` on that is sent.
    fn ids(&self, which: usize) -> At {
        let sent = |which: &usize| {
            let letter = ID_LISTS.get(*which);
            letter.is_some_and(|letter| self.how.has(*letter) && !self.how.numeric)
        };
        (which..ID_LISTS.len()).find(sent).map_or(At::Next, At::Ids)
    }

    fn next(&mut self, input: &mut Input<'_>) -> Result<At, Stop> {
        let mut last = self.last;
        let number = input.index(&mut last)?;
        let next = match number {
            -1 => self.done(),
            -2 => At::Next,
            // What was deleted, as numbers of five kinds.
            -3 => {
                for _ in 0..5 {
                    input.varint()?;
                }
                At::Next
            }
            ..=-101 if self.how.recurses => At::Names,
            ..0 => return Err(Stop::Odd("an index of nothing")),
            number => self.item(number, input)?,
        };
        self.last = last;
        Ok(next)
    }

    /// A list, or a phase, is done with. The third is the last, and statistics follow it.
    fn done(&mut self) -> At {
        if self.how.recurses && !self.lists.is_empty() && self.lists.forget() {
            return At::Next;
        }
        self.phase += 1;
        if self.phase > 2 { At::Over } else { At::Next }
    }

    fn item(&self, number: i64, input: &mut Input<'_>) -> Result<At, Stop> {
        let flags = input.short()?;
        if flags & item::BASIS != 0 {
            input.byte()?;
        }
        if flags & item::NAME != 0 {
            input.string()?;
        }
        if flags & item::TRANSFER == 0 {
            return Ok(At::Next);
        }
        // How the receiver's own file was cut into blocks.
        for _ in 0..4 {
            input.int()?;
        }
        let path = self.lists.file(number).ok_or(Stop::Odd("an index of no file"))?.to_owned();
        Ok(At::Piece(Content { path, bytes: 0, whole: true, hash: digest::Context::new(&digest::SHA256) }))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// So many bytes follow.
    Bytes(usize),
    /// A block the receiver has.
    Known,
    End,
}

impl Piece {
    fn plain(input: &mut Input<'_>) -> Result<Self, Stop> {
        Ok(match input.int()? {
            0 => Self::End,
            count @ 1.. => Self::Bytes(usize::try_from(count).unwrap_or(usize::MAX)),
            _ => Self::Known,
        })
    }

    fn packed(input: &mut Input<'_>) -> Result<Self, Stop> {
        let flag = input.byte()?;
        match flag {
            0 => return Ok(Self::End),
            0x40..=0x7f => {
                let count = usize::from(flag & 0x3f) << 8 | usize::from(input.byte()?);
                return Ok(Self::Bytes(count));
            }
            0x20 => input.take(4)?,
            0x21 => input.take(6)?,
            0x80..=0xbf => &[],
            0xc0..=0xff => input.take(2)?,
            _ => return Err(Stop::Odd("a piece of no known kind")),
        };
        Ok(Self::Known)
    }
}

impl Content {
    fn sent(self) -> Sent {
        let sha256 = self.whole.then(|| crate::hex(self.hash.finish().as_ref()));
        Sent { path: self.path, bytes: self.bytes, sha256 }
    }
}
