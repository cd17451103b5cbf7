//! Prepared statements and portals by name, exactly as the server knows them.
//!
//! A name is *pending* from the message that defines it until the server confirms it. The server skips
//! everything after an error up to the next Sync, so a pending definition may be relied on inside its own sync
//! group (if it failed, what relies on it is skipped too) and nowhere else: a later group has to wait.

use std::collections::HashMap;
use std::sync::Arc;

/// Most names a session may have; a client beyond it is told to close some. Rails keeps 1,000 statements, and prepares the
/// next one before it gives one up.
pub(super) const NAMES_MAX: usize = 4_000;

#[derive(Debug)]
pub(super) struct Names<T> {
    named: HashMap<Box<[u8]>, Slot<T>>,
    /// What has the empty name: that is nearly everything, so it is not looked for.
    unnamed: Slot<T>,
}

/// What one name stands for.
#[derive(Debug)]
struct Slot<T> {
    confirmed: Option<Arc<T>>,
    /// With the group that defines it.
    pending: Option<(u64, Arc<T>)>,
}

/// What a name stands for right now.
#[derive(Debug)]
pub enum Found<T> {
    This(Arc<T>),
    /// Depends on an answer the server has not given yet.
    Unsettled,
    Nothing,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { named: HashMap::new(), unnamed: Slot::default() }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { confirmed: None, pending: None }
    }
}

impl<T> Slot<T> {
    fn is_empty(&self) -> bool {
        self.confirmed.is_none() && self.pending.is_none()
    }

    fn settle(&mut self, value: &Arc<T>) {
        if self.pending.as_ref().is_some_and(|(_, pending)| Arc::ptr_eq(pending, value)) {
            self.pending = None;
        }
    }
}

impl<T> Names<T> {
    pub(super) fn find(&self, name: &[u8], group: u64) -> Found<T> {
        let Some(slot) = self.slot(name) else { return Found::Nothing };
        match &slot.pending {
            Some((defined_in, value)) if *defined_in == group => Found::This(Arc::clone(value)),
            Some(_) => Found::Unsettled,
            None => slot.confirmed.as_ref().map_or(Found::Nothing, |value| Found::This(Arc::clone(value))),
        }
    }

    /// Whether what it stands for depends on an answer the server has not given yet.
    pub(super) fn is_unsettled(&self, name: &[u8], group: u64) -> bool {
        let pending = self.slot(name).and_then(|slot| slot.pending.as_ref());
        pending.is_some_and(|(defined_in, _)| *defined_in != group)
    }

    pub(super) fn full(&self) -> bool {
        !self.has_room(1)
    }

    /// Whether there may be so many more.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.named.len().saturating_add(more) <= NAMES_MAX
    }

    /// All that names stand for, or will when the server confirms it; with `all`, what has no name, too.
    pub(super) fn values(&self, all: bool) -> impl Iterator<Item = &Arc<T>> {
        let slots = self.named.values().chain(all.then_some(&self.unnamed));
        slots.flat_map(|slot| slot.confirmed.iter().chain(slot.pending.iter().map(|(_, value)| value)))
    }

    pub(super) fn define(&mut self, name: &[u8], group: u64, value: Arc<T>) {
        self.slot_mut(name).pending = Some((group, value));
    }

    /// The server confirmed a definition.
    pub(super) fn confirm(&mut self, name: &[u8], value: Arc<T>) {
        let slot = self.slot_mut(name);
        slot.settle(&value);
        slot.confirmed = Some(value);
    }

    /// The server skipped or refused a definition.
    pub(super) fn abandon(&mut self, name: &[u8], value: &Arc<T>) {
        self.change(name, |slot| slot.settle(value));
    }

    /// The server confirmed a Close or DEALLOCATE.
    pub(super) fn close(&mut self, name: &[u8]) {
        self.change(name, |slot| slot.confirmed = None);
    }

    /// The server forgot them all: DEALLOCATE ALL, CLOSE ALL.
    pub(super) fn close_all(&mut self) {
        self.keep(|_| false);
    }

    /// The server forgot all but these.
    pub(super) fn keep(&mut self, kept: impl Fn(&T) -> bool) {
        let sift = |slot: &mut Slot<T>| {
            slot.confirmed = slot.confirmed.take().filter(|value| kept(value));
            !slot.is_empty()
        };
        sift(&mut self.unnamed);
        self.named.retain(|_, slot| sift(slot));
    }

    fn slot(&self, name: &[u8]) -> Option<&Slot<T>> {
        if name.is_empty() { Some(&self.unnamed) } else { self.named.get(name) }
    }

    fn slot_mut(&mut self, name: &[u8]) -> &mut Slot<T> {
        if name.is_empty() { &mut self.unnamed } else { self.named.entry(name.into()).or_default() }
    }

    /// Changes what is there, and forgets a name that stands for nothing any more.
    fn change(&mut self, name: &[u8], change: impl FnOnce(&mut Slot<T>)) {
        if name.is_empty() {
            change(&mut self.unnamed);
        } else if let Some(slot) = self.named.get_mut(name) {
            change(slot);
            if slot.is_empty() {
                self.named.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &Names<u32>, name: &str, group: u64) -> Option<Result<u32, ()>> {
        let found = names.find(name.as_bytes(), group);
        assert_eq!(names.is_unsettled(name.as_bytes(), group), matches!(found, Found::Unsettled));
        match found {
            Found::This(value) => Some(Ok(*value)),
            Found::Unsettled => Some(Err(())),
            Found::Nothing => None,
        }
    }

    #[test]
    fn a_pending_name_counts_in_its_own_group_only() {
        for name in ["s", ""] {
            life_of(name);
        }
    }

    fn life_of(name: &str) {
        let mut names = Names::default();
        let s = name.as_bytes();
        let (old, new) = (Arc::new(1), Arc::new(2));
        names.define(s, 1, Arc::clone(&old));
        assert_eq!(found(&names, name, 1), Some(Ok(1)));
        assert_eq!(found(&names, name, 2), Some(Err(())), "another group has to wait");
        names.confirm(s, Arc::clone(&old));
        assert_eq!(found(&names, name, 2), Some(Ok(1)));
        // A redefinition that the server refuses must leave the old meaning in force.
        names.define(s, 2, Arc::clone(&new));
        assert_eq!(found(&names, name, 2), Some(Ok(2)));
        names.abandon(s, &new);
        assert_eq!(found(&names, name, 3), Some(Ok(1)));
        names.close(s);
        assert_eq!(found(&names, name, 3), None);
        assert!(names.named.is_empty());
        names.define(s, 4, Arc::clone(&old));
        names.close_all();
        assert_eq!(found(&names, name, 4), Some(Ok(1)), "what is pending was not forgotten");
        names.confirm(s, Arc::clone(&old));
        names.keep(|value| *value == 1);
        assert_eq!(found(&names, name, 5), Some(Ok(1)));
        names.keep(|value| *value == 2);
        assert_eq!(found(&names, name, 5), None);
        assert!(names.named.is_empty());
    }
}
