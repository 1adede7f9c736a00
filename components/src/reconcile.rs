//! The loops: contracts on their way are carried on, wishes without an answer are asked again, what Resources tells is
//! taken in, and what nobody holds is released.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use yiqiu_base::{
    Code, Environment, Id, Problem,
    id::{Host, RContract},
    outbox,
    reconcile::{Next, Waker},
};
use yiqiu_proto::{common::Event, resources as wire};

use crate::{
    model::{State, Whole},
    pool::{EVENTS_AT_ONCE, Lease, LeaseState},
    service::{Carried, Service},
    store::Change,
    whole::ENDED,
};

/// How many contracts one pass carries on, and how many questions it has open at once.
const AT_ONCE: u32 = 200;
const QUESTIONS: usize = 8;
/// How long events gather after a batch in which there was nothing for this tier.
const GATHER: Duration = Duration::from_millis(200);

/// Why components are gone that nobody here ended.
const VANISHED: &str = "its resources were released below, not by its ccontract";

/// Starts every loop; they end with the environment.
pub(crate) fn spawn(service: &Service, environment: &Environment) {
    let settings = service.settings().clone();
    let run = |name: &'static str, period: Duration, waker: Waker, pass: Pass| {
        let Environment { clock, loops, stop } = environment.clone();
        let service = service.clone();
        tokio::spawn(async move {
            let ending = stop.clone();
            let once = || async {
                // A pass may wait for events for long; nothing is lost when it is dropped, since what it commits it
                // commits whole.
                tokio::select! {
                    next = pass.run(&service) => next,
                    () = ending.cancelled() => Ok(Next::Done),
                }
            };
            loops.run(name, clock, period, waker, stop, once).await;
        });
    };
    run("components.contracts", settings.period, service.waker().clone(), Pass::Contracts);
    run("components.events", settings.period, Waker::default(), Pass::Events);
    run("components.sweeper", settings.sweep_period, Waker::default(), Pass::Sweep);
    run("components.ledger", settings.ledger_period, Waker::default(), Pass::Ledger);
}

#[derive(Clone, Copy)]
enum Pass {
    Contracts,
    Events,
    Sweep,
    Ledger,
}

impl Pass {
    async fn run(self, service: &Service) -> Result<Next, Problem> {
        match self {
            Pass::Contracts => service.contracts_pass().await,
            Pass::Events => service.events_pass().await,
            Pass::Sweep => service.sweep_pass().await,
            Pass::Ledger => service.ledger_pass().await,
        }
    }
}

impl Service {
    /// Carries on what stopped on its way, wherever it stopped.
    async fn contracts_pass(&self) -> Result<Next, Problem> {
        let now = self.now();
        let patience = i64::try_from(self.settings().patience.as_millis()).unwrap_or(i64::MAX);
        let open = self.store().whole_list_open(now.saturating_sub(patience), AT_ONCE).await?;
        let ids: Vec<_> = open.iter().map(|whole| whole.contract.id).collect();
        self.store().contract_touch(&ids, now).await?;
        let full = open.len() == AT_ONCE as usize;
        let mut failed = None;
        for whole in open {
            let problem = match self.carry_on(whole).await {
                Ok(Carried::Settled(_)) => continue,
                Ok(Carried::Later(_, problem)) | Err(problem) => problem,
            };
            // One contract that fails holds up no other; a tier that does not answer holds up all.
            let stop = problem.code == Code::Unavailable;
            failed.get_or_insert(problem);
            if stop {
                break;
            }
        }
        for whole in self.store().whole_list_wishing(AT_ONCE).await? {
            for component in whole.components.iter().filter(|c| c.asked < c.generation) {
                if let Err(problem) = self.ask_power(&whole, component).await {
                    failed.get_or_insert(problem);
                }
            }
        }
        match failed {
            Some(problem) => Err(problem),
            None if full => Ok(Next::Requeue(Duration::ZERO)),
            None => Ok(Next::Done),
        }
    }

