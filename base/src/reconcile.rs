//! The driver of reconcile loops: one pass at a time, woken by a signal without data or by time, with back-off.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{Clock, Problem, clock::Ms};

/// What a pass says of the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing is left: wait for a wake-up or the loop's period.
    Done,
    /// Something is left: come again after this time.
    Requeue(Duration),
}

/// Wakes a loop. Many wake-ups before the next pass are one.
#[derive(Clone, Default, Debug)]
pub struct Waker(Arc<Notify>);

impl Waker {
    /// Asks for a pass soon.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// What a loop shows of itself.
#[derive(Debug, Clone, Default, Serialize, utoipa::ToSchema)]
pub struct LoopStatus {
    /// Passes so far.
    pub passes: u64,
    /// When the last pass ended, in milliseconds since 1970.
    pub last_ms: Ms,
    /// Why it ran: `start`, `woken`, `period` or `requeued`; `starting` before its first pass ended.
    pub reason: &'static str,
    /// How the last pass failed; empty if it did not.
    pub error: String,
}

/// The loops of a process, for the health page.
#[derive(Clone, Default, Debug)]
pub struct Loops(Arc<Mutex<BTreeMap<&'static str, LoopStatus>>>);

impl Loops {
    /// Each loop by name.
    pub fn status(&self) -> BTreeMap<&'static str, LoopStatus> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn record(&self, name: &'static str, reason: &'static str, now: Ms, error: String) {
        let mut loops = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let status = loops.entry(name).or_default();
        *status = LoopStatus { passes: status.passes + 1, last_ms: now, reason, error };
    }

    /// Runs `pass` until `stop`: at the start, when woken, when it asked to come again, and every `period`. A failed
    /// pass is tried again after 100 ms, twice as long each time, up to `period`.
    pub async fn run<F, Fut>(
        &self,
        name: &'static str,
        clock: Clock,
        period: Duration,
        waker: Waker,
        stop: CancellationToken,
        mut pass: F,
    ) where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Next, Problem>>,
    {
        // A first pass may take long: it is there to be seen from the beginning.
        let starting = LoopStatus { reason: "starting", last_ms: clock.now(), ..LoopStatus::default() };
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).entry(name).or_insert(starting);
        let mut reason = "start";
        let mut failures = 0_u32;
        loop {
            let result = pass().await;
            let (pause, after) = match &result {
                Ok(Next::Done) => (period, "period"),
                Ok(Next::Requeue(after)) => (*after, "requeued"),
                Err(_) => (Duration::from_millis(100 << failures.min(10)).min(period), "requeued"),
            };
            match &result {
                Ok(_) => failures = 0,
                Err(problem) => {
                    failures += 1;
                    metrics::counter!("yiqiu_loop_failures_total", "loop" => name).increment(1);
                    tracing::warn!(loop_name = name, %problem, failures, "a reconcile pass failed");
                }
            }
            self.record(name, reason, clock.now(), result.err().map_or_else(String::new, |p| p.to_string()));
            reason = tokio::select! {
                () = stop.cancelled() => return,
                () = waker.0.notified(), if failures == 0 => "woken",
                () = tokio::time::sleep(pause) => after,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_is_seen_before_its_first_pass_ended() {
        let (loops, stop) = (Loops::default(), CancellationToken::new());
        let never = || std::future::pending::<Result<Next, Problem>>();
        let run = loops.run("slow", Clock::manual(7), Duration::from_secs(1), Waker::default(), stop, never);
        assert!(tokio::time::timeout(Duration::from_millis(1), run).await.is_err());
        let status = loops.status()["slow"].clone();
        assert_eq!((status.reason, status.passes, status.last_ms), ("starting", 0, 7));
    }
}
