//! What to do next with a node: one pure function over what is wished and what is seen.
//!
//! ```text
//!             Prepare            Start              (dies)
//!   pending ----------> off -------------> running ---------> failed
//!                        ^ ^                  |                 |  |
//!                        | |       Stop       |                 |  | Start: only under a newer generation
//!                        | +------------------+                 |  +-------------------------------------> running
//!                        +--------------- Settle ---------------+
//!                                  (power off)
//!
//!   pending --Settle--> off: a node that is off is not made; its first start makes it
//!   reboot:  running --Stop--> off --Start--> running, under one generation
//!   removed:  running --Stop--> off --Remove--> gone;  pending, off, failed, hibernated --Remove--> gone
//! ```
//!
//! `preparing`, `starting`, `stopping` and `removing` are what is reported while an action runs. Seen without one,
//! something else (a driver that answers late) is at it.

use yiqiu_base::NodeState;

/// One thing to do with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Fetch its image and make it, without starting it.
    Prepare,
    /// Start it: this is the power-on of its generation. Makes it first if nothing of it is there.
    Start,
    /// Stop it, within its grace.
    Stop,
    /// Take every trace of it away and verify that.
    Remove,
    /// It is already as wished: note the generation as carried out.
    Carry,
    /// It failed and shall be off: end whatever still lives of it, and forget the failure.
    Settle,
    /// No driver can do that: note the generation and say so, and leave the node as it is.
    Refuse,
}

/// What [`next`] decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is as it should be, or stays as it is.
    Done,
    /// Something is under way: look again later.
    Wait,
    /// Do this, then look again.
    Do(Action),
}

/// What is wished of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// It runs.
    On,
    /// It runs, and what ran before was stopped.
    Reboot,
    /// It does not run.
    Off,
    /// Its memory is on disk.
    Hibernated,
}

impl Goal {
    /// Every value.
    pub const ALL: [Self; 4] = [Self::On, Self::Reboot, Self::Off, Self::Hibernated];
}

/// Decides the next step. `fresh`: the wish was not carried out yet (its generation is newer than the newest carried
/// out). `removed`: the server sent a tombstone.
pub fn next(goal: Goal, fresh: bool, observed: NodeState, removed: bool) -> Step {
    use Action::{Carry, Prepare, Refuse, Remove, Settle, Start, Stop};
    use NodeState::{Failed, Gone, Hibernated, Off, Pending, Preparing, Removing, Running, Starting, Stopping};

    if removed {
        return match observed {
            Gone => Step::Done,
            Running | Starting => Step::Do(Stop),
            Stopping | Removing => Step::Wait,
            Pending | Preparing | Off | Failed | Hibernated => Step::Do(Remove),
        };
    }
    match (goal, observed) {
        (Goal::On | Goal::Reboot, Pending | Preparing | Gone) if fresh => Step::Do(Prepare),
        (Goal::On | Goal::Reboot, Off | Failed) if fresh => Step::Do(Start),
        (Goal::On, Running) if fresh => Step::Do(Carry),
        (Goal::Reboot, Running) if fresh => Step::Do(Stop),
        (Goal::On | Goal::Reboot, Hibernated) if fresh => Step::Do(Refuse),
        (Goal::On | Goal::Reboot, Pending | Preparing | Gone | Off | Running | Hibernated) => Step::Done,
        (Goal::On | Goal::Reboot, Failed) => Step::Done, // it died: that is shown and left
        (Goal::On | Goal::Reboot, Starting | Stopping | Removing) => Step::Wait,

        // Nothing is made for a node that is off: its first start makes it.
        (Goal::Off, Pending | Preparing | Gone) => Step::Do(Settle),
        (Goal::Off, Running | Starting) => Step::Do(Stop),
        (Goal::Off, Failed | Hibernated) => Step::Do(Settle),
        (Goal::Off, Off) if fresh => Step::Do(Carry),
        (Goal::Off, Off) => Step::Done,
        (Goal::Off, Stopping | Removing) => Step::Wait,

        (Goal::Hibernated, Starting | Stopping | Removing) => Step::Wait,
        (Goal::Hibernated, Hibernated) if fresh => Step::Do(Carry),
        (Goal::Hibernated, Pending | Preparing | Running | Off | Failed | Gone) if fresh => Step::Do(Refuse),
        (Goal::Hibernated, Pending | Preparing | Running | Off | Failed | Hibernated | Gone) => Step::Done,
    }
}

