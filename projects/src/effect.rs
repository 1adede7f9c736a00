//! What a batch of another tier's events means for the meter: a pure step between reading and writing.
//!
//! Events of a kind that the meter does not use are passed over. What it uses and cannot understand stops it: the
//! cursor stays before the event, the loop shows why, and nothing is lost once the cause is mended.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use yiqiu_base::{Code, Id, Power, Problem, clock::Ms, id};
use yiqiu_proto::{
    common::Event,
    components::{ComponentBound, ComponentUnbound},
    resources::{SegmentClosed, SegmentOpened, UsageRecorded},
};

use crate::model::{Actual, Binding, LineId, Segment};

/// The effect of a batch, folded: at most one change a segment.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Effects {
    /// By line and start.
    pub(crate) segments: BTreeMap<(LineId, Ms), SegmentChange>,
    /// In the order of the events.
    pub(crate) bindings: Vec<BindingChange>,
    /// In the order of the events; not yet without repetitions.
    pub(crate) samples: Vec<Sample>,
}

/// What happens to one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SegmentChange {
    /// It is new, and may have ended in the same batch.
    Open(Segment),
    /// It was open before this batch, and ended.
    Close(Ms),
}

/// What happens to one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BindingChange {
    Bound(Binding),
    Unbound { line: LineId, component: Id<id::Component>, to_ms: Ms },
}

/// One measured difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) line: LineId,
    pub(crate) boot: i64,
    pub(crate) seq: i64,
    pub(crate) to_ms: Ms,
    pub(crate) actual: Actual,
}

/// Folds the events of a batch.
pub(crate) fn effects(events: &[Event]) -> Result<Effects, Problem> {
    let mut effects = Effects::default();
    for event in events {
        effects.add(event).map_err(|problem| {
            Problem::new(
                Code::WrongState,
                format!(
                    "event {} (`{}` of {}) cannot be metered, and nothing after it will be until that is mended: {}",
                    event.position, event.kind, event.subject, problem.detail
                ),
            )
        })?;
    }
    Ok(effects)
}

