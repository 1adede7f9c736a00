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
    /// `anchor` may have been moved on to where the books are; `wall` is what the wall clock said at first.
    System {
        started: Instant,
        anchor: AtomicI64,
        wall: Ms,
    },
    Manual(AtomicI64),
}

impl Clock {
    /// The clock of a running process.
    pub fn system() -> Self {
        let wall = wall();
        Self(Arc::new(Source::System { started: Instant::now(), anchor: AtomicI64::new(wall), wall }))
    }

    /// A clock that moves only by [`Clock::advance`]: for tests and simulations.
    pub fn manual(now: Ms) -> Self {
        Self(Arc::new(Source::Manual(AtomicI64::new(now))))
    }

    /// Now, in milliseconds since 1970. Never less than any value given before.
    pub fn now(&self) -> Ms {
        match &*self.0 {
            Source::System { started, anchor, wall: _ } => anchor.load(Ordering::SeqCst) + millis(started.elapsed()),
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

    /// What the wall clock said at first and has become by the monotonic one, wherever the books are: credentials are made
    /// and checked by it.
    pub fn unmoved(&self) -> Ms {
        match &*self.0 {
            Source::System { started, anchor: _, wall } => wall + millis(started.elapsed()),
            Source::Manual(now) => now.load(Ordering::SeqCst),
        }
    }

    /// By when something may be taken for due that people fixed by the wall clock, such as the end of a term: the earlier
    /// of the wall clock and of what it was at first and has become by the monotonic one. So a wall clock that jumps
    /// forward ends nothing early, nor do books that are ahead of one that was set back. It may run backwards.
    pub fn due_by(&self) -> Ms {
        match &*self.0 {
            Source::System { .. } => wall().min(self.unmoved()),
            Source::Manual(now) => now.load(Ordering::SeqCst),
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
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis) + jump()
}

/// Tests make the wall clock jump by the milliseconds in a file; there is no such thing in a release build.
#[cfg(debug_assertions)]
fn jump() -> Ms {
    static FILE: std::sync::OnceLock<Option<std::ffi::OsString>> = std::sync::OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("YIQIU_CLOCK_JUMP_FILE"));
    let text = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(not(debug_assertions))]
fn jump() -> Ms {
    0
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
        assert!((now..now + 30_000).contains(&clock.due_by()), "nothing is due before its time by the wall clock");
    }
}
