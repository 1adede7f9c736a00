//! What did not work: shown, tried again later, or called failed.

use yiqiu_base::NodeState;

use super::{ATTEMPTS, ATTEMPTS_UNAVAILABLE, After, pause};
use crate::{
    driver::{Driver, DriverError, NodeId, Presence, Seen},
    host::Host,
    lifecycle::Action,
};

impl Host {
    /// The driver does not say what there is. A wish waits for that: it is neither carried out nor given up on what was
    /// seen before.
    pub(super) async fn cannot_see(&self, id: NodeId, error: &DriverError) -> After {
        let detail = error.detail();
        let Some((later, waits, known)) = self.with(id, |n| {
            n.unanswered += 1;
            n.stale = true;
            if n.seen.is_some() {
                n.unverified = format!("not verified: {detail}");
            }
            (pause(n.unanswered - 1), n.record.fresh() && !n.record.removed(), n.seen.clone())
        }) else {
            return After::Gone;
        };
        match known {
            Some(seen) => {
                if let Some((state, detail)) = self.with(id, |n| n.record.observe(&seen, &self.boot_id)) {
                    self.show(id, state, &detail, &seen);
                }
            }
            None if waits && matches!(error, DriverError::Refused(_)) => {
                let _ = self.record(id, |r| r.failed(detail)).await;
                self.with(id, |n| {
                    n.seen = Some(Seen::default()); // nothing of ours can be there
                    n.stale = false;
                });
                return After::Look;
            }
            None if waits => self.show(id, NodeState::Preparing, detail, &Seen::default()),
            None => {} // what is true of a node that waits for nothing is not known
        }
        After::Later(later)
    }

    /// Something did not work: shows it, and tries again later or calls it failed.
    pub(super) async fn cannot(&self, id: NodeId, driver: &dyn Driver, action: Action, error: &DriverError) -> After {
        let Some(attempts) = self.with(id, |n| {
            n.attempts += 1;
            // Whether it is the driver that is away, and what became of a start, the next look tells.
            n.stale |= action == Action::Start || matches!(error, DriverError::Unavailable(_));
            n.attempts
        }) else {
            return After::Gone;
        };
        let for_good = match error {
            DriverError::Refused(_) => true,
            DriverError::Failed(_) => attempts >= ATTEMPTS,
            DriverError::Unavailable(_) => attempts >= ATTEMPTS_UNAVAILABLE,
        };
        let detail = error.detail();
        let state = match action {
            Action::Prepare => NodeState::Preparing,
            Action::Start => NodeState::Starting,
            Action::Stop => NodeState::Stopping,
            Action::Remove => NodeState::Removing,
            Action::Carry | Action::Settle | Action::Refuse => return After::Later(pause(attempts)),
        };
        let makes = matches!(state, NodeState::Preparing | NodeState::Starting);
        if !(for_good && makes) {
            self.show(id, state, detail, &Seen::default());
            return After::Later(pause(attempts));
        }
        if action == Action::Start {
            // Did it start all the same? Only if it surely did not is it called failed.
            match driver.inspect(id).await {
                Ok(seen) => {
                    let seen = self.see(id, seen);
                    self.settle_run(id, driver, &seen).await;
                    if seen.presence == Presence::Running || self.with(id, |n| n.record.fresh()) == Some(false) {
                        return After::Look;
                    }
                }
                Err(_) => {
                    self.show(id, state, detail, &Seen::default());
                    return After::Later(pause(attempts));
                }
            }
        }
        let _ = self.record(id, |r| r.failed(detail)).await;
        After::Look
    }
}
