//! Placing: asking Resources for what was planned, and planning anew when others were faster.

use yiqiu_base::{Code, Problem};

use super::{Carried, Service, busy};
use crate::{
    model::{State, Whole},
    pool::LeaseState,
    scheduler::{self, Wish},
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

impl Service {
    /// Hosts for a wish as things stand now; `no_placement` with the explanation as data.
    pub(super) async fn chosen(&self, wish: &Wish) -> Result<Vec<Chosen>, Problem> {
        let hosts = self.pool().hosts().await?;
        let (wish, listed) = (wish.clone(), self.settings().listed);
        // Tens of thousands of hosts take tens of milliseconds: not on a thread that others wait for.
        let planned = tokio::task::spawn_blocking(move || {
            let chosen = scheduler::plan(&wish, &hosts, listed)?;
            Ok(chosen
                .into_iter()
                .map(|host| Chosen { id: host.id, name: host.name.clone(), state: host.state.clone() })
                .collect())
        });
        planned.await.map_err(Problem::internal)?.map_err(|explanation: Box<scheduler::Explanation>| {
            Problem::new(Code::NoPlacement, explanation.sentence.clone()).with_data(explanation)
        })
    }

    /// Asks Resources for the RContract of a contract that is being placed, until it is had or cannot be.
    pub(super) async fn place(&self, mut whole: Whole) -> Result<Carried, Problem> {
        let mut attempts = 0;
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
                        attempts += 1;
                        match self.plan_again(&whole, problem, attempts).await {
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

    /// What becomes of a contract whose plan was out of date. An error where Resources cannot be asked.
    async fn plan_again(&self, whole: &Whole, problem: Problem, attempts: u32) -> Result<Whole, Problem> {
        if attempts >= self.settings().attempts {
            return Ok(whole.refused(problem));
        }
        tracing::info!(ccontract = %whole.contract.id, %problem, attempts, "a placement was lost; planning anew");
        let contract = &whole.contract;
        let wish = Wish {
            count: contract.count,
            size: contract.need.size,
            node_type: contract.component_type.node_type(),
            min_clock_mhz: contract.need.min_clock_mhz,
            region: contract.region.clone(),
            zone: contract.zone.clone(),
            spread: contract.spread,
            held: std::collections::HashMap::new(),
        };
        let planned = match self.pool().image(&contract.image_id, &contract.owner).await {
            Ok(_) => self.chosen(&wish).await,
            Err(problem) => Err(problem),
        };
        match planned {
            Ok(chosen) => Ok(whole.replanned(chosen)),
            Err(problem) if verdict(problem.code) == Verdict::AskAgain => Err(problem),
            Err(problem) => Ok(whole.refused(problem)),
        }
    }

    /// Releases a lease that was made for a contract which no longer wants it. The sweeper does what fails here.
    async fn drop_unwanted(&self, id: &yiqiu_base::Id<yiqiu_base::id::RContract>, whole: &Whole) {
        let wanted = whole.contract.rcontract_id == *id && whole.contract.state != State::Released;
        if !wanted && let Err(problem) = self.pool().lease_release(*id).await {
            tracing::warn!(rcontract = %id, %problem, "a lease that nobody wants is left to the sweeper");
        }
    }
}
