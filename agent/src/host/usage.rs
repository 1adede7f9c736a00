//! What nodes used: samples on their way to the server, kept until it has them.

use yiqiu_proto::agent::UsageBlock;

use super::Host;
use crate::{
    driver::{Driver, NodeId},
    journal::Write,
};

impl Host {
    /// The usage block to send now: the one that waits for its acknowledgement again if `resend`, else a new one if
    /// none waits.
    pub(crate) fn usage_block(&self, resend: bool) -> Option<UsageBlock> {
        let mut state = self.state();
        if let Some(block) = &state.in_flight {
            return resend.then(|| block.clone());
        }
        if state.pending.is_empty() {
            return None;
        }
        let block = UsageBlock { id: state.next_block, samples: state.pending.values().cloned().collect() };
        state.next_block += 1;
        state.in_flight = Some(block.clone());
        Some(block)
    }

    /// The server has a block: what was in it and did not change since need not be sent again.
    pub(crate) fn usage_acknowledged(&self, block_id: i64) {
        let mut state = self.state();
        let Some(block) = state.in_flight.take_if(|b| b.id == block_id) else { return };
        let mut done = Vec::new();
        for sample in block.samples {
            let Ok(id) = NodeId::parse(&sample.node_id) else { continue };
            let key = (id, sample.boot);
            if state.pending.get(&key).is_some_and(|p| p.seq <= sample.seq) {
                state.pending.remove(&key);
                let counting = state.nodes.get(&id).and_then(|n| n.meter.as_ref()).is_some_and(|m| m.boot() == key.1);
                if !counting {
                    done.push(Write::MeterDone(id, key.1));
                }
            }
        }
        if !done.is_empty() {
            drop(self.journal.submit(done));
        }
        if !state.pending.is_empty() {
            self.outgoing.notify_one();
        }
    }

    /// Puts a sample of each node that counts into the next block, and keeps the meters.
    pub(crate) async fn sample_all(&self) {
        let written = {
            let mut state = self.state();
            let state = &mut *state;
            let mut writes = Vec::new();
            for (id, node) in &mut state.nodes {
                // Until a start is decided its boot may be another attempt's: it has no samples yet.
                if node.record.intent.is_none()
                    && let Some(meter) = &mut node.meter
                    && let Some(sample) = meter.next_sample()
                {
                    state.pending.insert((*id, sample.boot), sample);
                    writes.push(Write::Meter(*id, Box::new(meter.clone())));
                }
            }
            if writes.is_empty() {
                return;
            }
            self.journal.submit(writes)
        };
        // Before they are sent, so that no sequence number is ever used twice.
        if let Err(error) = written.done().await {
            tracing::error!(error, "usage cannot be kept");
        }
        self.outgoing.notify_one();
    }

    /// Reads a node's counters and adds them to its meter. A reading that another one overtook is taken again.
    pub(crate) async fn read_meter(&self, id: NodeId, driver: &dyn Driver) {
        loop {
            let Some(before) = self.with(id, |n| n.meter.as_ref().map(|_| n.readings)).flatten() else { return };
            let reading = match driver.usage(id).await {
                Ok(reading) => reading,
                Err(error) => {
                    tracing::debug!(node = %id, %error, "counters cannot be read now");
                    return;
                }
            };
            let now = self.clock.now();
            let added = self.with(id, |n| {
                let current = n.readings == before;
                if current && let Some(meter) = &mut n.meter {
                    meter.add(&reading, now);
                    n.readings += 1;
                }
                current
            });
            if added != Some(false) {
                return;
            }
        }
    }

    /// A boot is over: its last counters become a sample that is kept until the server has it.
    pub(crate) async fn end_meter(&self, id: NodeId, driver: &dyn Driver) {
        self.read_meter(id, driver).await;
        let written = {
            let mut state = self.state();
            let state = &mut *state;
            let Some(mut meter) = state.nodes.get_mut(&id).and_then(|n| n.meter.take()) else { return };
            meter.ended = true;
            let Some(sample) = meter.next_sample() else { return };
            state.pending.insert((id, sample.boot), sample);
            self.journal.submit(vec![Write::Meter(id, Box::new(meter))])
        };
        if let Err(error) = written.done().await {
            tracing::error!(node = %id, error, "the last usage of a boot cannot be kept");
        }
        self.outgoing.notify_one();
    }
}