/// Whether an action under way is pointless under a newer wish, or is to be done as that one says: it is cut short
/// then. A stop is finished before a start, as who was asked to end will end.
pub fn is_cut_short(action: Action, goal: Option<Goal>, removed: bool) -> bool {
    let stops = removed || matches!(goal, Some(Goal::Off));
    match action {
        Action::Prepare => stops,
        Action::Stop | Action::Settle => stops || goal == Some(Goal::Reboot),
        Action::Start | Action::Remove | Action::Carry | Action::Refuse => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows: desired and fresh. Columns: every state in the order of `NodeState::ALL`.
    #[test]
    fn every_pair() {
        use Action::{Carry, Prepare, Refuse, Remove, Settle, Start, Stop};
        use Step::{Do, Done, Wait};
        assert_eq!(
            NodeState::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(" "),
            "pending preparing starting running stopping off failed hibernated removing gone"
        );
        let rows: [(Goal, bool, [Step; 10]); 8] = [
            (
                Goal::On,
                true,
                [Do(Prepare), Do(Prepare), Wait, Do(Carry), Wait, Do(Start), Do(Start), Do(Refuse), Wait, Do(Prepare)],
            ),
            (Goal::On, false, [Done, Done, Wait, Done, Wait, Done, Done, Done, Wait, Done]),
            (
                Goal::Reboot,
                true,
                [Do(Prepare), Do(Prepare), Wait, Do(Stop), Wait, Do(Start), Do(Start), Do(Refuse), Wait, Do(Prepare)],
            ),
            (Goal::Reboot, false, [Done, Done, Wait, Done, Wait, Done, Done, Done, Wait, Done]),
            (
                Goal::Off,
                true,
                [Do(Settle), Do(Settle), Do(Stop), Do(Stop), Wait, Do(Carry), Do(Settle), Do(Settle), Wait, Do(Settle)],
            ),
            (
                Goal::Off,
                false,
                [Do(Settle), Do(Settle), Do(Stop), Do(Stop), Wait, Done, Do(Settle), Do(Settle), Wait, Do(Settle)],
            ),
            (
                Goal::Hibernated,
                true,
                [Do(Refuse), Do(Refuse), Wait, Do(Refuse), Wait, Do(Refuse), Do(Refuse), Do(Carry), Wait, Do(Refuse)],
            ),
            (Goal::Hibernated, false, [Done, Done, Wait, Done, Wait, Done, Done, Done, Wait, Done]),
        ];
        for (goal, fresh, row) in rows {
            for (&observed, expected) in NodeState::ALL.iter().zip(row) {
                assert_eq!(next(goal, fresh, observed, false), expected, "{goal:?} {fresh} {observed}");
            }
        }
        let removed =
            [Do(Remove), Do(Remove), Do(Stop), Do(Stop), Wait, Do(Remove), Do(Remove), Do(Remove), Wait, Done];
        for (&observed, expected) in NodeState::ALL.iter().zip(removed) {
            for goal in Goal::ALL {
                for fresh in [true, false] {
                    assert_eq!(next(goal, fresh, observed, true), expected, "removed {observed}");
                }
            }
        }
    }

    #[test]
    fn only_a_fresh_power_on_starts() {
        for goal in Goal::ALL {
            for &observed in NodeState::ALL {
                for (fresh, removed) in [(false, false), (false, true), (true, true), (true, false)] {
                    if next(goal, fresh, observed, removed) == Step::Do(Action::Start) {
                        assert!(fresh && !removed && matches!(goal, Goal::On | Goal::Reboot), "{goal:?} {observed}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_newer_wish_cuts_short() {
        use Action::{Carry, Prepare, Refuse, Remove, Settle, Start, Stop};
        for action in [Carry, Prepare, Refuse, Remove, Settle, Start, Stop] {
            for (goal, removed, cut) in [
                (Some(Goal::On), false, &[][..]),
                (Some(Goal::Reboot), false, &[Settle, Stop]),
                (Some(Goal::Off), false, &[Prepare, Settle, Stop]),
                (Some(Goal::Hibernated), false, &[]),
                (None, false, &[]),
                (Some(Goal::On), true, &[Prepare, Settle, Stop]),
            ] {
                assert_eq!(is_cut_short(action, goal, removed), cut.contains(&action), "{action:?} {goal:?} {removed}");
            }
        }
    }
}
