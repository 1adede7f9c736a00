//! What time does to a contract.
//!
//! ```text
//!   scheduled ──start──▶ active ──end──▶ ending ──grace over──▶ releasing ──last node gone──▶ released
//!       │                  ▲ │              │                       ▲
//!       │                  │ └──────────────┼─────── release ───────┤
//!       │                  └──── renew ─────┘                       │
//!       └────────────────────── release ────────────────────────────┘
//! ```

use yiqiu_base::{Code, Problem, clock::Ms};

use crate::model::{ContractState, Term};

/// The last point in time that a term may name: the end of the year 9999.
const LAST_MS: Ms = 253_402_300_799_999;
/// The longest grace: a year.
const GRACE_MOST_MS: Ms = 365 * 86_400_000;

/// What is due for a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing now.
    Nothing,
    /// Its start came: it is active from now on, and its nodes are powered on.
    Start {
        /// When its end is due.
        due_ms: Option<Ms>,
    },
    /// Its end came: its nodes are powered off.
    End {
        /// When its release is due. The grace counts from when its nodes were told, so that an end that was noticed
        /// late takes nothing from it.
        due_ms: Ms,
    },
    /// Its grace is over: it is released.
    Expire,
}

/// Decides what is due. A contract whose start and end both passed unnoticed is not started for a moment.
pub fn turn(state: ContractState, term: Term, due_ms: Option<Ms>, now: Ms) -> Turn {
    if due_ms.is_none_or(|due| due > now) {
        return Turn::Nothing;
    }
    let ended = term.ends_ms.is_some_and(|ends| ends <= now);
    match (state, ended) {
        (ContractState::Scheduled, false) => Turn::Start { due_ms: term.ends_ms },
        (ContractState::Scheduled | ContractState::Active, true) => {
            Turn::End { due_ms: now.saturating_add(term.grace_ms) }
        }
        (ContractState::Active, false) => Turn::Nothing,
        (ContractState::Ending, _) => Turn::Expire,
        (ContractState::Releasing | ContractState::Released, _) => Turn::Nothing,
    }
}

/// How a new contract begins, and when something is due first; refused where it would end before it begins.
pub fn begin(term: Term, now: Ms) -> Result<(ContractState, Option<Ms>), Problem> {
    not_over(term, now)?;
    Ok(match term.starts_ms {
        Some(starts) if starts > now => (ContractState::Scheduled, Some(starts)),
        Some(_) | None => (ContractState::Active, term.ends_ms),
    })
}

/// What becomes of a contract whose end is moved, and when something is due next.
pub fn renew(state: ContractState, term: Term, now: Ms) -> Result<(ContractState, Option<Ms>), Problem> {
    let renewed = match state {
        ContractState::Scheduled => (state, term.starts_ms),
        ContractState::Active | ContractState::Ending => (ContractState::Active, term.ends_ms),
        ContractState::Releasing | ContractState::Released => {
            let why = format!("the rcontract is {state}: it cannot be renewed any more");
            return Err(Problem::new(Code::WrongState, why));
        }
    };
    check(term)?;
    not_over(term, now)?;
    Ok(renewed)
}

/// Whether nodes of a contract may be powered on.
pub fn may_run(node: &str, state: ContractState) -> Result<(), Problem> {
    let why = match state {
        ContractState::Active => return Ok(()),
        ContractState::Scheduled => "its contract has not started: it is powered on when the start comes",
        ContractState::Ending => "its contract has ended: renew it (`yiqiu rcontract renew`)",
        ContractState::Releasing | ContractState::Released => "its contract is being released",
    };
    Err(Problem::new(Code::WrongState, format!("node {node} cannot be powered on: {why}")))
}

