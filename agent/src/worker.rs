//! Brings one node from what is seen to what is wished: observe, decide, one action, report. The same above every driver.
//!
//! A task lives only while there is something to do for its node, so that thousands of quiet nodes cost their records.

use std::{sync::Arc, time::Duration};

use yiqiu_base::{NodeState, Power};

use crate::{
    driver::{Driver, DriverError, Make, NodeId, Presence, Reading, Seen},
    host::Host,
    journal::Write,
    lifecycle::{Action, Step, next},
    meter::Meter,
    record::Record,
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
        let (node_type, known, stale) = self.with(id, |node| {
            node.turn += 1;
            node.again = false;
            (node.node_type(), node.seen.clone(), std::mem::take(&mut node.stale))
        })?;
        let Some(driver) = node_type.and_then(|t| self.driver(t)).cloned() else {
            return self.without_driver(id).await;
        };
        let seen = match known.filter(|_| !stale) {
            Some(seen) => seen,
            None => match driver.inspect(id).await {
                Ok(seen) => self.see(id, seen),
                Err(error) => return Some(self.cannot_see(id, &error).await),
            },
        };
        self.settle_run(id, &*driver, &seen).await;
        let (record, (state, detail)) = self.with(id, |n| (n.record.clone(), n.record.observe(&seen)))?;
        let step = match record.desired() {
            Some(desired) => next(desired, record.fresh(), state, record.removed()),
            None if record.removed() => next(Power::Off, false, state, true),
            None => Step::Done, // a power state of a newer server: what is there stays as it is
        };
        match step {
            Step::Done => {
                self.show(id, state, &detail, &seen);
                None
            }
            Step::Wait => {
                self.show(id, state, &detail, &seen);
                self.with(id, |n| n.stale = true);
                Some(After::Later(Duration::from_secs(1)))
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
                record.boot += 1;
                boot = record.boot;
            });
            if let Some(Ok(())) = taken.await {
                self.with(id, |n| n.begin_meter(Meter::begin(id, boot, &baseline, self.clock.now())));
            }
        } else if seen.presence != Presence::Running && metering && self.with(id, |n| n.meter.is_some()) == Some(true) {
            self.end_meter(id, driver).await;
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
        let (state, detail) = self.with(id, |n| n.record.observe(&nothing))?;
        self.show(id, state, &detail, &nothing);
        None
    }

    fn why_no_driver(&self, id: NodeId) -> String {
        let state = self.state();
        let node_type = state.nodes.get(&id).and_then(|n| n.record.assignment.as_ref()).map_or(0, |a| a.node_type);
        let missing = state.facts.drivers.iter().find(|d| d.node_type == node_type).map(|d| d.missing.clone());
        missing.unwrap_or_else(|| "this agent offers no nodes of that type: start it with that node type".to_owned())
    }

    async fn act(
        self: &Arc<Self>,
        id: NodeId,
        driver: &Arc<dyn Driver>,
        record: &Record,
        seen: &Seen,
        action: Action,
    ) -> After {
        let request_id = record.assignment.as_ref().map_or("", |a| &*a.request_id);
        let generation = record.generation();
        let began = std::time::Instant::now();
        tracing::debug!(node = %id, request_id, generation, ?action, "begins");
        metrics::counter!("yiqiu_agent_actions_total", "driver" => driver.name()).increment(1);
        let result = match action {
            Action::Prepare => self.prepare(id, &**driver, record).await,
            Action::Start => self.start(id, &**driver, record, seen).await,
            Action::Stop => self.stop_node(id, &**driver, record, seen).await,
            Action::Remove => self.remove(id, &**driver, seen).await,
            Action::Carry => self.kept(self.record(id, |r| r.carry("")).await),
            Action::Settle => self.settle(id, &**driver, record).await,
            Action::Refuse => {
                let detail = format!("the {} driver cannot hibernate: the node stays as it is", driver.name());
                self.kept(self.record(id, |r| r.carry(detail)).await)
            }
        };
        let ms = began.elapsed().as_millis();
        match result {
            Ok(()) => {
                tracing::info!(node = %id, request_id, generation, ?action, ms, "done");
                self.with(id, |n| n.attempts = 0);
                if action == Action::Remove { After::Gone } else { After::Look }
            }
            Err(error) => {
                tracing::warn!(node = %id, request_id, generation, ?action, ms, %error, "did not work");
                self.cannot(id, &**driver, action, &error).await
            }
        }
    }

    /// Turns a journal's answer into an action's.
    #[allow(clippy::unused_self)]
    fn kept(&self, written: Option<Result<(), String>>) -> Result<(), DriverError> {
        match written {
            Some(Err(error)) => Err(DriverError::Failed(format!("the agent's journal cannot be written: {error}"))),
            Some(Ok(())) | None => Ok(()),
        }
    }

    async fn prepare(&self, id: NodeId, driver: &dyn Driver, record: &Record) -> Result<(), DriverError> {
        self.show(id, NodeState::Preparing, "", &Seen::default());
        self.make(id, driver, record).await?;
        self.see(id, Seen { presence: Presence::Idle, ..Seen::default() });
        Ok(())
    }

    async fn make(&self, id: NodeId, driver: &dyn Driver, record: &Record) -> Result<(), DriverError> {
        let Some(assignment) = &record.assignment else { return Ok(()) };
        let Some(spec) = &assignment.spec else {
            return Err(DriverError::Refused("the assignment says nothing about what to run".to_owned()));
        };
        if !spec.image_sha256.is_empty() {
            self.images.ensure(driver, &spec.image_id, &spec.image_sha256).await?;
        }
        let make = Make { node: id, name: assignment.name.clone(), spec: spec.clone() };
        let made = driver.create(&make).await;
        if let Err(DriverError::Failed(_)) = made {
            self.images.forget(&spec.image_sha256); // perhaps someone removed it: look when it is tried again
        }
        made
    }

    async fn start(&self, id: NodeId, driver: &dyn Driver, record: &Record, seen: &Seen) -> Result<(), DriverError> {
        let mut run_before = seen.run.clone();
        if seen.presence == Presence::Absent {
            self.prepare(id, driver, record).await?;
            run_before = String::new();
        }
        self.show(id, NodeState::Starting, "", &Seen::default());
        // A node that never ran has counted nothing; the files of one that did are read in microseconds.
        let baseline =
            if run_before.is_empty() { Reading::default() } else { driver.usage(id).await.unwrap_or_default() };
        let generation = record.generation();
        let written = {
            let mut state = self.state();
            let Some(node) = state.nodes.get_mut(&id) else { return Ok(()) };
            node.record.intend(run_before);
            if let Some(intent) = &mut node.record.intent {
                intent.generation = generation; // an assignment that came since is the next turn's
            }
            let meter = Meter::begin(id, node.record.boot + 1, &baseline, self.clock.now());
            node.begin_meter(meter.clone());
            self.journal.submit(vec![Write::Node(id, Box::new(node.record.clone())), Write::Meter(id, Box::new(meter))])
        };
        if let Err(error) = self.kept(Some(written.done().await)) {
            self.with(id, |n| n.record.intent = None);
            self.drop_meter(id);
            return Err(error);
        }
        match driver.start(id).await {
            Ok(seen) => {
                self.see(id, seen.clone());
                let written = {
                    let mut state = self.state();
                    let Some(node) = state.nodes.get_mut(&id) else { return Ok(()) };
                    node.record.started(generation);
                    self.journal.submit(vec![Write::Node(id, Box::new(node.record.clone()))])
                };
                // Reported at once: were the agent to end before this is on disk, the intent would tell.
                if let Some((state, detail)) = self.with(id, |n| n.record.observe(&seen)) {
                    self.show(id, state, &detail, &seen);
                }
                self.kept(Some(written.done().await))
            }
            Err(error) => {
                // Whether it ran is decided by what is there now.
                self.with(id, |n| n.stale = true);
                Err(error)
            }
        }
    }

    async fn stop_node(
        &self,
        id: NodeId,
        driver: &dyn Driver,
        record: &Record,
        seen: &Seen,
    ) -> Result<(), DriverError> {
        self.show(id, NodeState::Stopping, "", seen);
        self.read_meter(id, driver).await; // what only a live node tells, such as its network counters
        let grace = record.assignment.as_ref().map_or(0, |a| a.stop_grace_ms);
        driver.stop(id, Duration::from_millis(grace.into())).await?;
        let run = seen.run.clone();
        self.see(id, Seen { presence: Presence::Idle, run, ..Seen::default() });
        self.end_meter(id, driver).await;
        self.kept(self.record(id, Record::stopped).await)
    }

    /// A failed node shall be off: whatever of it still lives is ended, so that nothing shown as off runs.
    async fn settle(&self, id: NodeId, driver: &dyn Driver, record: &Record) -> Result<(), DriverError> {
        let grace = record.assignment.as_ref().map_or(0, |a| a.stop_grace_ms);
        driver.stop(id, Duration::from_millis(grace.into())).await?;
        self.kept(self.record(id, Record::settled).await)
    }

    async fn remove(&self, id: NodeId, driver: &dyn Driver, seen: &Seen) -> Result<(), DriverError> {
        self.show(id, NodeState::Removing, "", seen);
        driver.remove(id).await?;
        self.show(id, NodeState::Gone, "", &Seen::default());
        let sha256 = self.with(id, |n| n.record.image_sha256().to_owned()).unwrap_or_default();
        self.forget(id).await;
        let needed = || self.state().nodes.values().any(|n| n.record.image_sha256() == sha256);
        if !sha256.is_empty() && !needed() {
            match self.images.remove(driver, &sha256, needed).await {
                Ok(()) => tracing::info!(sha256, "the image is not needed any more"),
                Err(error) => tracing::warn!(sha256, %error, "an image that no node needs stays"),
            }
        }
        Ok(())
    }

    /// The driver does not say what there is. A wish waits for that: it is neither carried out nor given up on what was
    /// seen before.
    async fn cannot_see(&self, id: NodeId, error: &DriverError) -> After {
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
                if let Some((state, detail)) = self.with(id, |n| n.record.observe(&seen)) {
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
    async fn cannot(&self, id: NodeId, driver: &dyn Driver, action: Action, error: &DriverError) -> After {
        let Some(attempts) = self.with(id, |n| {
            n.attempts += 1;
            // Whether it is the driver that is away, the next look tells.
            n.stale |= matches!(error, DriverError::Unavailable(_));
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
