//! Use, counted: readings of a driver become counters that begin at 0 with each boot of a node.

use yiqiu_base::clock::Ms;
use yiqiu_proto::agent::Sample;

use crate::driver::{NodeId, Reading};

/// The counters of one boot, with what the next reading is compared with. Kept in the journal, so that an agent that
/// comes back counts what happened meanwhile.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Meter {
    /// The totals so far, as they are sent.
    #[prost(message, optional, tag = "1")]
    pub sample: Option<Sample>,
    #[prost(int64, optional, tag = "2")]
    cpu: Option<i64>,
    #[prost(int64, optional, tag = "3")]
    memory: Option<i64>,
    #[prost(int64, optional, tag = "4")]
    rx: Option<i64>,
    #[prost(int64, optional, tag = "5")]
    tx: Option<i64>,
    #[prost(int64, optional, tag = "6")]
    read: Option<i64>,
    #[prost(int64, optional, tag = "7")]
    write: Option<i64>,
    /// Whether the boot is over: no reading changes it any more.
    #[prost(bool, tag = "8")]
    pub ended: bool,
}

impl Meter {
    /// A boot that begins now. `baseline` was read just before: what is in it belongs to earlier boots. A counter that
    /// could not be read then begins at 0.
    pub fn begin(node: NodeId, boot: i64, baseline: &Reading, now: Ms) -> Self {
        let Reading { cpu_ns, memory_bytes: _, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes } =
            *baseline;
        Self {
            sample: Some(Sample { node_id: node.to_string(), boot, at_ms: now, ..Sample::default() }),
            cpu: Some(cpu_ns.unwrap_or(0)),
            memory: Some(0),
            rx: Some(net_rx_bytes.unwrap_or(0)),
            tx: Some(net_tx_bytes.unwrap_or(0)),
            read: Some(block_read_bytes.unwrap_or(0)),
            write: Some(block_write_bytes.unwrap_or(0)),
            ended: false,
        }
    }

    /// Adds a reading. Memory is integrated as the mean of both ends over the time between.
    pub fn add(&mut self, reading: &Reading, now: Ms) {
        let Some(total) = self.sample.as_mut().filter(|_| !self.ended) else { return };
        let Reading { cpu_ns, memory_bytes, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes } =
            *reading;
        step(&mut total.cpu_ns, &mut self.cpu, cpu_ns);
        step(&mut total.net_rx_bytes, &mut self.rx, net_rx_bytes);
        step(&mut total.net_tx_bytes, &mut self.tx, net_tx_bytes);
        step(&mut total.block_read_bytes, &mut self.read, block_read_bytes);
        step(&mut total.block_write_bytes, &mut self.write, block_write_bytes);
        let elapsed = i128::from((now - total.at_ms).max(0));
        let before = self.memory.unwrap_or(0);
        let after = memory_bytes.unwrap_or(before);
        // The first reading after a start stands for the time since the start: before it there was no memory to read.
        let mean = if before == 0 { i128::from(after) } else { (i128::from(before) + i128::from(after)) / 2 };
        let area = i64::try_from(mean * elapsed).unwrap_or(i64::MAX);
        // Wraps after days on a large node; the server takes differences, which stay right.
        total.memory_byte_ms = total.memory_byte_ms.wrapping_add(area);
        total.at_ms = total.at_ms.max(now);
        total.memory_bytes = after;
        self.memory = Some(after);
    }

    /// The totals as the next sample of this boot.
    pub fn next_sample(&mut self) -> Option<Sample> {
        let total = self.sample.as_mut()?;
        total.seq += 1;
        Some(total.clone())
    }

    /// The boot that this counts.
    pub fn boot(&self) -> i64 {
        self.sample.as_ref().map_or(0, |s| s.boot)
    }
}

/// Moves a total on by how far a cumulative value went; below the last one, it began anew at 0.
fn step(total: &mut i64, last: &mut Option<i64>, now: Option<i64>) {
    let Some(now) = now else { return };
    let before = last.unwrap_or(0);
    let by = if now >= before { now - before } else { now };
    *total = total.saturating_add(by.max(0));
    *last = Some(now);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_boot_counts_from_its_baseline_and_over_new_origins() {
        let cpu = |ns| Reading { cpu_ns: Some(ns), memory_bytes: Some(100), ..Reading::default() };
        let mut meter = Meter::begin(NodeId::new(), 2, &cpu(500), 1_000);
        meter.add(&cpu(700), 2_000);
        meter.add(&Reading::default(), 3_000); // nothing could be read: nothing is lost or made up
        meter.add(&cpu(50), 4_000); // began anew
        let sample = meter.next_sample().unwrap();
        assert_eq!((sample.boot, sample.seq, sample.cpu_ns), (2, 1, 250));
        assert_eq!(sample.memory_byte_ms, 300_000);
        meter.ended = true;
        meter.add(&cpu(90), 9_000);
        assert_eq!(meter.sample.unwrap().cpu_ns, 250);
    }

    proptest! {
        #[test]
        fn totals_never_fall(readings in proptest::collection::vec((any::<Option<u32>>(), 0..5_000_i64), 0..50)) {
            let mut meter = Meter::begin(NodeId::new(), 1, &Reading::default(), 0);
            let (mut now, mut before) = (0, 0);
            for (value, later) in readings {
                now += later;
                meter.add(&Reading { cpu_ns: value.map(i64::from), ..Reading::default() }, now);
                let cpu = meter.sample.as_ref().unwrap().cpu_ns;
                prop_assert!(cpu >= before);
                before = cpu;
            }
        }
    }
}
