//! Keeps what is seen true: a driver's own changes, a listing besides, and counters read between usage blocks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, timeout},
};
use yiqiu_proto::{agent::DriverStatus, common};

use crate::{
    driver::{Change, Driver, NodeId, Seen, Status},
    host::Host,
};

/// How long a listing may take before what was seen counts as not verified.
const LIST_WITHIN: Duration = Duration::from_secs(5);

/// What a driver says of itself, for the server.
pub(crate) fn driver_status(driver: &dyn Driver, status: Status) -> DriverStatus {
    let Status { missing, overhead_fixed, overhead_per_node, unbound } = status;
    DriverStatus {
        node_type: common::NodeType::from(driver.node_type()).into(),
        name: driver.name().to_owned(),
        ready: missing.is_empty(),
        missing,
        overhead_fixed: Some(overhead_fixed.into()),
        overhead_per_node: Some(overhead_per_node.into()),
        unbound,
    }
}

impl Host {
    /// Looks at everything there is, then keeps looking until the host stops.
    pub(crate) async fn begin(self: &Arc<Self>) {
        for driver in &self.drivers {
            let changes = driver.changes(); // before the look, so that nothing falls between
            self.look_at_all(&**driver).await;
            self.tasks.spawn(Arc::clone(self).watch(Arc::clone(driver), changes));
        }
        self.tasks.spawn(Arc::clone(self).meter_blocks());
        let known: Vec<NodeId> = self.state().nodes.keys().copied().collect();
        for id in known {
            self.wake(id);
        }
    }

    async fn watch(self: Arc<Self>, driver: Arc<dyn Driver>, mut changes: mpsc::UnboundedReceiver<Change>) {
        let never = Duration::from_secs(86_400);
        let mut poll =
            tokio::time::interval_at(Instant::now() + Duration::from_millis(500), driver.poll_every().unwrap_or(never));
        let mut sample = tokio::time::interval(driver.sample_every().unwrap_or(never));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sample.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (polls, samples) = (driver.poll_every().is_some(), driver.sample_every().is_some());
        let mut open = true;
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                change = changes.recv(), if open => match change {
                    Some(Change::Node(id)) => self.look_at(id, &*driver).await,
                    Some(Change::All) => self.look_at_all(&*driver).await,
                    None => open = false,
                },
                _ = poll.tick(), if polls => self.look_at_all(&*driver).await,
                _ = sample.tick(), if samples => self.read_meters(&*driver).await,
            }
        }
    }

    /// Asks the driver about one node, and wakes it if it changed.
    async fn look_at(self: &Arc<Self>, id: NodeId, driver: &dyn Driver) {
        let Some(turn) = self.with(id, |n| n.turn) else { return self.look_at_stranger(id, driver).await };
        let Ok(seen) = driver.inspect(id).await else { return }; // the listing covers for it
        self.saw(id, turn, seen);
    }

    async fn look_at_stranger(&self, id: NodeId, driver: &dyn Driver) {
        if let Ok(seen) = driver.inspect(id).await
            && self.with(id, |_| ()).is_none()
        {
            self.orphan(id, driver.node_type(), seen);
        }
    }

    async fn look_at_all(self: &Arc<Self>, driver: &dyn Driver) {
        let turns: Vec<(NodeId, u64)> = {
            let state = self.state();
            let mine = state.nodes.iter().filter(|(_, n)| n.node_type() == Some(driver.node_type()));
            mine.map(|(id, n)| (*id, n.turn)).collect()
        };
        let listed = {
            let mut listing = driver.list();
            match timeout(LIST_WITHIN, &mut listing).await {
                Ok(listed) => listed,
                Err(_) => {
                    self.unverified(
                        &turns,
                        &format!("the {} driver has not answered for {LIST_WITHIN:?}", driver.name()),
                    );
                    listing.await
                }
            }
        };
        if let Err(error) = &listed {
            self.unverified(&turns, error.detail()); // at once: a driver that hangs may take long for its status
        }
        self.driver_status(driver_status(driver, driver.status().await));
        let Ok(listed) = listed else { return }; // nothing is known anew
        let mut listed: HashMap<NodeId, Seen> = listed.into_iter().collect();
        for (id, turn) in turns {
            self.saw(id, turn, listed.remove(&id).unwrap_or_default());
        }
        let orphans: HashMap<NodeId, Seen> = {
            let state = self.state();
            let mine = state.orphans.iter().filter(|(_, (t, _))| *t == driver.node_type());
            mine.map(|(id, (_, seen))| (*id, seen.clone())).collect()
        };
        for &id in orphans.keys() {
            listed.entry(id).or_default(); // it may have gone by itself
        }
        for (id, seen) in listed {
            if orphans.get(&id) != Some(&seen) {
                // Asked again: a node that was removed since the listing is no orphan.
                self.look_at_stranger(id, driver).await;
            }
        }
    }

    /// Nothing is known anew of these: what was seen of them is shown as that. Their tasks say so.
    fn unverified(self: &Arc<Self>, nodes: &[(NodeId, u64)], why: &str) {
        for &(id, _) in nodes {
            let changed = self.with(id, |node| {
                let new = node.seen.is_some() && node.unverified.is_empty();
                if new {
                    node.unverified = format!("not verified: {why}");
                }
                new
            });
            if changed == Some(true) {
                self.wake(id);
            }
        }
    }

    /// Takes over what was seen since turn `turn`. Where a task was at the node meanwhile, it is told to look itself.
    fn saw(self: &Arc<Self>, id: NodeId, turn: u64, seen: Seen) {
        let changed = self.with(id, |node| {
            let changed = node.seen.as_ref() != Some(&seen) || !node.unverified.is_empty() || node.unanswered > 0;
            if node.busy || node.turn != turn {
                node.stale |= changed;
                return node.stale;
            }
            node.verified(seen);
            changed
        });
        if changed == Some(true) {
            self.wake(id);
        }
    }

    async fn read_meters(&self, driver: &dyn Driver) {
        let counting: Vec<NodeId> = {
            let state = self.state();
            let mine =
                state.nodes.iter().filter(|(_, n)| n.meter.is_some() && n.node_type() == Some(driver.node_type()));
            mine.map(|(id, _)| *id).collect()
        };
        for id in counting {
            self.read_meter(id, driver).await;
        }
    }

    /// A usage block of all nodes that count, at the server's interval.
    async fn meter_blocks(self: Arc<Self>) {
        let mut usage_ms = self.usage_ms.subscribe();
        loop {
            let interval = Duration::from_millis((*usage_ms.borrow_and_update()).max(100).into());
            tokio::select! {
                () = self.stop.cancelled() => return,
                Ok(()) = usage_ms.changed() => continue, // the server says another interval: it begins anew
                () = tokio::time::sleep(interval) => {}
            }
            for driver in &self.drivers {
                self.read_meters(&**driver).await;
            }
            self.sample_all().await;
        }
    }
}
