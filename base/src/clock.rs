//! Time that never runs backwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970 in UTC.
pub type Ms = i64;

/// A clock anchored to the wall clock once and moved on by the monotonic one, so that a step of the wall clock moves
/// neither meters nor leases. A later anchor is taken only by [`Clock::not_before`] and by a restart.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    System { started: Instant, anchor: AtomicI64 },
    Manual(AtomicI64),
}

impl Clock {
    /// The clock of a running process.
    pub fn system() -> Self {
        Self(Arc::new(Source::System { started: Instant::now(), anchor: AtomicI64::new(wall()) }))
    }

    /// A clock that moves only by [`Clock::advance`]: for tests and simulations.
    pub fn manual(now: Ms) -> Self {
        Self(Arc::new(Source::Manual(AtomicI64::new(now))))
    }

    /// Now, in milliseconds since 1970. Never less than any value given before.
    pub fn now(&self) -> Ms {
        match &*self.0 {
            Source::System { started, anchor } => anchor.load(Ordering::SeqCst) + millis(started.elapsed()),
            Source::Manual(now) => now.load(Ordering::SeqCst),
        }
    }

    /// Sees to it that the clock shows at least `floor`: called at start with the newest time in the books, so that a
    /// wall clock that was set back never gives an interval below zero.
    pub fn not_before(&self, floor: Ms) {
        match &*self.0 {
            Source::System { anchor, .. } => {
                let behind = floor - self.now();
                if behind > 0 {
                    tracing::warn!(
                        behind_ms = behind,
                        "the wall clock is behind the books; time goes on from the books"
                    );
                    anchor.fetch_add(behind, Ordering::SeqCst);
                }
            }
            Source::Manual(now) => {
                now.fetch_max(floor, Ordering::SeqCst);
            }
        }
    }

    /// How far this clock is ahead of the wall clock, in milliseconds: a step of the wall clock shows here.
    pub fn ahead_of_wall(&self) -> i64 {
        match &*self.0 {
            Source::System { .. } => self.now() - wall(),
            Source::Manual(_) => 0,
        }
    }

    /// Moves a manual clock on; a system clock goes by itself.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &*self.0 {
            now.fetch_add(millis(by), Ordering::SeqCst);
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn wall() -> Ms {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_ahead_of_the_wall_clock_move_the_clock_and_never_back() {
        let clock = Clock::system();
        let now = clock.now();
        clock.not_before(now + 60_000);
        assert!(clock.now() >= now + 60_000);
        assert!(clock.ahead_of_wall() >= 59_000);
        clock.not_before(now - 60_000);
        assert!(clock.now() >= now + 60_000);
    }
}
