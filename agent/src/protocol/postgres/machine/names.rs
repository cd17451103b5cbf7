//! Prepared statements and portals by name, exactly as the server knows them.
//!
//! A name is *pending* from the message that defines it until the server confirms it. The server skips
//! everything after an error up to the next Sync, so a pending definition may be relied on inside its own sync
//! group (if it failed, what relies on it is skipped too) and nowhere else: a later group has to wait.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

/// Most names a session may have; a client beyond it is told to close some.
pub(super) const NAMES_MAX: usize = 1_000;

#[derive(Debug)]
pub(super) struct Names<T> {
    confirmed: HashMap<Bytes, Arc<T>>,
    pending: HashMap<Bytes, (u64, Arc<T>)>,
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
        Self { confirmed: HashMap::new(), pending: HashMap::new() }
    }
}

impl<T> Names<T> {
    pub(super) fn find(&self, name: &[u8], group: u64) -> Found<T> {
        match self.pending.get(name) {
            Some((defined_in, value)) if *defined_in == group => Found::This(Arc::clone(value)),
            Some(_) => Found::Unsettled,
            None => self.confirmed.get(name).map_or(Found::Nothing, |value| Found::This(Arc::clone(value))),
        }
    }

    pub(super) fn full(&self) -> bool {
        self.confirmed.len() + self.pending.len() >= NAMES_MAX
    }

    pub(super) fn define(&mut self, name: Bytes, group: u64, value: Arc<T>) {
        self.pending.insert(name, (group, value));
    }

    /// The server confirmed a definition.
    pub(super) fn confirm(&mut self, name: &Bytes, value: &Arc<T>) {
        if self.pending.get(name).is_some_and(|(_, pending)| Arc::ptr_eq(pending, value)) {
            self.pending.remove(name);
        }
        self.confirmed.insert(name.clone(), Arc::clone(value));
    }

    /// The server skipped or refused a definition.
    pub(super) fn abandon(&mut self, name: &Bytes, value: &Arc<T>) {
        if self.pending.get(name).is_some_and(|(_, pending)| Arc::ptr_eq(pending, value)) {
            self.pending.remove(name);
        }
    }

    /// The server confirmed a Close or DEALLOCATE.
    pub(super) fn close(&mut self, name: &[u8]) {
        self.confirmed.remove(name);
    }

    /// The server forgot them all: DEALLOCATE ALL, CLOSE ALL.
    pub(super) fn close_all(&mut self) {
        self.confirmed.clear();
    }

    /// The server forgot all but these.
    pub(super) fn keep(&mut self, kept: impl Fn(&T) -> bool) {
        self.confirmed.retain(|_, value| kept(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &Names<u32>, name: &str, group: u64) -> Option<Result<u32, ()>> {
        match names.find(name.as_bytes(), group) {
            Found::This(value) => Some(Ok(*value)),
            Found::Unsettled => Some(Err(())),
            Found::Nothing => None,
        }
    }

    #[test]
    fn a_pending_name_counts_in_its_own_group_only() {
        let mut names = Names::default();
        let (s, old, new) = (Bytes::from("s"), Arc::new(1), Arc::new(2));
        names.define(s.clone(), 1, Arc::clone(&old));
        assert_eq!(found(&names, "s", 1), Some(Ok(1)));
        assert_eq!(found(&names, "s", 2), Some(Err(())), "another group has to wait");
        names.confirm(&s, &old);
        assert_eq!(found(&names, "s", 2), Some(Ok(1)));
        // A redefinition that the server refuses must leave the old meaning in force.
        names.define(s.clone(), 2, Arc::clone(&new));
        assert_eq!(found(&names, "s", 2), Some(Ok(2)));
        names.abandon(&s, &new);
        assert_eq!(found(&names, "s", 3), Some(Ok(1)));
        names.close(b"s");
        assert_eq!(found(&names, "s", 3), None);
    }
}
