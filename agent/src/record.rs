//! What the agent keeps of a node, and what follows from it: pure, so that every crash can be decided in a table.

use std::time::Duration;

use yiqiu_base::{NodeState, Power};
use yiqiu_proto::agent::Assignment;

use crate::{
    driver::{Presence, Seen},
    lifecycle::Goal,
};

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
    /// It was settled by a power-off: it had failed, or was never made.
    Settled = 4,
    /// It is being stopped.
    Stopping = 5,
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
    /// The boot of the machine that it happens in.
    #[prost(string, tag = "3")]
    pub boot_id: String,
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
    /// The boot of the machine in which it was started last.
    #[prost(string, tag = "8")]
    pub boot_id: String,
    /// The size that binds what is there; absent: not known.
    #[prost(message, optional, tag = "20")]
    pub sized: Option<yiqiu_proto::common::Size>,
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

    /// What is wished for; a value from a newer server that this agent does not know counts as "as it is".
    pub fn goal(&self) -> Option<Goal> {
        let assignment = self.assignment.as_ref()?;
        Some(match Power::try_from(assignment.power()).ok()? {
            Power::On if assignment.reboot => Goal::Reboot,
            // A stop that was begun is finished first: who was asked to end will end.
            Power::On if self.phase() == Phase::Stopping => Goal::Reboot,
            Power::On => Goal::On,
            Power::Off => Goal::Off,
            Power::Hibernated => Goal::Hibernated,
        })
    }

    /// How long it may take to stop.
    pub fn stop_grace(&self) -> Duration {
        Duration::from_millis(self.assignment.as_ref().map_or(0, |a| a.stop_grace_ms).into())
    }

    /// Notes the start that is about to happen.
    pub fn intend(&mut self, run_before: String, boot_id: &str) {
        self.intent = Some(Intent { generation: self.generation(), run_before, boot_id: boot_id.to_owned() });
    }

    /// The start of `generation` is done: it ran, whatever became of it since.
    pub fn started(&mut self, generation: i64, boot_id: &str) {
        self.intent = None;
        self.carried = self.carried.max(generation);
        self.found_running(boot_id);
    }

    /// It runs, though nobody here started this run: that is a boot as well.
    pub fn found_running(&mut self, boot_id: &str) {
        self.boot += 1;
        boot_id.clone_into(&mut self.boot_id);
        self.detail = String::new();
        self.set_phase(Phase::Started);
    }

    /// It is about to be stopped.
    pub fn stopping(&mut self) {
        self.set_phase(Phase::Stopping);
    }

    /// Whether it ended by itself, and that is not kept yet.
    pub fn has_died(&self, seen: &Seen) -> bool {
        self.intent.is_none() && self.phase() == Phase::Started && seen.presence != Presence::Running
    }

    /// It ended by itself: how is kept.
    pub fn died(&mut self, seen: &Seen, boot_id: &str) {
        self.detail = self.observe(seen, boot_id).1;
        self.set_phase(Phase::Failed);
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
        if self.goal() == Some(Goal::Off) {
            self.carried = self.carried.max(self.generation());
        }
    }

    /// Decides a start that was in the middle when the agent ended, or whose answer was lost: it runs, or ran since and
    /// exited (the generation is carried out then), or never started (it will be). True if there was one to decide.
    pub fn recover(&mut self, seen: &Seen) -> bool {
        let Some(intent) = self.intent.clone() else { return false };
        match seen.presence {
            Presence::Running => self.started(intent.generation, &intent.boot_id),
            Presence::Idle if seen.run != intent.run_before => self.started(intent.generation, &intent.boot_id),
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

    /// The state to show, with its detail, for what a driver sees in this boot of the machine.
    pub fn observe(&self, seen: &Seen, boot_id: &str) -> (NodeState, String) {
        let restarted = !self.boot_id.is_empty() && self.boot_id != boot_id;
        match (seen.presence, self.phase()) {
            (Presence::Running, _) => (NodeState::Running, self.detail.clone()),
            (Presence::Idle, Phase::New | Phase::Stopping | Phase::Stopped | Phase::Settled) => {
                (NodeState::Off, self.detail.clone())
            }
            (Presence::Idle | Presence::Absent, Phase::Started) if restarted => {
                (NodeState::Failed, "the host restarted: power it on to start it again".to_owned())
            }
            (Presence::Idle, Phase::Started) => (NodeState::Failed, format!("it ended by itself: {}", seen.detail)),
            (Presence::Absent, Phase::New | Phase::Stopping | Phase::Stopped) => {
                (NodeState::Pending, self.detail.clone())
            }
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
            record.intend("a".to_owned(), "boot");
            assert!(record.recover(&now));
            assert_eq!((record.carried, record.observe(&now, "boot").0), (carried, state), "{now:?}");
            assert!(!record.recover(&now), "decided once");
        }
    }

    #[test]
    fn a_lost_journal_never_starts_what_the_server_knows_to_be_carried() {
        let known = Assignment { carried: 3, ..on(3, 9) };
        let record = Record::of(known, 1);
        assert!(!record.fresh());
        assert_eq!(record.observe(&seen(Presence::Absent, ""), "boot").0, NodeState::Failed);
        assert_eq!(record.observe(&seen(Presence::Idle, "x"), "boot").0, NodeState::Failed);
    }

    #[test]
    fn how_it_ended_is_told_by_the_boot_it_ended_in_and_then_kept() {
        let ended = Seen { detail: "exited with code 3".to_owned(), ..seen(Presence::Idle, "b") };
        for (now, boot_id, detail) in [
            (&ended, "one", "it ended by itself: exited with code 3"),
            (&ended, "two", "the host restarted: power it on to start it again"),
            (&seen(Presence::Absent, ""), "two", "the host restarted: power it on to start it again"),
        ] {
            let mut record = Record::of(on(1, 1), 1);
            record.started(1, "one");
            assert!(record.has_died(now));
            assert_eq!(record.observe(now, boot_id), (NodeState::Failed, detail.to_owned()));
            record.died(now, boot_id);
            assert!(!record.has_died(now) && !record.fresh());
            let later = seen(Presence::Absent, "");
            assert_eq!(record.observe(&later, "three"), (NodeState::Failed, detail.to_owned()), "it stays so");
        }
    }

    #[test]
    fn a_stop_that_was_begun_is_finished_before_a_start() {
        let mut record = Record::of(on(1, 1), 1);
        record.started(1, "boot");
        record.stopping();
        record.assign(on(2, 2), 1);
        let running = seen(Presence::Running, "a");
        let step = next(record.goal().unwrap(), record.fresh(), record.observe(&running, "boot").0, false);
        assert_eq!(step, Step::Do(Action::Stop));
        record.stopped();
        let idle = seen(Presence::Idle, "a");
        let step = next(record.goal().unwrap(), record.fresh(), record.observe(&idle, "boot").0, false);
        assert_eq!(step, Step::Do(Action::Start));
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
        Reboot,
        Again,     // the same assignment once more
        Die,       // the node ends by itself
        Vanish,    // something else removes it
        Crash(u8), // the agent ends somewhere in the next start or stop, and comes back
        Act,       // the worker goes on until nothing is left
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::PowerOn),
            Just(Event::PowerOff),
            Just(Event::Reboot),
            Just(Event::Again),
            Just(Event::Die),
            Just(Event::Vanish),
            (0..5_u8).prop_map(Event::Crash),
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
                    Event::PowerOn | Event::PowerOff | Event::Reboot => {
                        let mut a = on(record.generation() + 1, record.revision() + 1);
                        a.reboot = matches!(event, Event::Reboot);
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
                    if record.has_died(&host) {
                        record.died(&host, "boot");
                    }
                    let (state, _) = record.observe(&host, "boot");
                    let Step::Do(action) = next(record.goal().unwrap(), record.fresh(), state, record.removed())
                    else { break };
                    match action {
                        Action::Prepare => host.presence = Presence::Idle,
                        Action::Start => {
                            if host.presence == Presence::Absent { host = seen(Presence::Idle, "") }
                            if crash == Some(0) { break }
                            record.intend(host.run.clone(), "boot");
                            if crash == Some(1) { break }
                            runs += 1;
                            host = seen(Presence::Running, &runs.to_string());
                            *starts.entry(record.generation()).or_default() += 1;
                            if crash == Some(2) { break }
                            record.started(record.generation(), "boot");
                        }
                        Action::Stop => {
                            record.stopping();
                            if crash == Some(3) { break }
                            host.presence = Presence::Idle;
                            if crash == Some(4) {
                                prop_assert_ne!(record.observe(&host, "boot").0, NodeState::Failed, "it was stopped");
                                break
                            }
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
