//! Placing: asking Resources for what was planned, and planning anew when others were faster.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use yiqiu_base::{
    Code, Id, Problem,
    id::{CContract, Host},
};

use super::{Carried, Service, busy};
use crate::{
    model::{State, Whole},
    pool::LeaseState,
    scheduler::{self, Hints, Wish},
    whole::Chosen,
};

/// What a refusal by Resources says about a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: it may have been carried out or not. Ask the same again.
    AskAgain,
    /// The plan is out of date: make another.
    PlanAgain,
    /// It cannot be had.
    Refuse,
}

pub(super) fn verdict(code: Code) -> Verdict {
    match code {
        Code::Unavailable | Code::RateLimited | Code::Internal | Code::Unauthenticated => Verdict::AskAgain,
        // A host that filled up, went away or was cut anew since it was looked at; an image that was deleted, which
        // making another plan finds out.
        Code::HostFull
        | Code::WrongState
        | Code::NotFound
        | Code::NodeTypeMismatch
        | Code::DriverMissing
        | Code::InUse
        | Code::AlreadyExists
        | Code::StaleGeneration
        | Code::NoPlacement => Verdict::PlanAgain,
        Code::InvalidArgument
        | Code::MalformedBody
        | Code::BodyTooLarge
        | Code::PermissionDenied
        | Code::IdempotencyKeyReused
        | Code::JoinTokenInvalid
        | Code::ChecksumMismatch => Verdict::Refuse,
    }
}

/// How a placement went so far.
#[derive(Default)]
struct Races {
    /// How often Resources refused what was planned.
    lost: u32,
    /// The hosts that refused.
    hosts: HashSet<Id<Host>>,
    /// Time is up: what refused once is not asked again.
    last: bool,
}

impl Races {
    /// How long to wait before the next plan: the first is made at once, the others give way to whoever is first.
    fn pause(&self) -> Duration {
        Duration::from_millis(u64::from(self.lost.saturating_sub(1)) * 5).min(Duration::from_millis(100))
    }
}

impl Service {
    /// Hosts for a wish as things stand now; `no_placement` with the explanation as data. Others plan around them as
    /// long as the contract is in flight.
    pub(super) async fn chosen(&self, contract: Id<CContract>, wish: &Wish) -> Result<Vec<Chosen>, Problem> {
        let hosts = self.pool().hosts().await?;
        self.chosen_of(contract, wish, hosts, HashSet::new()).await
    }

    async fn chosen_of(
        &self,
        contract: Id<CContract>,
        wish: &Wish,
        hosts: Vec<scheduler::Host>,
        refused: HashSet<Id<Host>>,
    ) -> Result<Vec<Chosen>, Problem> {
        let (wish, listed, flights) = (wish.clone(), self.settings().listed, self.flights().clone());
        // Tens of thousands of hosts take tens of milliseconds: not on a thread that others wait for.
        let planned = tokio::task::spawn_blocking(move || {
            let mut open = flights.lock();
            let hints = Hints { seed: contract.uuid().as_u128(), claimed: open.beside(contract), refused };
            let Some(chosen) = scheduler::choose(&wish, &hosts, &hints) else {
                drop(open);
                return Err(scheduler::explain(&wish, &hosts, listed));
            };
            open.set(contract, chosen.iter().map(|host| (host.id, wish.size.plus(host.overhead_per_node))).collect());
            let chosen = chosen.into_iter();
            Ok(chosen.map(|host| Chosen { id: host.id, name: host.name.clone(), state: host.state.clone() }).collect())
        });
        planned
            .await
            .map_err(Problem::internal)?
            .map_err(|explanation| Problem::new(Code::NoPlacement, explanation.sentence.clone()).with_data(explanation))
    }