    /// Takes in what Resources told since the last time, and commits how far that was with what it led to.
    async fn events_pass(&self) -> Result<Next, Problem> {
        let (cursor, epoch) = self.store().cursor().await?;
        let batch = self.pool().events(cursor, self.settings().events_wait).await?;
        let history = i64::try_from(batch.epoch).map_err(Problem::internal)?;
        if history != epoch || cursor > batch.head {
            // Another history, one that lost its newest part, or the first one: what is read below is compared from
            // its start.
            if epoch != 0 {
                let head = batch.head;
                tracing::warn!(
                    from = epoch,
                    to = history,
                    cursor,
                    head,
                    "Resources has another history; comparing all"
                );
            }
            self.store().epoch_enter(cursor, epoch, history).await?;
            return Ok(Next::Requeue(Duration::ZERO));
        }
        let Some(last) = batch.events.last().map(|event| event.position) else {
            return Ok(Next::Requeue(Duration::ZERO));
        };
        let changes = self.observed(&batch.events).await?;
        // False: someone was first with the cursor or with a contract. Nothing was written; read again.
        let saved = self.store().observed_save(&changes, (cursor, last), self.now()).await?;
        if saved && changes.iter().any(|(_, new)| new.contract.state == State::Releasing) {
            self.waker().wake();
        }
        Ok(Next::Requeue(match saved {
            false => Duration::from_millis(20),
            // Events of others' contracts only, and all there were: they gather for a moment, so that a busy Resources is
            // followed in few passes, each of which is a commit of its own.
            true if changes.is_empty() && batch.events.len() < EVENTS_AT_ONCE as usize => GATHER,
            true => Duration::ZERO,
        }))
    }

    /// What a batch of events makes of the contracts that it is about.
    async fn observed(&self, events: &[Event]) -> Result<Vec<Change>, Problem> {
        let mut changes: HashMap<_, Change> = HashMap::new();
        let (leases, hosts) = subjects(events);
        let ids: Vec<Id<RContract>> = leases.into_iter().collect();
        let wholes = self.store().whole_list_by_rcontract(&ids).await?;
        // Each lease is asked for once a batch, however many of its nodes changed: what it says now is newer than any
        // event so far.
        let seen: Vec<(Whole, Option<Lease>)> = stream::iter(wholes)
            .map(|whole| async move {
                let lease = self.pool().lease_get(whole.contract.rcontract_id).await?;
                Ok::<_, Problem>((whole, lease))
            })
            .buffer_unordered(QUESTIONS)
            .try_collect()
            .await?;
        for (whole, lease) in seen {
            let new = compared(&whole, lease.as_ref());
            changes.insert(whole.contract.id, (whole, new));
        }
        for (host, state) in hosts {
            for whole in self.store().whole_list_by_host(host).await? {
                let (_, new) = changes.entry(whole.contract.id).or_insert_with(|| (whole.clone(), whole));
                *new = new.host_seen(host, &state);
            }
        }
        let mut changes: Vec<Change> = changes.into_values().filter(|(old, new)| old != new).collect();
        changes.sort_by_key(|(old, _)| old.contract.id); // rows are locked in one order everywhere
        Ok(changes)
    }

