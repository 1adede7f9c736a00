//! What the agent keeps of a node, and what follows from it: pure, so that every crash can be decided in a table.

use yiqiu_base::{NodeState, Power};
use yiqiu_proto::agent::Assignment;

use crate::driver::{Presence, Seen};

/// What was last done with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Phase {
    /// Nothing yet.
    New = 0,
    /// It was started.
    Started = 1,
    /// It was stopped.
    Stopped = 2,
    /// It could not be made or started; the detail says why.
    Failed = 3,
    /// A failure was settled by a power-off.
    Settled = 4,
}

/// A start that was about to happen. Written before, so that a crash in the middle can be told from one before.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Intent {
    /// The generation that this start carries out.
    #[prost(int64, tag = "1")]
    pub generation: i64,
    /// The run mark before the start.
    #[prost(string, tag = "2")]
    pub run_before: String,
}

/// The journal's record of one node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// The newest assignment obeyed.
    #[prost(message, optional, tag = "1")]
    pub assignment: Option<Assignment>,
    /// The server epoch it came under.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The newest power generation carried out, or tried.
    #[prost(int64, tag = "3")]
    pub carried: i64,
    /// A start in the middle.
    #[prost(message, optional, tag = "4")]
    pub intent: Option<Intent>,
    /// What was last done.
    #[prost(enumeration = "Phase", tag = "5")]
    pub phase: i32,
    /// Why it failed, or what could not be done.
    #[prost(string, tag = "6")]
    pub detail: String,
    /// Starts of this node so far.
    #[prost(int64, tag = "7")]
    pub boot: i64,
}

impl Record {
    /// The record that a first assignment starts. Where the server knows of a power-on that this journal does not (it
    /// was lost), the node counts as started: it is then running, or it died.
    pub fn of(assignment: Assignment, epoch: u64) -> Self {
        let started =
            assignment.carried >= assignment.generation && assignment.power() == yiqiu_proto::common::Power::On;
        let phase = if started && assignment.carried > 0 { Phase::Started } else { Phase::New };
        let (carried, boot) = (assignment.carried, assignment.boot);
        let mut record = Self { assignment: Some(assignment), epoch, carried, boot, ..Self::default() };
        record.set_phase(phase);
        record
    }

    /// Whether an assignment under `epoch` is newer than the one kept.
    pub fn is_older_than(&self, epoch: u64, revision: i64) -> bool {
        (self.epoch, self.revision()) < (epoch, revision)
    }

    /// Takes over a newer assignment.
    pub fn assign(&mut self, assignment: Assignment, epoch: u64) {
        self.carried = self.carried.max(assignment.carried);
        self.boot = self.boot.max(assignment.boot);
        self.epoch = epoch;
        self.assignment = Some(assignment);
    }

    /// The revision of the assignment.
    pub fn revision(&self) -> i64 {
        self.assignment.as_ref().map_or(0, |a| a.revision)
    }

    /// The generation wished for.
    pub fn generation(&self) -> i64 {
        self.assignment.as_ref().map_or(0, |a| a.generation)
    }

    /// The image that it is made from; empty without one.
    pub fn image_sha256(&self) -> &str {
        self.assignment.as_ref().and_then(|a| a.spec.as_ref()).map_or("", |s| &s.image_sha256)
    }

    /// Whether the power wish is not carried out yet.
    pub fn fresh(&self) -> bool {
        self.generation() > self.carried
    }

    /// Whether a tombstone came.
    pub fn removed(&self) -> bool {
        self.assignment.as_ref().is_some_and(|a| a.removed)
    }

    /// The power wished for; a value from a newer server that this agent does not know counts as "as it is".
    pub fn desired(&self) -> Option<Power> {
        self.assignment.as_ref().and_then(|a| Power::try_from(a.power()).ok())
    }

    /// Notes the start that is about to happen.
    pub fn intend(&mut self, run_before: String) {
        self.intent = Some(Intent { generation: self.generation(), run_before });
    }

