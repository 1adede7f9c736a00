//! Power: a wish recorded here, then asked of Resources under an id of its own, so that asking twice is once.

use yiqiu_base::{Code, NodeState, Power, Principal, Problem, idempotency::Key};

use super::{
    Service, TRIES, busy,
    place::{Verdict, verdict},
};
use crate::{
    model::{ComponentModel, State, Whole},
    whole::command,
};

impl Service {
    /// Wishes a power state for a component. `if_generation` is the generation that the caller has seen:
    /// `stale_generation` if it is not the newest. The wish is recorded when this returns; where Resources could not be
    /// asked, it will be.
    pub async fn power(
        &self,
        who: &Principal,
        name_or_id: &str,
        power: Power,
        if_generation: Option<i64>,
        key: Option<&str>,
    ) -> Result<(Whole, ComponentModel), Problem> {
        for _ in 0..TRIES {
            let (whole, component) = self.component(who, name_or_id).await?;
            let scope = format!("{} {}", who.subject, component.owner);
            let key = key.map(|key| Key::new(&scope, "power", key, &(component.id, power))).transpose()?;
            if let Some(key) = &key
                && let Some(kept) = self.store().kept(key).await?
            {
                kept.replay(key)?;
                return Ok((whole, component));
            }
            may(&whole, &component, power, if_generation)?;
            let wished = whole.wished(component.id, power);
            let kept = key.as_ref().map(|key| (key, (component.generation + 1).to_string()));
            if self.store().whole_save_once(&whole, &wished, kept, self.now()).await? {
                let id = component.id.to_string();
                let (whole, component) = self.component(who, &id).await?;
                match self.ask_power(&whole, &component).await {
                    Ok(()) => {}
                    Err(problem) if verdict(problem.code) == Verdict::AskAgain => self.waker().wake(),
                    Err(problem) => return Err(problem),
                }
                return self.component(who, &id).await;
            }
        }
        Err(busy())
    }

    /// Asks Resources for what a component is wished to be, and records that it answered. An answer that it cannot be
    /// is recorded too, and is not asked for again.
    pub(crate) async fn ask_power(&self, whole: &Whole, component: &ComponentModel) -> Result<(), Problem> {
        let Some(node_id) = component.node_id else { return Ok(()) };
        let answer = self.pool().node_power(node_id, component.power, command(component)).await;
        let refusal = match &answer {
            Ok(()) => None,
            Err(problem) if verdict(problem.code) == Verdict::AskAgain => return answer,
            Err(problem) => Some(problem.detail.as_str()),
        };
        let (id, generation) = (component.id, component.generation);
        let mut whole = whole.clone();
        for _ in 0..TRIES {
            let answered = whole.answered(id, generation, refusal);
            if answered == whole || self.store().whole_save(&whole, &answered, self.now()).await? {
                return answer;
            }
            whole = self.whole(whole.contract.id).await?;
        }
        answer.and(Err(busy()))
    }
}

fn may(whole: &Whole, component: &ComponentModel, power: Power, if_generation: Option<i64>) -> Result<(), Problem> {
    let kind = whole.contract.component_type;
    if !kind.takes(power) {
        let takes: Vec<&str> = Power::ALL.iter().filter(|p| kind.takes(**p)).map(|p| p.as_str()).collect();
        return Err(Problem::invalid(format!(
            "component {} is a {kind}, which cannot be {power}: expected {}",
            component.name,
            takes.join(" or ")
        )));
    }
    if if_generation.is_some_and(|seen| seen != component.generation) {
        return Err(Problem::new(
            Code::StaleGeneration,
            format!("component {} is at generation {}: read it again", component.name, component.generation),
        ));
    }
    let refuse = |why: String| Err(Problem::new(Code::WrongState, why));
    match whole.contract.state {
        State::Placed if component.state == NodeState::Gone => {
            refuse(format!("component {} is gone: {}", component.name, component.detail))
        }
        State::Placed => Ok(()),
        state @ (State::Placing | State::Releasing | State::Released) => {
            refuse(format!("ccontract {} is {state}: power can be changed while it is placed", whole.contract.name))
        }
    }
}
