//! The life of a token, as pure functions.
//!
//! ```text
//!   made ──> active ──(expires_ms)──> expired
//!              │                         │
//!              └──────(revoked)──────────┴──> revoked
//! ```
//! Neither end has a way back: whoever needs a token again gets another.

use serde::{Deserialize, Serialize};
use yiqiu_base::{Problem, clock::Ms};

use crate::model::Token;

/// How long a token holds if nobody says: 90 days.
pub const TTL_DEFAULT_MS: i64 = 90 * DAY_MS;
/// The longest that a token may hold: 365 days.
pub const TTL_MOST_MS: i64 = 365 * DAY_MS;
const DAY_MS: i64 = 86_400_000;

/// Whether a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It is accepted.
    Active,
    /// Its time is over.
    Expired,
    /// It was taken back.
    Revoked,
}

/// What a token is now.
pub fn token_state(expires_ms: Ms, revoked_ms: Option<Ms>, now: Ms) -> TokenState {
    match (revoked_ms, expires_ms <= now) {
        (Some(_), _) => TokenState::Revoked,
        (None, true) => TokenState::Expired,
        (None, false) => TokenState::Active,
    }
}

impl Token {
    /// What it is now.
    pub fn state(&self, now: Ms) -> TokenState {
        token_state(self.expires_ms, self.revoked_ms, now)
    }
}

/// When a token that is made now ends, by how long it holds or by its end; `invalid_argument` for both, and for a life
/// of less than 1 ms or more than 365 days.
pub fn token_end(ttl_ms: Option<i64>, expires_ms: Option<Ms>, now: Ms) -> Result<Ms, Problem> {
    let (field, ttl) = match (ttl_ms, expires_ms) {
        (None, None) => ("ttl_ms", TTL_DEFAULT_MS),
        (Some(ttl), None) => ("ttl_ms", ttl),
        (None, Some(end)) => ("expires_ms, from now,", end.saturating_sub(now)),
        (Some(_), Some(_)) => return Err(Problem::invalid("give ttl_ms or expires_ms, not both")),
    };
    if !(1..=TTL_MOST_MS).contains(&ttl) {
        return Err(Problem::invalid(format!("{field} is {ttl} ms: expected 1 to {TTL_MOST_MS} (365 days)")));
    }
    Ok(now + ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_state() {
        for (expires, revoked, state) in [
            (101, None, TokenState::Active),
            (100, None, TokenState::Expired),
            (99, None, TokenState::Expired),
            (101, Some(50), TokenState::Revoked),
            (99, Some(50), TokenState::Revoked),
        ] {
            assert_eq!(token_state(expires, revoked, 100), state, "{expires} {revoked:?}");
        }
    }

    #[test]
    fn the_life_of_a_token_has_bounds() {
        assert_eq!(token_end(None, None, 5).unwrap(), 5 + TTL_DEFAULT_MS);
        assert_eq!(token_end(Some(1), None, 5).unwrap(), 6);
        assert_eq!(token_end(Some(TTL_MOST_MS), None, 5).unwrap(), 5 + TTL_MOST_MS);
        assert_eq!(token_end(None, Some(6), 5).unwrap(), 6);
        for bad in [0, -1, i64::MIN, TTL_MOST_MS + 1, i64::MAX] {
            assert!(token_end(Some(bad), None, 5).is_err(), "{bad}");
            assert!(token_end(None, Some(bad.saturating_add(5)), 5).is_err(), "until {bad} from now");
        }
        assert!(token_end(Some(1), Some(6), 5).is_err());
    }
}