    /// The start of `generation` is done: it ran, whatever became of it since.
    pub fn started(&mut self, generation: i64) {
        self.intent = None;
        self.carried = self.carried.max(generation);
        self.boot += 1;
        self.detail = String::new();
        self.set_phase(Phase::Started);
    }

    /// It was stopped.
    pub fn stopped(&mut self) {
        self.detail = String::new();
        self.set_phase(Phase::Stopped);
        self.carry_off();
    }

    /// Making or starting it failed for good: its generation was tried.
    pub fn failed(&mut self, detail: impl Into<String>) {
        self.intent = None;
        self.carried = self.carried.max(self.generation());
        self.detail = detail.into();
        self.set_phase(Phase::Failed);
    }

    /// A failed node shall be off. Why it had failed stays readable.
    pub fn settled(&mut self) {
        self.set_phase(Phase::Settled);
        self.carry_off();
    }

    /// The generation needs nothing done; `detail` says why if that is not plain.
    pub fn carry(&mut self, detail: impl Into<String>) {
        self.carried = self.carried.max(self.generation());
        self.detail = detail.into();
    }

    fn carry_off(&mut self) {
        if self.desired() == Some(Power::Off) {
            self.carried = self.carried.max(self.generation());
        }
    }

    /// Decides a start that was in the middle when the agent ended, or whose answer was lost: it runs, or ran since and
    /// exited (the generation is carried out then), or never started (it will be). True if there was one to decide.
    pub fn recover(&mut self, seen: &Seen) -> bool {
        let Some(intent) = self.intent.clone() else { return false };
        match seen.presence {
            Presence::Running => self.started(intent.generation),
            Presence::Idle if seen.run != intent.run_before => self.started(intent.generation),
            Presence::Idle => self.intent = None,
            // It was made before the intent was written, so something else removed it since, and with it the only sign
            // of whether it ran. At most once is the promise.
            Presence::Absent => {
                self.intent = None;
                self.carried = self.carried.max(intent.generation);
                self.detail = "it vanished from the host while it was being started, so whether it ran is unknown; \
                               power it on again to start it"
                    .to_owned();
                self.set_phase(Phase::Failed);
            }
        }
        true
    }

