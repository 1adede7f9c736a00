//! Brings one node from what is seen to what is wished: observe, decide, one action, report. The same above every driver.
//!
//! A task lives only while there is something to do for its node, so that thousands of quiet nodes cost their records.

mod act;
mod fail;

use std::{sync::Arc, time::Duration};

use yiqiu_base::NodeState;

use crate::{
    driver::{Driver, NodeId, Presence, Seen},
    host::Host,
    journal::Write,
    lifecycle::{Action, Goal, Step, next},
    meter::Meter,
};

/// How often preparing or starting is tried before the node is shown as failed.
const ATTEMPTS: u32 = 8;
/// The same while what it needs, such as the server that has its image, does not answer: about a minute.
const ATTEMPTS_UNAVAILABLE: u32 = 12;
const PAUSE_LEAST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(10);

/// The pause after the `n`th attempt in a row that failed.
fn pause(n: u32) -> Duration {
    (PAUSE_LEAST * 2_u32.saturating_pow(n.min(16))).min(PAUSE_MOST)
}

/// What comes after an action.
enum After {
    /// Look again.
    Look,
    /// Look again after this time, or when something happens.
    Later(Duration),
    /// It is gone and forgotten.
    Gone,
}

impl Host {
    /// Has a node looked at: by the task that works on it already, or by a new one.
    pub(crate) fn wake(self: &Arc<Self>, id: NodeId) {
        let idle = self.with(id, |node| {
            if node.busy {
                node.again = true;
            }
            !std::mem::replace(&mut node.busy, true)
        });
        if idle == Some(true) && !self.stop.is_cancelled() {
            let host = Arc::clone(self);
            self.tasks.spawn(async move { host.work(id).await });
        }
    }

    async fn work(self: Arc<Self>, id: NodeId) {
        loop {
            match self.turn(id).await {
                Some(After::Look) => {}
                Some(After::Gone) => return,
                Some(After::Later(pause)) => {
                    if !self.rest(id) {
                        continue;
                    }
                    let host = Arc::clone(&self);
                    self.tasks.spawn(async move {
                        tokio::select! {
                            () = tokio::time::sleep(pause) => host.wake(id),
                            () = host.stop.cancelled() => {}
                        }
                    });
                    return;
                }
                None => {
                    if self.rest(id) {
                        return;
                    }
                }
            }
            if self.stop.is_cancelled() {
                return;
            }
        }
    }

    /// Ends the task's hold of a node; false (and the hold stays) if something happened meanwhile.
    fn rest(&self, id: NodeId) -> bool {
        self.with(id, |node| {
            let rest = !std::mem::take(&mut node.again);
            node.busy = !rest;
            rest
        })
        .unwrap_or(true)
    }

    /// One look and at most one action. `None`: nothing to do.
    async fn turn(self: &Arc<Self>, id: NodeId) -> Option<After> {
        let (node_type, known, stale, named) = self.with(id, |node| {
            node.turn += 1;
            node.again = false;
            (node.node_type(), node.seen.clone(), std::mem::take(&mut node.stale), node.named)
        })?;
        let Some(driver) = node_type.and_then(|t| self.driver(t)).cloned() else {
            return if named { self.without_driver(id).await } else { None };
        };
        let seen = match known.filter(|_| !stale) {
            Some(seen) => seen,
            None => match driver.inspect(id).await {
                Ok(seen) => self.see(id, seen),
                Err(error) => return Some(self.cannot_see(id, &error).await),
            },
        };
        if !named {
            return None; // what there is of it is told with the next stream
        }
        self.settle_run(id, &*driver, &seen).await;
        let (record, (state, detail)) =
            self.with(id, |n| (n.record.clone(), n.record.observe(&seen, &self.boot_id)))?;
        let step = match record.goal() {
            Some(goal) => next(goal, record.fresh(), state, record.removed()),
            None if record.removed() => next(Goal::Off, false, state, true),
            None => Step::Done, // a power state of a newer server: what is there stays as it is
        };
        match step {
            Step::Done => {
                let (detail, again) = match self.resize(id, &*driver, &seen).await {
                    Some((why, again)) => (why, Some(After::Later(again))),
                    None => (detail, None),
                };
                self.show(id, state, &detail, &seen);
                again
            }
            Step::Wait => {
                self.show(id, state, &detail, &seen);
                self.with(id, |n| n.stale = true);
                Some(After::Later(Duration::from_secs(1)))
            }
            // What was lost from the host is made anew before it is started.
            Step::Do(Action::Start) if seen.presence == Presence::Absent => {
                Some(self.act(id, &driver, &record, &seen, Action::Prepare).await)
            }
            Step::Do(action) => Some(self.act(id, &driver, &record, &seen, action).await),
        }
    }