impl Effects {
    fn add(&mut self, event: &Event) -> Result<(), Problem> {
        match event.kind.as_str() {
            "segment.opened" => self.open(segment(payload(event)?)?),
            "segment.closed" => {
                let SegmentClosed { line_id, from_ms, to_ms } = payload(event)?;
                self.close((Id::parse(&line_id)?, from_ms), to_ms)
            }
            "usage.recorded" => {
                let UsageRecorded { host_id, deltas } = payload(event)?;
                for delta in deltas {
                    if let Some(sample) = sample(&host_id, delta)? {
                        self.samples.push(sample);
                    }
                }
                Ok(())
            }
            "component.bound" => {
                self.bindings.push(BindingChange::Bound(binding(payload(event)?)?));
                Ok(())
            }
            "component.unbound" => {
                let ComponentUnbound { line_id, component_id, to_ms } = payload(event)?;
                let (line, component) = (Id::parse(&line_id)?, Id::parse(&component_id)?);
                self.bindings.push(BindingChange::Unbound { line, component, to_ms });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, segment: Segment) -> Result<(), Problem> {
        let key = (segment.line, segment.from_ms);
        // Two changes of power within one millisecond: the segment between them has no length, and gives way.
        let gives_way = match self.segments.get(&key) {
            None => true,
            Some(SegmentChange::Open(before)) => before.to_ms == Some(before.from_ms),
            Some(SegmentChange::Close(to_ms)) => *to_ms == segment.from_ms,
        };
        if !gives_way {
            return Err(Problem::invalid(format!(
                "the segment of line {} from {} is opened twice",
                segment.line, segment.from_ms
            )));
        }
        self.segments.insert(key, SegmentChange::Open(segment));
        Ok(())
    }

    fn close(&mut self, key: (LineId, Ms), to_ms: Ms) -> Result<(), Problem> {
        if to_ms < key.1 {
            return Err(Problem::invalid(format!("the segment ends at {to_ms}, before it begins at {}", key.1)));
        }
        let before = match self.segments.get_mut(&key) {
            Some(SegmentChange::Open(segment)) => segment.to_ms.replace(to_ms),
            Some(SegmentChange::Close(before)) => Some(*before),
            None => {
                self.segments.insert(key, SegmentChange::Close(to_ms));
                None
            }
        };
        match before {
            Some(before) if before != to_ms => Err(Problem::invalid(format!(
                "the segment of line {} from {} is closed twice, at {before} and at {to_ms}",
                key.0, key.1
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

fn payload<T: DeserializeOwned>(event: &Event) -> Result<T, Problem> {
    serde_json::from_str(&event.payload_json).map_err(|error| Problem::invalid(format!("its payload: {error}")))
}

fn segment(message: SegmentOpened) -> Result<Segment, Problem> {
    let SegmentOpened { line_id, rcontract_id, owner, node_name, power, size, from_ms } = message;
    Ok(Segment {
        line: Id::parse(&line_id)?,
        rcontract: Id::parse(&rcontract_id)?,
        owner,
        node_name,
        power: Power::parse(&power)?,
        size: size.ok_or_else(|| Problem::invalid("the segment has no size"))?.into(),
        from_ms,
        to_ms: None,
    })
}

fn binding(message: ComponentBound) -> Result<Binding, Problem> {
    let ComponentBound {
        line_id,
        rcontract_id: _, // the segment says so too
        component_id,
        component_name,
        ccontract_id,
        ccontract_name,
        owner,
        from_ms,
    } = message;
    Ok(Binding {
        line: Id::parse(&line_id)?,
        component: Id::parse(&component_id)?,
        component_name,
        ccontract: Id::parse(&ccontract_id)?,
        ccontract_name,
        owner,
        from_ms,
    })
}

/// The most that one sample may say of anything: 2^56 (two years of one processor in nanoseconds). It keeps a machine
/// that counts nonsense from overflowing the sums of everyone else.
pub(crate) const SAMPLE_MOST: i64 = 1 << 56;

/// A delta as a sample; `None` for one that cannot be true, which is told in the log and in a counter but does not stop
/// the meter of everyone else.
fn sample(host: &str, delta: yiqiu_proto::resources::UsageDelta) -> Result<Option<Sample>, Problem> {
    let yiqiu_proto::resources::UsageDelta {
        line_id,
        owner: _, // the segment says so too
        boot,
        seq,
        from_ms: _, // a sample counts where it ends
        to_ms,
        cpu_ns,
        memory_byte_ms,
        net_rx_bytes,
        net_tx_bytes,
        block_read_bytes,
        block_write_bytes,
    } = delta;
    let counters = [cpu_ns, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes];
    let possible = counters.iter().all(|n| (0..=SAMPLE_MOST).contains(n)) && memory_byte_ms >= 0 && to_ms >= 0;
    if !possible {
        metrics::counter!("yiqiu_metering_refused_samples_total").increment(1);
        tracing::error!(host, line_id, boot, seq, "a usage sample cannot be true, and is not counted");
        return Ok(None);
    }
    let actual = Actual {
        cpu_ns: cpu_ns.into(),
        memory_byte_ms: memory_byte_ms.into(),
        net_rx_bytes: net_rx_bytes.into(),
        net_tx_bytes: net_tx_bytes.into(),
        block_read_bytes: block_read_bytes.into(),
        block_write_bytes: block_write_bytes.into(),
    };
    Ok(Some(Sample { line: Id::parse(&line_id)?, boot, seq, to_ms, actual }))
}

/// The width of a bucket of usage, in milliseconds: a minute.
pub(crate) const BUCKET_MS: i64 = 60_000;

/// The newest sequence number that was counted, by line and boot.
pub(crate) type Marks = BTreeMap<(LineId, i64), i64>;

/// What samples add to the buckets of their lines, by line and the bucket's first millisecond.
pub(crate) type Buckets = BTreeMap<(LineId, Ms), Actual>;

/// Counts each sample once: `marks` says what was counted before, and is moved on. A whole sample goes to the bucket
/// that its end lies in.
pub(crate) fn buckets(samples: &[Sample], marks: &mut Marks) -> Buckets {
    let mut buckets = Buckets::new();
    for Sample { line, boot, seq, to_ms, actual } in samples {
        let mark = marks.entry((*line, *boot)).or_insert(i64::MIN);
        if *seq <= *mark {
            continue; // sent again
        }
        *mark = *seq;
        *buckets.entry((*line, to_ms - to_ms.rem_euclid(BUCKET_MS))).or_default() += *actual;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use yiqiu_base::Size;

    use super::*;

    fn event(kind: &str, payload: &impl serde::Serialize) -> Event {
        Event { kind: kind.into(), payload_json: serde_json::to_string(payload).unwrap(), ..Event::default() }
    }

    fn opened(line: LineId, power: Power, from_ms: Ms) -> Event {
        let size = Some(Size { cpu_millicores: 5, memory_bytes: 7, ..Size::ZERO }.into());
        let message = SegmentOpened {
            line_id: line.to_string(),
            rcontract_id: Id::<id::RContract>::new().to_string(),
            owner: "tier:components".into(),
            node_name: "n".into(),
            power: power.as_str().into(),
            size,
            from_ms,
        };
        event("segment.opened", &message)
    }

    fn closed(line: LineId, from_ms: Ms, to_ms: Ms) -> Event {
        event("segment.closed", &SegmentClosed { line_id: line.to_string(), from_ms, to_ms })
    }

    #[test]
    fn segments_fold_in_order() {
        let line = LineId::new();
        let events = [
            opened(line, Power::Off, 10),
            closed(line, 10, 20),
            opened(line, Power::On, 20),
            closed(line, 20, 20), // no length
            opened(line, Power::Off, 20),
            closed(line, 5, 10),
        ];
        let folded = effects(&events).unwrap().segments;
        let shape: Vec<_> = folded
            .iter()
            .map(|((_, from), change)| match change {
                SegmentChange::Open(s) => (*from, Some(s.power), s.to_ms),
                SegmentChange::Close(to) => (*from, None, Some(*to)),
            })
            .collect();
        assert_eq!(shape, [(5, None, Some(10)), (10, Some(Power::Off), Some(20)), (20, Some(Power::Off), None)]);
    }

    #[test]
    fn what_cannot_be_stops_and_says_where() {
        let line = LineId::new();
        let good = opened(line, Power::On, 10);
        for (what, events) in [
            ("opened twice", vec![good.clone(), good.clone()]),
            ("closed before it begins", vec![good.clone(), closed(line, 10, 9)]),
            ("closed twice", vec![good.clone(), closed(line, 10, 11), closed(line, 10, 12)]),
            ("not JSON", vec![Event { payload_json: "{".into(), ..good.clone() }]),
            ("no size", vec![event("segment.opened", &SegmentOpened::default())]),
            ("no id", vec![event("component.bound", &ComponentBound::default())]),
        ] {
            let events: Vec<_> = events.into_iter().map(|e| Event { position: 42, ..e }).collect();
            let problem = effects(&events).unwrap_err();
            assert!(problem.detail.contains("42"), "{what}: {problem}");
        }
        assert_eq!(effects(&[event("node.changed", &7)]).unwrap(), Effects::default());
    }

    #[test]
    fn samples_count_once_and_where_they_end() {
        let line = LineId::new();
        let sample = |boot, seq, to_ms, cpu_ns| Sample {
            line,
            boot,
            seq,
            to_ms,
            actual: Actual { cpu_ns, ..Actual::default() },
        };
        let mut marks = Marks::from([((line, 1), 4)]);
        let samples = [
            sample(1, 4, 1_000, 1), // counted before
            sample(1, 5, 59_999, 10),
            sample(1, 6, 60_000, 100),
            sample(1, 6, 60_000, 100), // sent again
            sample(2, 1, 60_001, 1_000),
        ];
        let sums: Vec<_> = buckets(&samples, &mut marks).into_iter().map(|((_, m), a)| (m, a.cpu_ns)).collect();
        assert_eq!(sums, [(0, 10), (60_000, 1_100)]);
        assert_eq!(marks, Marks::from([((line, 1), 6), ((line, 2), 1)]));
        assert!(buckets(&samples, &mut marks).is_empty());
    }

    #[test]
    fn a_sample_that_cannot_be_true_is_left_out_alone() {
        let delta = |cpu_ns| yiqiu_proto::resources::UsageDelta {
            line_id: LineId::new().to_string(),
            cpu_ns,
            ..Default::default()
        };
        let deltas = vec![delta(-1), delta(7), delta(i64::MAX)];
        let events = [event("usage.recorded", &UsageRecorded { host_id: "h".into(), deltas })];
        assert_eq!(effects(&events).unwrap().samples.iter().map(|s| s.actual.cpu_ns).collect::<Vec<_>>(), [7]);
    }
}