    /// The state to show, with its detail, for what a driver sees.
    pub fn observe(&self, seen: &Seen) -> (NodeState, String) {
        match (seen.presence, self.phase()) {
            (Presence::Running, _) => (NodeState::Running, self.detail.clone()),
            (Presence::Idle, Phase::New | Phase::Stopped | Phase::Settled) => (NodeState::Off, self.detail.clone()),
            (Presence::Idle, Phase::Started) => (NodeState::Failed, format!("it ended by itself: {}", seen.detail)),
            (Presence::Absent, Phase::New | Phase::Stopped) => (NodeState::Pending, self.detail.clone()),
            (Presence::Absent, Phase::Settled) => (NodeState::Off, self.detail.clone()),
            (Presence::Absent, Phase::Started) => (
                NodeState::Failed,
                "nothing of it is left on the host: something else removed it; power it on to make it anew".to_owned(),
            ),
            (Presence::Idle | Presence::Absent, Phase::Failed) => (NodeState::Failed, self.detail.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use yiqiu_proto::common;

    use super::*;
    use crate::lifecycle::{Action, Step, next};

    fn seen(presence: Presence, run: &str) -> Seen {
        Seen { presence, run: run.to_owned(), ..Seen::default() }
    }

    fn on(generation: i64, revision: i64) -> Assignment {
        let mut a = Assignment { generation, revision, ..Assignment::default() };
        a.set_power(common::Power::On);
        a
    }

    #[test]
    fn a_start_in_the_middle_is_decided_by_what_is_there() {
        for (now, carried, state) in [
            (seen(Presence::Running, "b"), 3, NodeState::Running),
            (seen(Presence::Running, "a"), 3, NodeState::Running),
            (seen(Presence::Idle, "b"), 3, NodeState::Failed),
            (seen(Presence::Idle, "a"), 2, NodeState::Off),
            (seen(Presence::Absent, ""), 3, NodeState::Failed),
        ] {
            let mut record = Record { carried: 2, ..Record::of(on(3, 1), 1) };
            record.intend("a".to_owned());
            assert!(record.recover(&now));
            assert_eq!((record.carried, record.observe(&now).0), (carried, state), "{now:?}");
            assert!(!record.recover(&now), "decided once");
        }
    }

    #[test]
    fn a_lost_journal_never_starts_what_the_server_knows_to_be_carried() {
        let known = Assignment { carried: 3, ..on(3, 9) };
        let record = Record::of(known, 1);
        assert!(!record.fresh());
        assert_eq!(record.observe(&seen(Presence::Absent, "")).0, NodeState::Failed);
        assert_eq!(record.observe(&seen(Presence::Idle, "x")).0, NodeState::Failed);
    }

    #[test]
    fn newer_is_by_epoch_then_revision() {
        let record = Record { epoch: 2, ..Record::of(on(1, 5), 2) };
        assert!(record.is_older_than(2, 6) && record.is_older_than(3, 1));
        assert!(!record.is_older_than(2, 5) && !record.is_older_than(1, 9));
    }

    #[derive(Debug, Clone)]
    enum Event {
        PowerOn,
        PowerOff,
        Again,     // the same assignment once more
        Die,       // the node ends by itself
        Vanish,    // something else removes it
        Crash(u8), // the agent ends before, in the middle of, or after the next start, and comes back
        Act,       // the worker goes on until nothing is left
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::PowerOn),
            Just(Event::PowerOff),
            Just(Event::Again),
            Just(Event::Die),
            Just(Event::Vanish),
            (0..3_u8).prop_map(Event::Crash),
            Just(Event::Act),
        ]
    }

    proptest! {
        #[test]
        fn one_generation_starts_a_node_at_most_once(events in proptest::collection::vec(event(), 1..60)) {
            let mut record = Record::of(on(1, 1), 1);
            let mut host = Seen::default();
            let mut starts = std::collections::BTreeMap::<i64, u32>::new();
            let mut runs = 0;
            for event in events {
                let mut crash = None;
                match event {
                    Event::PowerOn | Event::PowerOff => {
                        let mut a = on(record.generation() + 1, record.revision() + 1);
                        if matches!(event, Event::PowerOff) {
                            a.set_power(common::Power::Off);
                        }
                        record.assign(a, 1);
                    }
                    Event::Again => {
                        let a = Assignment { revision: record.revision() + 1, ..record.assignment.clone().unwrap() };
                        record.assign(a, 1);
                    }
                    Event::Die => if host.presence == Presence::Running { host.presence = Presence::Idle },
                    Event::Vanish => host = Seen::default(),
                    Event::Crash(when) => crash = Some(when),
                    Event::Act => {}
                }
                for _ in 0..20 {
                    record.recover(&host);
                    let Step::Do(action) =
                        next(record.desired().unwrap(), record.fresh(), record.observe(&host).0, record.removed())
                    else { break };
                    match action {
                        Action::Prepare => host.presence = Presence::Idle,
                        Action::Start => {
                            if host.presence == Presence::Absent { host = seen(Presence::Idle, "") }
                            if crash == Some(0) { break }
                            record.intend(host.run.clone());
                            if crash == Some(1) { break }
                            runs += 1;
                            host = seen(Presence::Running, &runs.to_string());
                            *starts.entry(record.generation()).or_default() += 1;
                            if crash == Some(2) { break }
                            record.started(record.generation());
                        }
                        Action::Stop => {
                            host.presence = Presence::Idle;
                            record.stopped();
                        }
                        Action::Remove => host = Seen::default(),
                        Action::Carry | Action::Refuse => record.carry(""),
                        Action::Settle => record.settled(),
                    }
                }
            }
            for (generation, n) in starts {
                prop_assert!(n <= 1, "generation {generation} started {n} times");
            }
        }
    }
}
