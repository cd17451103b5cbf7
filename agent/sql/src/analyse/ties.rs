//! Writes whose outcome hangs on a masked column beside what is written: see [`crate::view`]'s ties.

use super::Analyser;
use crate::catalog::RelId;
use crate::refusal::{How, Refusal, Res};

impl Analyser<'_> {
    /// Whether rows may be deleted: a masked column that refers to them would be told by it.
    pub(super) fn may_delete(&self, id: RelId) -> Res<()> {
        match self.view.rel_mask(id).and_then(|mask| mask.delete_tells.as_ref()) {
            Some(path) => Err(Refusal::labelled(path.to_string(), How::Referring)),
            None => Ok(()),
        }
    }

    /// Whether these columns may be set together in rows that exist.
    pub(super) fn may_update(&mut self, id: RelId, written: &[usize]) -> Res<()> {
        let view = self.view;
        let Some(mask) = view.rel_mask(id) else { return Ok(()) };
        if let Some(path) = &mask.update_tells {
            return Err(Refusal::labelled(path.to_string(), How::Together));
        }
        if let Some((_, path)) = mask.referred.iter().find(|(at, _)| written.contains(at)) {
            return Err(Refusal::labelled(path.to_string(), How::Referring));
        }
        for set in mask.together.iter().filter(|set| set.iter().any(|at| written.contains(at))) {
            self.spend(set.len() * written.len())?;
            let kept = set.iter().filter(|at| !written.contains(at));
            if let Some(taint) = kept.filter_map(|at| view.is_secret(id, *at)).next() {
                return Err(self.labelled(taint, How::Together));
            }
        }
        Ok(())
    }
}
