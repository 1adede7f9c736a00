//! The life of a CContract: what may follow what, and what there is to do. Pure.

use crate::model::State;

/// What a contract meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// Resources holds its RContract.
    Held,
    /// Its placement cannot be had.
    Refused,
    /// Someone asked for its end.
    EndAsked,
    /// Resources holds its RContract no more, or never did.
    LetGo,
}

/// What the reconcile loop does about a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask Resources for its RContract.
    Ask,
    /// Ask Resources to release it.
    Release,
    /// Nothing.
    Done,
}

/// What a contract is after something happened to it.
///
/// ```text
///             held             end asked               let go
///   placing ────────▶ placed ─────────────▶ releasing ────────▶ released
///      │  │                                     ▲                   ▲
///      │  └───────────── end asked ─────────────┘                   │
///      └───────────── refused, or let go ───────────────────────────┘
/// ```
///
/// A contract whose RContract vanished stays `placed`: its components show that they are gone until someone deletes it,
/// since nobody here asked for its end. What comes too late changes nothing; a lease that was made for a contract which
/// no longer wants it is released by whoever sees it, at the latest by the sweeper.
pub fn after(state: State, happened: Happened) -> State {
    match (state, happened) {
        (State::Placing, Happened::Held) => State::Placed,
        (State::Placing, Happened::Refused) => State::Released,
        (State::Placing, Happened::EndAsked) => State::Releasing,
        (State::Placing, Happened::LetGo) => State::Released, // ended below before we heard that it began
        (State::Placed, Happened::Held) => State::Placed,
        (State::Placed, Happened::Refused) => State::Placed, // an answer to an older question
        (State::Placed, Happened::EndAsked) => State::Releasing,
        (State::Placed, Happened::LetGo) => State::Placed,
        (State::Releasing, Happened::Held) => State::Releasing,
        (State::Releasing, Happened::Refused) => State::Releasing, // Resources has to say that it holds nothing
        (State::Releasing, Happened::EndAsked) => State::Releasing,
        (State::Releasing, Happened::LetGo) => State::Released,
        (State::Released, Happened::Held) => State::Released,
        (State::Released, Happened::Refused) => State::Released,
        (State::Released, Happened::EndAsked) => State::Released,
        (State::Released, Happened::LetGo) => State::Released,
    }
}

/// What is to be done about a contract in this state. Doing it twice is the same as once.
pub fn step(state: State) -> Step {
    match state {
        State::Placing => Step::Ask,
        State::Releasing => Step::Release,
        State::Placed | State::Released => Step::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAPPENINGS: [Happened; 4] = [Happened::Held, Happened::Refused, Happened::EndAsked, Happened::LetGo];

    #[test]
    fn every_pair() {
        use State::{Placed, Placing, Released, Releasing};
        // One row a state; the columns are held, refused, end asked, let go.
        for (from, to) in [
            (Placing, [Placed, Released, Releasing, Released]),
            (Placed, [Placed, Placed, Releasing, Placed]),
            (Releasing, [Releasing, Releasing, Releasing, Released]),
            (Released, [Released, Released, Released, Released]),
        ] {
            for (happened, to) in HAPPENINGS.into_iter().zip(to) {
                assert_eq!(after(from, happened), to, "{from} when {happened:?}");
            }
        }
    }

    #[test]
    fn an_end_that_was_asked_for_always_comes() {
        for state in State::ALL {
            let asked = after(*state, Happened::EndAsked);
            assert!(matches!(asked, State::Releasing | State::Released), "{state}");
            assert_eq!(after(asked, Happened::LetGo), State::Released);
        }
    }

    #[test]
    fn something_is_done_until_the_contract_rests() {
        for state in State::ALL {
            let resting = matches!(state, State::Placed | State::Released);
            assert_eq!(step(*state) == Step::Done, resting, "{state}");
        }
    }
}