    /// Releases leases that no contract here holds, and shows components whose lease is gone.
    ///
    /// A lease that is older than this database is never released: that nobody here holds it may say only that the
    /// database is not the one that the tier had before, and then every tenant's components would go. The pass then
    /// fails, so that the loop's status says what an operator has to look at.
    async fn sweep_pass(&self) -> Result<Next, Problem> {
        let young = self.settings().sweep_grace.saturating_sub(self.running());
        if !young.is_zero() {
            return Ok(Next::Requeue(young));
        }
        let began = outbox::epoch(self.store().database()).await?;
        let mut older: Vec<Id<RContract>> = Vec::new();
        let grace = i64::try_from(self.settings().sweep_grace.as_millis()).unwrap_or(i64::MAX);
        let before = self.now().saturating_sub(grace).max(1); // 0 would mean all
        let mut active: HashSet<Id<RContract>> = HashSet::new();
        let mut after = String::new();
        loop {
            let page = self.pool().lease_list(before, &after).await?;
            let Some(last) = page.last() else { break };
            after = last.id.to_string();
            let leases: Vec<&Lease> = page.iter().filter(|lease| lease.state == LeaseState::Active).collect();
            let here: Vec<Id<RContract>> = leases.iter().map(|lease| lease.id).collect();
            // Asked after the page was read: whatever is on it was recorded here before it was made.
            let held = self.store().whole_list_by_rcontract(&here).await?;
            let held: HashSet<Id<RContract>> = held.iter().map(|whole| whole.contract.rcontract_id).collect();
            for lease in leases.into_iter().filter(|lease| !held.contains(&lease.id)) {
                if lease.created_ms < began {
                    older.push(lease.id);
                    continue;
                }
                tracing::warn!(rcontract = %lease.id, "releasing a lease that no ccontract holds");
                metrics::counter!("yiqiu_components_swept_total").increment(1);
                self.pool().lease_release(lease.id).await?;
            }
            active.extend(here);
        }
        self.vanished(before, &active).await?;
        metrics::gauge!("yiqiu_components_unknown_leases").set(u32::try_from(older.len()).unwrap_or(u32::MAX));
        match older.first() {
            None => Ok(Next::Done),
            Some(first) => Err(Problem::new(
                Code::WrongState,
                format!(
                    "{} leases of Resources, such as rcontract {first}, are held by no ccontract and are older than \
                     this database; nothing of them is released. Is this the right database? If it was lost, restore \
                     it; what is truly held by nobody, release by hand",
                    older.len()
                ),
            )),
        }
    }

    async fn vanished(&self, before: i64, active: &HashSet<Id<RContract>>) -> Result<(), Problem> {
        let mut after = None;
        loop {
            let page = self.store().whole_list_placed(after, before, AT_ONCE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.contract.id);
            for whole in page.into_iter().filter(|whole| !active.contains(&whole.contract.rcontract_id)) {
                let lease = self.pool().lease_get(whole.contract.rcontract_id).await?;
                let new = compared(&whole, lease.as_ref());
                if new != whole && !self.store().whole_save(&whole, &new, self.now()).await? {
                    tracing::debug!(ccontract = %whole.contract.id, "changed while it was compared; next time");
                }
            }
        }
    }
}

/// What a contract is, now that Resources says this of its lease.
fn compared(whole: &Whole, lease: Option<&Lease>) -> Whole {
    let gone = lease.is_none_or(|lease| lease.state == LeaseState::Released);
    match (whole.contract.state, lease) {
        // Not asked for yet, or asked for a moment ago: whoever places it takes the answer.
        (State::Placing | State::Released, _) => whole.clone(),
        (State::Placed, _) if gone => whole.let_go(VANISHED),
        (State::Releasing, _) if gone => whole.let_go(ENDED),
        (State::Placed | State::Releasing, Some(lease)) => whole.seen(&lease.nodes),
        (State::Placed | State::Releasing, None) => whole.clone(), // `gone` has it
    }
}

/// Which leases a batch is about, and what it says of hosts: the newest state of each.
fn subjects(events: &[Event]) -> (HashSet<Id<RContract>>, HashMap<Id<Host>, String>) {
    let (mut leases, mut hosts) = (HashSet::new(), HashMap::new());
    for event in events {
        match event.kind.as_str() {
            "node.changed" => {
                let changed = serde_json::from_str::<wire::NodeChanged>(&event.payload_json).unwrap_or_default();
                leases.extend(Id::parse(&changed.rcontract_id).ok());
            }
            "rcontract.releasing" | "rcontract.released" => {
                let changed = serde_json::from_str::<wire::RContractChanged>(&event.payload_json).unwrap_or_default();
                leases.extend(Id::parse(&changed.rcontract_id).ok());
            }
            "host.changed" => {
                let changed = serde_json::from_str::<wire::HostChanged>(&event.payload_json).unwrap_or_default();
                if let Ok(id) = Id::parse(&changed.host_id) {
                    hosts.insert(id, changed.state);
                }
            }
            _ => {} // of no interest here; new kinds come
        }
    }
    (leases, hosts)
}