/// Checks a term by itself.
pub fn check(term: Term) -> Result<(), Problem> {
    let Term { starts_ms, ends_ms, grace_ms } = term;
    for (field, at) in [("starts_ms", starts_ms), ("ends_ms", ends_ms)] {
        if at.is_some_and(|at| !(0..=LAST_MS).contains(&at)) {
            return Err(Problem::invalid(format!("{field} is milliseconds since 1970, from 0 to {LAST_MS}")));
        }
    }
    if !(0..=GRACE_MOST_MS).contains(&grace_ms) {
        return Err(Problem::invalid(format!("grace_ms is 0 to {GRACE_MOST_MS} (365 days), not {grace_ms}")));
    }
    match (starts_ms, ends_ms) {
        (Some(starts), Some(ends)) if ends <= starts => Err(Problem::invalid(format!(
            "the contract would end before it starts: ends_ms {ends} is not after starts_ms {starts}"
        ))),
        _ => Ok(()),
    }
}

fn not_over(term: Term, now: Ms) -> Result<(), Problem> {
    match term.ends_ms {
        Some(ends) if ends <= now => {
            Err(Problem::invalid(format!("the contract would be over already: ends_ms {ends} is not after now, {now}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(starts: Option<Ms>, ends: Option<Ms>) -> Term {
        Term { starts_ms: starts, ends_ms: ends, grace_ms: 100 }
    }

    #[test]
    fn every_state_at_every_time() {
        use ContractState::{Active, Ending, Released, Releasing, Scheduled};
        let both = term(Some(10), Some(20));
        for (state, due, now, expected) in [
            (Scheduled, Some(10), 9, Turn::Nothing),
            (Scheduled, Some(10), 10, Turn::Start { due_ms: Some(20) }),
            (Scheduled, Some(10), 25, Turn::End { due_ms: 125 }),
            (Active, Some(20), 19, Turn::Nothing),
            (Active, Some(20), 20, Turn::End { due_ms: 120 }),
            (Active, Some(20), 500, Turn::End { due_ms: 600 }),
            (Active, None, 500, Turn::Nothing),
            (Ending, Some(120), 119, Turn::Nothing),
            (Ending, Some(120), 120, Turn::Expire),
            (Releasing, Some(1), 500, Turn::Nothing),
            (Released, Some(1), 500, Turn::Nothing),
        ] {
            assert_eq!(turn(state, both, due, now), expected, "{state} due {due:?} at {now}");
        }
        assert_eq!(turn(Scheduled, term(Some(10), None), Some(10), 99), Turn::Start { due_ms: None });
        let late = Term { grace_ms: i64::MAX, ..both };
        assert_eq!(turn(Active, late, Some(20), 20), Turn::End { due_ms: i64::MAX }, "the edge of 64 bits");
    }

    #[test]
    fn terms_that_cannot_be() {
        for (starts, ends, good) in [
            (None, None, true),
            (Some(5), None, true),
            (None, Some(5), true),
            (Some(5), Some(6), true),
            (Some(5), Some(5), false),
            (Some(6), Some(5), false),
            (Some(-1), None, false),
            (None, Some(i64::MAX), false),
            (Some(i64::MIN), Some(i64::MAX), false),
        ] {
            assert_eq!(check(term(starts, ends)).is_ok(), good, "{starts:?} {ends:?}");
        }
        for grace_ms in [-1, i64::MIN, i64::MAX] {
            assert!(check(Term { grace_ms, ..Term::default() }).is_err());
        }
    }

    #[test]
    fn a_contract_begins_and_is_renewed_by_its_term() {
        use ContractState::{Active, Ending, Released, Releasing, Scheduled};
        assert_eq!(begin(term(None, None), 10), Ok((Active, None)));
        assert_eq!(begin(term(Some(11), Some(12)), 10), Ok((Scheduled, Some(11))));
        assert_eq!(begin(term(Some(10), Some(12)), 10), Ok((Active, Some(12))));
        assert!(begin(term(None, Some(10)), 10).is_err());
        assert_eq!(renew(Scheduled, term(Some(11), Some(30)), 10), Ok((Scheduled, Some(11))));
        assert_eq!(renew(Active, term(None, Some(30)), 10), Ok((Active, Some(30))));
        assert_eq!(renew(Ending, term(None, None), 10), Ok((Active, None)));
        assert!(renew(Active, term(None, Some(10)), 10).is_err(), "an end in the past");
        for state in [Releasing, Released] {
            assert_eq!(renew(state, term(None, None), 10).unwrap_err().code, Code::WrongState);
        }
    }
}
