//! Numbers and strings as rsync's protocol 30 and later writes them.

/// Why reading stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// More bytes are needed.
    Short,
    /// It is not what was expected, so what follows cannot be told either.
    Odd(&'static str),
}

/// Reads from the front of what has come so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a>(&'a [u8]);

/// What indices are written as differences to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    positive: u32,
    negative: u32,
}

impl Default for Last {
    fn default() -> Self {
        Self { positive: u32::MAX, negative: 1 }
    }
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Stop::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Stop::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stop> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn short(&mut self) -> Result<u16, Stop> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn int(&mut self) -> Result<i32, Stop> {
        self.array().map(i32::from_le_bytes)
    }

    /// A length or an index: an `int` that is not negative.
    pub(super) fn count(&mut self) -> Result<usize, Stop> {
        usize::try_from(self.int()?).map_err(|_negative| Stop::Odd("a negative length"))
    }

    /// The first byte's leading ones tell how many bytes follow the `least - 1` that always do; the rest of its bits are the
    /// highest of the number.
    pub(super) fn long(&mut self, least: usize) -> Result<u64, Stop> {
        let first = self.byte()?;
        let extra = (first.leading_ones() as usize).min(6);
        let low = self.take(least.saturating_sub(1) + extra)?;
        let high = if extra == 0 { first } else { first & (0x7f >> extra) };
        if low.len() > 8 || (low.len() == 8 && high != 0) {
            return Err(Stop::Odd("a number that is too large"));
        }
        let of = |(at, byte): (usize, &u8)| u64::from(*byte) << (8 * at);
        let value: u64 = low.iter().enumerate().map(of).fold(0, |sum, part| sum | part);
        Ok(if low.len() < 8 { value | u64::from(high) << (8 * low.len()) } else { value })
    }

    pub(super) fn varint(&mut self) -> Result<u32, Stop> {
        u32::try_from(self.long(1)?).map_err(|_large| Stop::Odd("a number that is too large"))
    }

    pub(super) fn index(&mut self, last: &mut Last) -> Result<i64, Stop> {
        let mut byte = self.byte()?;
        let negative = byte == 0xff;
        if byte == 0 {
            return Ok(-1);
        }
        if negative {
            byte = self.byte()?;
        }
        let before = if negative { &mut last.negative } else { &mut last.positive };
        let value = if byte == 0xfe {
            let [high, low] = self.array()?;
            if high & 0x80 == 0 {
                before.wrapping_add(u32::from(high) << 8 | u32::from(low))
            } else {
                let [second, third] = self.array()?;
                u32::from_le_bytes([low, second, third, high & 0x7f])
            }
        } else {
            before.wrapping_add(u32::from(byte))
        };
        if value > i32::MAX.unsigned_abs() {
            return Err(Stop::Odd("an index that is too large"));
        }
        *before = value;
        Ok(if negative { -i64::from(value) } else { i64::from(value) })
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Stop> {
        let first = self.byte()?;
        let length = if first & 0x80 == 0 {
            usize::from(first)
        } else {
            usize::from(first & 0x7f) << 8 | usize::from(self.byte()?)
        };
        self.take(length)
    }

    /// A name with its length in one byte, of a user or a group.
    pub(super) fn name(&mut self) -> Result<(), Stop> {
        let length = self.byte()?;
        self.take(usize::from(length)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_bytes_as_their_first_says() {
        for (bytes, least, value) in [
            (&[0x7f][..], 1, 0x7f),
            (&[0x80, 0x85], 1, 0x85),
            (&[0x81, 0x00], 1, 0x100),
            (&[0xc1, 0x02, 0x03], 1, 0x01_03_02),
            (&[0x00, 0x05, 0x00], 3, 5),
            (&[0x12, 0x34, 0x56], 3, 0x12_56_34),
            (&[0xf0, 0x01, 0x02, 0x03, 0x04], 1, 0x04_03_02_01),
            (&[0x80, 0xd0, 0x41, 0x28, 0x67], 4, 0x67_28_41_d0),
        ] {
            let mut input = Input::new(bytes);
            assert_eq!((input.long(least), input.left()), (Ok(value), 0), "{bytes:x?}");
            let short = &bytes[..bytes.len() - 1];
            assert_eq!(Input::new(short).long(least), Err(Stop::Short), "{short:x?}");
        }
        assert!(matches!(Input::new(&[0xff; 12]).long(4), Err(Stop::Odd(_))));
    }

    #[test]
    fn indices_go_up_from_the_last_of_their_sign() {
        let mut input =
            Input::new(&[1, 2, 0xff, 1, 0, 0xfe, 0x01, 0x00, 0xfe, 0x80, 0x01, 0x02, 0x03, 0xff, 99, 1]);
        let mut last = Last::default();
        let read: Vec<i64> = std::iter::from_fn(|| input.index(&mut last).ok()).collect();
        assert_eq!(read, [0, 2, -2, -1, 258, 0x03_02_01, -101, 0x03_02_02]);
    }
}
