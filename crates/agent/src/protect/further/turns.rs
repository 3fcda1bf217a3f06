//! When a copy to a further vault has its turn, and what runs around it.

use jiff::Timestamp;
use levee_model::AssetName;
use levee_vault::SnapshotId;

use super::super::app::transient;
use super::super::hooks::{self, Hooked, NotMade, Saved};
use super::super::queue::{Asked, Turn};
use super::copying::Damaged;
use super::shared::SharedVault;
use super::{Further, There};

impl<'a> Further<'a> {
    /// The right to copy one snapshot there. `None` while it is another's turn: the log goes on meanwhile, and it is asked
    /// again at the next look. Nothing that waits for a turn itself is waited for with one in hand.
    pub(super) fn turn_of(&mut self, asset: &AssetName) -> Option<Turn<'a>> {
        let shared: &'a SharedVault = self.shared;
        let ticket = match self.ticket.take() {
            Some(ticket) if self.has_asked => {
                // It has just heard that it waits.
                self.ticket = Some(ticket);
                return None;
            }
            Some(ticket) => ticket,
            None => shared.queue.ticket(format!("the copies of {} for vault {}", self.app.name, self.name))?,
        };
        self.has_asked = true;
        match ticket.ask() {
            Asked::Turn(turn) => {
                self.tell_waiting(None);
                Some(turn)
            }
            Asked::Waits { ticket, behind } => {
                self.ticket = Some(ticket);
                self.tell_waiting(Some((asset, behind)));
                None
            }
        }
    }

    pub(super) fn leave_line(&mut self) {
        self.ticket = None;
        self.tell_waiting(None);
    }

    fn tell_waiting(&mut self, now: Option<(&AssetName, String)>) {
        let others = self.waiting.take().filter(|before| now.as_ref().is_none_or(|(asset, _)| *asset != before));
        if let Some(before) = others {
            self.app.board.update(&before, |entry| entry.waiting = None);
        }
        if let Some((asset, behind)) = now {
            self.app.board.update(asset, |entry| entry.waiting = Some(behind));
            self.waiting = Some(asset.clone());
        }
    }

    /// Copies a snapshot between the operator's commands.
    pub(super) fn copy_between_hooks(
        &mut self,
        there: &There,
        asset: &AssetName,
        id: &SnapshotId,
    ) -> Result<Result<SnapshotId, Damaged>, NotMade> {
        let copy = hooks::CopyOf { app: self.app, asset, kind: hooks::Kind::Further(self.name) };
        let saved = |copied: &Result<SnapshotId, Damaged>| {
            let to = copied.as_ref().ok()?;
            Some(Saved { snapshot: to.to_string(), is_whole: true })
        };
        let Hooked { made, after } = hooks::around(&copy, self.stop, || self.copy_opened(there, id), saved)?;
        self.hook_retry.note(true, Timestamp::now());
        self.note_besides("before-copy", Ok(()));
        self.note_besides("after-copy", after.map_or(Ok(()), |problem| Err(transient(problem))));
        Ok(made)
    }
}