    /// Keeps what a driver saw.
    fn see(&self, id: NodeId, seen: Seen) -> Seen {
        self.with(id, |n| n.verified(seen.clone()));
        seen
    }

    /// Before a decision: decides a start in the middle, and lets the meter follow what is seen.
    async fn settle_run(&self, id: NodeId, driver: &dyn Driver, seen: &Seen) {
        let Some((in_the_middle, metering)) = self.with(id, |n| (n.record.intent.is_some(), n.meter.is_some())) else {
            return;
        };
        if in_the_middle {
            let boot = self.with(id, |n| n.record.boot);
            let _ = self
                .record(id, |record| {
                    record.recover(seen);
                })
                .await;
            if self.with(id, |n| n.record.boot) == boot {
                self.drop_meter(id); // it never ran
            }
        }
        if seen.presence == Presence::Running && self.with(id, |n| n.meter.is_none()) == Some(true) {
            // Something else started it, or the journal that counted it was lost: a boot of its own from here on.
            let baseline = driver.usage(id).await.unwrap_or_default();
            // The boot is taken on disk before anything is counted under it, so that it is never taken twice.
            let mut boot = 0;
            let taken = self.record(id, |record| {
                record.found_running(&self.boot_id);
                boot = record.boot;
            });
            if let Some(Ok(())) = taken.await {
                self.with(id, |n| n.begin_meter(Meter::begin(id, boot, &baseline, self.clock.now())));
            }
        } else if seen.presence != Presence::Running && metering && self.with(id, |n| n.meter.is_some()) == Some(true) {
            self.end_meter(id, driver).await;
        }
        // How it ended is kept: it reads so until someone starts it, also when the host restarts meanwhile.
        if self.with(id, |n| n.record.has_died(seen)) == Some(true) {
            let _ = self.record(id, |record| record.died(seen, &self.boot_id)).await; // else it is told by what is there
        }
    }

    fn drop_meter(&self, id: NodeId) {
        if let Some(meter) = self.with(id, |n| n.meter.take()).flatten() {
            drop(self.journal.submit(vec![Write::MeterDone(id, meter.boot())]));
        }
    }

    /// A node of a type for which this host has no driver: it fails, and its tombstone finds nothing.
    async fn without_driver(self: &Arc<Self>, id: NodeId) -> Option<After> {
        let nothing = Seen::default();
        let (removed, fresh) = self.with(id, |n| (n.record.removed(), n.record.fresh()))?;
        if removed {
            self.show(id, NodeState::Gone, "", &nothing);
            self.forget(id).await;
            return Some(After::Gone);
        }
        if fresh {
            let why = self.why_no_driver(id);
            let _ = self.record(id, |r| r.failed(why)).await;
        }
        let (state, detail) = self.with(id, |n| n.record.observe(&nothing, &self.boot_id))?;
        self.show(id, state, &detail, &nothing);
        None
    }

    fn why_no_driver(&self, id: NodeId) -> String {
        let state = self.state();
        let node_type = state.nodes.get(&id).and_then(|n| n.record.assignment.as_ref()).map_or(0, |a| a.node_type);
        let missing = state.facts.drivers.iter().find(|d| d.node_type == node_type).map(|d| d.missing.clone());
        missing.unwrap_or_else(|| "this agent offers no nodes of that type: start it with that node type".to_owned())
    }
}
