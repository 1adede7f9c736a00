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
//!   removed:  running --Stop--> off --Remove--> gone;  pending, off, failed, hibernated --Remove--> gone
//! ```
//!
//! `preparing`, `starting`, `stopping` and `removing` are what is reported while an action runs. Seen without one,
//! something else (a driver that answers late) is at it.

use yiqiu_base::{NodeState, Power};

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

/// Decides the next step. `fresh`: the wish for this power state was not carried out yet (its generation is newer than
/// the newest carried out). `removed`: the server sent a tombstone.
pub fn next(desired: Power, fresh: bool, observed: NodeState, removed: bool) -> Step {
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
    match (desired, observed) {
        (Power::On, Pending | Preparing | Gone) if fresh => Step::Do(Prepare),
        (Power::On, Off | Failed) if fresh => Step::Do(Start),
        (Power::On, Running) if fresh => Step::Do(Carry),
        (Power::On, Hibernated) if fresh => Step::Do(Refuse),
        (Power::On, Pending | Preparing | Gone | Off | Running | Hibernated) => Step::Done,
        (Power::On, Failed) => Step::Done, // it died: that is shown and left
        (Power::On, Starting | Stopping | Removing) => Step::Wait,

        (Power::Off, Pending | Preparing | Gone) => Step::Do(Prepare),
        (Power::Off, Running | Starting) => Step::Do(Stop),
        (Power::Off, Failed | Hibernated) => Step::Do(Settle),
        (Power::Off, Off) if fresh => Step::Do(Carry),
        (Power::Off, Off) => Step::Done,
        (Power::Off, Stopping | Removing) => Step::Wait,

        (Power::Hibernated, Starting | Stopping | Removing) => Step::Wait,
        (Power::Hibernated, Hibernated) if fresh => Step::Do(Carry),
        (Power::Hibernated, Pending | Preparing | Running | Off | Failed | Gone) if fresh => Step::Do(Refuse),
        (Power::Hibernated, Pending | Preparing | Running | Off | Failed | Hibernated | Gone) => Step::Done,
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
        let rows: [(Power, bool, [Step; 10]); 6] = [
            (
                Power::On,
                true,
                [Do(Prepare), Do(Prepare), Wait, Do(Carry), Wait, Do(Start), Do(Start), Do(Refuse), Wait, Do(Prepare)],
            ),
            (Power::On, false, [Done, Done, Wait, Done, Wait, Done, Done, Done, Wait, Done]),
            (
                Power::Off,
                true,
                [
                    Do(Prepare),
                    Do(Prepare),
                    Do(Stop),
                    Do(Stop),
                    Wait,
                    Do(Carry),
                    Do(Settle),
                    Do(Settle),
                    Wait,
                    Do(Prepare),
                ],
            ),
            (
                Power::Off,
                false,
                [Do(Prepare), Do(Prepare), Do(Stop), Do(Stop), Wait, Done, Do(Settle), Do(Settle), Wait, Do(Prepare)],
            ),
            (
                Power::Hibernated,
                true,
                [Do(Refuse), Do(Refuse), Wait, Do(Refuse), Wait, Do(Refuse), Do(Refuse), Do(Carry), Wait, Do(Refuse)],
            ),
            (Power::Hibernated, false, [Done, Done, Wait, Done, Wait, Done, Done, Done, Wait, Done]),
        ];
        for (desired, fresh, row) in rows {
            for (&observed, expected) in NodeState::ALL.iter().zip(row) {
                assert_eq!(next(desired, fresh, observed, false), expected, "{desired} {fresh} {observed}");
            }
        }
        let removed =
            [Do(Remove), Do(Remove), Do(Stop), Do(Stop), Wait, Do(Remove), Do(Remove), Do(Remove), Wait, Done];
        for (&observed, expected) in NodeState::ALL.iter().zip(removed) {
            for &desired in Power::ALL {
                for fresh in [true, false] {
                    assert_eq!(next(desired, fresh, observed, true), expected, "removed {observed}");
                }
            }
        }
    }

    #[test]
    fn only_a_fresh_power_on_starts() {
        for &desired in Power::ALL {
            for &observed in NodeState::ALL {
                for (fresh, removed) in [(false, false), (false, true), (true, true), (true, false)] {
                    if next(desired, fresh, observed, removed) == Step::Do(Action::Start) {
                        assert!(fresh && !removed && desired == Power::On, "{desired} {observed}");
                    }
                }
            }
        }
    }
}
