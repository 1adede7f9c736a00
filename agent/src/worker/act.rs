//! The actions: each does one thing to a node, keeps that it was done, and shows how far it is.

use std::sync::Arc;

use yiqiu_base::{NodeState, size::bytes_shown};

use super::After;
use crate::{
    driver::{Driver, DriverError, Make, NodeId, Presence, Reading, Seen},
    host::Host,
    journal::Write,
    lifecycle::Action,
    meter::Meter,
    record::Record,
};

impl Host {
    pub(super) async fn act(
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
        let cut = self.with(id, |n| n.begin(action)).unwrap_or_default();
        let work = self.carry_out(id, driver, record, seen, action);
        let result = tokio::select! {
            result = work => Some(result),
            () = cut.cancelled() => None,
        };
        self.with(id, |n| n.underway = None);
        let ms = began.elapsed().as_millis();
        match result {
            None => {
                tracing::info!(node = %id, request_id, generation, ?action, ms, "cut short by a newer wish");
                self.with(id, |n| n.stale = true);
                After::Look
            }
            Some(Ok(())) => {
                tracing::info!(node = %id, request_id, generation, ?action, ms, "done");
                self.with(id, |n| n.attempts = 0);
                if action == Action::Remove { After::Gone } else { After::Look }
            }
            Some(Err(error)) => {
                tracing::warn!(node = %id, request_id, generation, ?action, ms, %error, "did not work");
                self.cannot(id, &**driver, action, &error).await
            }
        }
    }

    async fn carry_out(
        &self,
        id: NodeId,
        driver: &Arc<dyn Driver>,
        record: &Record,
        seen: &Seen,
        action: Action,
    ) -> Result<(), DriverError> {
        match action {
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
            let fetched = |bytes: i64| {
                let detail = format!("its image is on its way: {} so far", bytes_shown(bytes));
                self.show(id, NodeState::Preparing, &detail, &Seen::default());
            };
            self.images.ensure(driver, &spec.image_id, &spec.image_sha256, &fetched).await?;
        }
        let make = Make { node: id, name: assignment.name.clone(), spec: spec.clone() };
        let made = driver.create(&make).await;
        if let Err(DriverError::Failed(_)) = made {
            self.images.forget(&spec.image_sha256); // perhaps someone removed it: look when it is tried again
        }
        if made.is_ok() {
            self.with(id, |n| n.record.sized = spec.size); // if that is lost, it is bound once more
        }
        made
    }

    async fn start(&self, id: NodeId, driver: &dyn Driver, record: &Record, seen: &Seen) -> Result<(), DriverError> {
        let run_before = seen.run.clone();
        self.show(id, NodeState::Starting, "", &Seen::default());
        // A node that never ran has counted nothing; the files of one that did are read in microseconds.
        let baseline =
            if run_before.is_empty() { Reading::default() } else { driver.usage(id).await.unwrap_or_default() };
        let generation = record.generation();
        let written = {
            let mut state = self.state();
            let Some(node) = state.nodes.get_mut(&id) else { return Ok(()) };
            node.record.intend(run_before, &self.boot_id);
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
                    node.record.started(generation, &self.boot_id);
                    self.journal.submit(vec![Write::Node(id, Box::new(node.record.clone()))])
                };
                // Reported at once: were the agent to end before this is on disk, the intent would tell.
                if let Some((state, detail)) = self.with(id, |n| n.record.observe(&seen, &self.boot_id)) {
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
        let grace = record.stop_grace();
        self.show(id, NodeState::Stopping, &format!("asked to end; killed after {grace:?}"), seen);
        self.read_meter(id, driver).await; // what only a live node tells, such as its network counters
        // On disk before: whatever ends it from here on, it ended because it was stopped.
        self.kept(self.record(id, Record::stopping).await)?;
        driver.stop(id, grace).await?;
        let run = seen.run.clone();
        self.see(id, Seen { presence: Presence::Idle, run, ..Seen::default() });
        self.end_meter(id, driver).await;
        self.kept(self.record(id, Record::stopped).await)
    }

    /// A failed node shall be off: whatever of it still lives is ended, so that nothing shown as off runs.
    async fn settle(&self, id: NodeId, driver: &dyn Driver, record: &Record) -> Result<(), DriverError> {
        driver.stop(id, record.stop_grace()).await?;
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
}
