//! Window accounting of one direction of a channel.
//!
//! Windows are end to end: a sender may send what the receiver granted, and a stalled receiver stalls its own channel
//! and no other. Chaperone keeps a part of what was granted to itself, so that words of its own (a notice, a refusal
//! of a file operation) never overrun a receiver, and gives back what it takes out of the stream.

/// The most that is kept back of a window; less of a small one.
const RESERVE: u64 = 256 << 10;

/// Below this much for the sender, the reserve is let go: a receiver that grants only when its window is empty must
/// not wait for what the sender cannot send.
const LOW: u64 = 64 << 10;

/// A side broke the rules of windows (RFC 4254 section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FlowError {
    #[error("more data than the window allows")]
    Overrun,
    #[error("a window of more than 4 GiB")]
    TooWide,
}

/// `promised + buffered <= granted` always holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Flow {
    /// What the receiver will still take.
    granted: u64,
    /// What the sender has been told it may still send.
    promised: u64,
    /// What came from the sender and has neither been passed on nor dropped.
    buffered: u64,
}

impl Flow {
    /// The receiver grants more; what to tell the sender.
    pub(super) fn grant(&mut self, bytes: u32) -> Result<u32, FlowError> {
        self.granted += u64::from(bytes);
        if self.granted > u64::from(u32::MAX) {
            return Err(FlowError::TooWide);
        }
        let kept = RESERVE.min(self.granted / 4);
        let more = self.granted.saturating_sub(kept + self.promised + self.buffered);
        Ok(self.promise(more))
    }

    /// Data came from the sender.
    pub(super) fn received(&mut self, bytes: usize) -> Result<(), FlowError> {
        self.promised = self.promised.checked_sub(bytes as u64).ok_or(FlowError::Overrun)?;
        self.buffered += bytes as u64;
        Ok(())
    }

    /// Data was passed on; what to tell the sender.
    pub(super) fn passed(&mut self, bytes: usize) -> u32 {
        let bytes = (bytes as u64).min(self.buffered);
        self.buffered -= bytes;
        self.granted = self.granted.saturating_sub(bytes);
        if self.promised < LOW { self.promise(self.spare()) } else { 0 }
    }

    /// Data was taken out of the stream; what to tell the sender.
    pub(super) fn dropped(&mut self, bytes: usize) -> u32 {
        let bytes = (bytes as u64).min(self.buffered);
        self.buffered -= bytes;
        self.promise(bytes)
    }

    /// Puts words of our own into the stream, if the receiver will take them.
    #[must_use]
    pub(super) fn inject(&mut self, bytes: usize) -> bool {
        let fits = self.spare() >= bytes as u64;
        if fits {
            self.granted -= bytes as u64;
        }
        fits
    }

    /// What the sender may still send.
    pub(super) fn promised(&self) -> u32 {
        u32::try_from(self.promised).unwrap_or(u32::MAX)
    }

    /// Whether another receiver that takes so much can step in: the sender has sent nothing yet, and keeps what it was told.
    pub(super) fn could_grant(&self, window: u32) -> bool {
        self.buffered == 0 && self.promised <= u64::from(window)
    }

    /// Another receiver has stepped in.
    pub(super) fn now_grants(&mut self, window: u32) {
        self.granted = u64::from(window);
    }

    /// Nothing more will come from the sender: all that is left is ours to use.
    pub(super) fn take_over(&mut self) {
        self.promised = 0;
        self.buffered = 0;
    }

    /// Granted, and neither promised nor needed for what is buffered.
    pub(super) fn spare(&self) -> u64 {
        self.granted.saturating_sub(self.promised + self.buffered)
    }

    fn promise(&mut self, bytes: u64) -> u32 {
        self.promised += bytes;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A receiver that tops its window up when half of it is used, or when all of it is, as stacks do.
        #[test]
        fn no_receiver_is_overrun_and_no_sender_waits_for_ever(
            window in 1u32..(4 << 20), top_up_at_empty: bool,
            steps in prop::collection::vec((1usize..70_000, 0u8..8), 1..300)
        ) {
            let mut flow = Flow::default();
            let mut sender = u64::from(flow.grant(window).unwrap());
            let (mut room, mut used) = (u64::from(window), 0u64);
            for (size, kind) in steps {
                let chunk = (size as u64).min(sender);
                prop_assert!(chunk > 0, "the sender is stuck with {room} of {window} left");
                flow.received(chunk as usize).unwrap();
                sender -= chunk;
                if kind == 0 {
                    sender += u64::from(flow.dropped(chunk as usize));
                } else {
                    sender += u64::from(flow.passed(chunk as usize));
                    room = room.checked_sub(chunk).expect("overrun");
                    used += chunk;
                }
                if kind == 1 && flow.inject(80) {
                    room = room.checked_sub(80).expect("overrun by our own words");
                    used += 80;
                }
                if (top_up_at_empty && room == 0) || (!top_up_at_empty && used > u64::from(window) / 2) {
                    sender += u64::from(flow.grant(used as u32).unwrap());
                    (room, used) = (room + used, 0);
                }
                prop_assert!(flow.promised + flow.buffered <= flow.granted);
                prop_assert_eq!(flow.promised, sender);
            }
        }
    }

    #[test]
    fn a_sender_that_goes_beyond_its_window_is_told_apart() {
        let mut flow = Flow::default();
        let told = flow.grant(1000).unwrap();
        assert_eq!(flow.received(told as usize + 1), Err(FlowError::Overrun));
        assert_eq!(
            Flow { granted: u64::from(u32::MAX), ..Flow::default() }.grant(1),
            Err(FlowError::TooWide)
        );
    }
}