    /// Asks Resources for the RContract of a contract that is being placed, until it is had or cannot be.
    pub(super) async fn place(&self, mut whole: Whole) -> Result<Carried, Problem> {
        let _flight = self.flights().enter(whole.contract.id);
        let deadline = Instant::now() + self.settings().racing;
        let mut races = Races::default();
        let mut lost = 0;
        while whole.contract.state == State::Placing {
            let asked = self.pool().lease_create(&whole).await;
            let next = match asked {
                Ok(lease) if lease.state == LeaseState::Active => {
                    let held = whole.held(&lease.nodes);
                    if self.store().whole_save(&whole, &held, self.now()).await? {
                        return Ok(Carried::Settled(self.whole(whole.contract.id).await?));
                    }
                    whole = self.whole(whole.contract.id).await?;
                    self.drop_unwanted(&lease.id, &whole).await;
                    lost += 1;
                    None
                }
                Ok(_) => Some(whole.let_go("its resources were released before it was placed")),
                Err(problem) => match verdict(problem.code) {
                    Verdict::AskAgain => return Ok(Carried::Later(whole, problem)),
                    Verdict::Refuse => Some(whole.refused(problem)),
                    Verdict::PlanAgain => {
                        races.lost += 1;
                        races.hosts.extend(refusing(&whole, &problem));
                        match self.plan_again(&whole, problem, &mut races, deadline).await {
                            Ok(next) => Some(next),
                            Err(problem) => return Ok(Carried::Later(whole, problem)),
                        }
                    }
                },
            };
            if let Some(next) = next {
                lost += usize::from(!self.store().whole_save(&whole, &next, self.now()).await?);
                whole = self.whole(whole.contract.id).await?;
            }
            if lost >= super::TRIES {
                return Ok(Carried::Later(whole, busy()));
            }
        }
        Ok(Carried::Settled(whole))
    }

    /// What becomes of a contract whose plan was out of date: another plan on what is free now, which goes to hosts
    /// that refused only where no others are as good. When time is up it goes elsewhere once more, or the contract is
    /// refused. An error where Resources cannot be asked.
    async fn plan_again(
        &self,
        whole: &Whole,
        problem: Problem,
        races: &mut Races,
        deadline: Instant,
    ) -> Result<Whole, Problem> {
        tracing::info!(ccontract = %whole.contract.id, %problem, lost = races.lost, "a placement was lost; planning anew");
        tokio::time::sleep(races.pause()).await;
        let contract = &whole.contract;
        let wish = contract.wish();
        let planned = match self.pool().image(&contract.image_id, &contract.owner).await {
            Ok(_) => self.elsewhere(contract.id, &wish, &problem, races, deadline).await,
            Err(problem) => Err(problem),
        };
        match planned {
            Ok(chosen) => Ok(whole.replanned(chosen)),
            Err(problem) if verdict(problem.code) == Verdict::AskAgain => Err(problem),
            Err(problem) => Ok(whole.refused(problem)),
        }
    }

    async fn elsewhere(
        &self,
        contract: Id<CContract>,
        wish: &Wish,
        problem: &Problem,
        races: &mut Races,
        deadline: Instant,
    ) -> Result<Vec<Chosen>, Problem> {
        let mut hosts = self.pool().hosts().await?;
        if Instant::now() >= deadline {
            // After the last plan, every host counts as one that refuses: the explanation has to say why none is left.
            let refuses = |host: &scheduler::Host| races.last || races.hosts.contains(&host.id);
            let why = format!(
                "was asked {} times while others were faster or it refused, at last: {}",
                races.lost, problem.detail
            );
            for host in hosts.iter_mut().filter(|host| host.refuses.is_empty() && refuses(host)) {
                host.refuses.clone_from(&why);
            }
            races.last = true;
        }
        self.chosen_of(contract, wish, hosts, races.hosts.clone()).await
    }

    /// Releases a lease that was made for a contract which no longer wants it. The sweeper does what fails here.
    async fn drop_unwanted(&self, id: &Id<yiqiu_base::id::RContract>, whole: &Whole) {
        let wanted = whole.contract.rcontract_id == *id && whole.contract.state != State::Released;
        if !wanted && let Err(problem) = self.pool().lease_release(*id).await {
            tracing::warn!(rcontract = %id, %problem, "a lease that nobody wants is left to the sweeper");
        }
    }
}

/// The hosts that a refusal is about: the one that it names, or all that were asked.
fn refusing(whole: &Whole, problem: &Problem) -> Vec<Id<Host>> {
    let named = problem.data.as_ref().and_then(|data| Id::parse(data.get("host")?.get("id")?.as_str()?).ok());
    named.map_or_else(|| whole.components.iter().map(|component| component.host_id).collect(), |id| vec![id])
}
