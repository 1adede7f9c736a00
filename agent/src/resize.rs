//! Another size for a node that is there: its limits follow its assignment, and the report says when they do.

use std::time::Duration;

use yiqiu_base::{NodeState, Size, size::bytes_shown};
use yiqiu_proto::common;

use crate::{
    driver::{Driver, NodeId, Presence, Reading, Seen},
    host::Host,
    record::Record,
};

/// How long to wait before limits that could not be changed are tried again.
const AGAIN: Duration = Duration::from_secs(2);

impl Record {
    /// The size that its assignment asks for.
    fn size(&self) -> Option<common::Size> {
        self.assignment.as_ref().and_then(|a| a.spec.as_ref()).and_then(|s| s.size)
    }

    /// Whether what is there is bound by another size, or by one that is not known any more.
    fn oversized(&self, presence: Presence) -> bool {
        presence != Presence::Absent && !self.removed() && self.size().is_some() && self.sized != self.size()
    }

    /// The revision whose size binds the node in this state; 0 while that is not so. What is not there is bound by
    /// whatever it will be made with, unless that is going on now.
    pub(crate) fn sized_revision(&self, presence: Presence, state: NodeState) -> i64 {
        let making = matches!(state, NodeState::Preparing | NodeState::Starting);
        if self.oversized(presence) || (making && self.sized != self.size()) { 0 } else { self.revision() }
    }
}

impl Host {
    /// Binds a node by the size of its assignment, if that is not so. `None`: nothing is left to do; else why it could
    /// not be done, and when it is tried again.
    pub(crate) async fn resize(&self, id: NodeId, driver: &dyn Driver, seen: &Seen) -> Option<(String, Duration)> {
        let spec = self.with(id, |n| {
            let record = &n.record;
            record.oversized(seen.presence).then(|| record.assignment.as_ref()?.spec.clone()).flatten()
        });
        let spec = spec.flatten()?;
        let wanted = spec.size?;
        if seen.presence == Presence::Running
            && let Ok(Reading { memory_bytes: Some(used), .. }) = driver.usage(id).await
            && used > wanted.memory_bytes
        {
            // Some kernels would make room by killing what runs.
            let (used, wanted) = (bytes_shown(used), bytes_shown(wanted.memory_bytes));
            return Some((format!("it cannot shrink to {wanted} of memory yet: it uses {used} now"), AGAIN));
        }
        let began = std::time::Instant::now();
        let why = match driver.resize(id, &spec).await {
            // Kept: what is bound is not bound again after each start of the agent.
            Ok(()) => match self.record(id, |record| record.sized = Some(wanted)).await {
                Some(Err(error)) => format!("the agent's journal cannot be written: {error}"),
                Some(Ok(())) | None => {
                    tracing::info!(node = %id, size = %Size::from(wanted), ms = began.elapsed().as_millis(), "resized");
                    return None;
                }
            },
            Err(error) => format!("its size cannot be changed: {error}"),
        };
        tracing::warn!(node = %id, why, "did not work");
        Some((why, AGAIN))
    }
}

#[cfg(test)]
mod tests {
    use yiqiu_proto::agent::Assignment;

    use super::*;

    #[test]
    fn a_size_counts_when_it_binds() {
        let size = |cpu_millicores| Some(common::Size { cpu_millicores, ..common::Size::default() });
        let assigned = |revision, cpu| Assignment {
            revision,
            spec: Some(common::NodeSpec { size: size(cpu), ..common::NodeSpec::default() }),
            ..Assignment::default()
        };
        let mut record = Record::of(assigned(1, 100), 1);
        assert_eq!(record.sized_revision(Presence::Absent, NodeState::Pending), 1, "nothing is there");
        assert_eq!(record.sized_revision(Presence::Absent, NodeState::Preparing), 0, "it is being made");
        assert_eq!(record.sized_revision(Presence::Running, NodeState::Running), 0, "by what is not known");
        record.sized = size(100);
        assert_eq!(record.sized_revision(Presence::Running, NodeState::Running), 1);
        record.assign(assigned(2, 50), 1);
        for (presence, state) in [
            (Presence::Running, NodeState::Running),
            (Presence::Idle, NodeState::Off),
            (Presence::Absent, NodeState::Preparing),
        ] {
            assert_eq!(record.sized_revision(presence, state), 0, "{state}");
        }
        record.sized = size(50);
        assert_eq!(record.sized_revision(Presence::Idle, NodeState::Off), 2);
        record.assign(Assignment { revision: 3, ..assigned(3, 50) }, 1);
        assert_eq!(record.sized_revision(Presence::Running, NodeState::Running), 3, "the same size");
    }
}
