//! The ledger of Components beside that of Resources: each placed component has its line, of its size, on its host, and
//! each line that Components owns is held by a component. What differs is told, never repaired.

use std::collections::{BTreeMap, BTreeSet};

use yiqiu_base::{
    Id, Principal, Problem, Size,
    id::{Host, Line, RContract},
    ledger::{Comparison, Difference, Look},
    reconcile::Next,
};

use crate::{
    model::{CContractModel, ComponentModel, State},
    service::Service,
};

/// The owner label of what Components leases.
pub(crate) const OWN: &str = "tier:components";

/// A line of ours, as Resources holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeldLine {
    pub(crate) id: Id<Line>,
    pub(crate) rcontract_id: Id<RContract>,
    pub(crate) name: String,
    pub(crate) host_id: Id<Host>,
    /// Its node is being taken away.
    pub(crate) ending: bool,
    pub(crate) size: Size,
}

/// A component with its contract.
pub(crate) type Bound = (CContractModel, ComponentModel);

/// Where they differ: all lines and all components within the same range of line ids. What is on its way, here or
/// there, is not judged.
pub(crate) fn differences(lines: &[HeldLine], bound: &[Bound]) -> BTreeSet<Difference> {
    let mut unheld: BTreeMap<Id<Line>, &HeldLine> = lines.iter().map(|line| (line.id, line)).collect();
    let mut differences = BTreeSet::new();
    for (contract, component) in bound {
        let line = unheld.remove(&component.line_id);
        let placed = match contract.state {
            State::Placed => true,
            State::Placing | State::Releasing | State::Released => false,
        };
        if !placed {
            continue;
        }
        let name = &component.name;
        let told = match line {
            None => Some(format!("component {name} is placed, and Resources holds no line of it")),
            Some(line) if line.rcontract_id != contract.rcontract_id => {
                Some(format!("the line of component {name} is of another rcontract, {}", line.rcontract_id))
            }
            Some(line) if line.host_id != component.host_id => {
                Some(format!("component {name} is placed on host {}, and its line on another", component.host_name))
            }
            Some(line) if line.size != contract.need.size => {
                Some(format!("component {name} needs {}, and its line holds {}", contract.need.size, line.size))
            }
            Some(_) => None,
        };
        differences.extend(told.map(|detail| Difference {
            line_id: component.line_id,
            rcontract_id: Some(contract.rcontract_id),
            owner: component.owner.clone(),
            name: name.clone(),
            detail,
        }));
    }
    differences.extend(unheld.into_values().filter(|line| !line.ending).map(|line| Difference {
        line_id: line.id,
        rcontract_id: Some(line.rcontract_id),
        owner: OWN.to_owned(),
        name: line.name.clone(),
        detail: format!("Resources holds line {} for Components, and no ccontract holds it", line.name),
    }));
    differences
}

impl Service {
    /// What the newest comparison of this ledger with that of Resources said.
    pub fn ledger_last(&self, who: &Principal) -> Result<Comparison, Problem> {
        who.require_ops()?;
        Ok(self.ledger().last())
    }

    /// Compares this ledger with that of Resources now.
    pub async fn ledger_compare(&self, who: &Principal) -> Result<Comparison, Problem> {
        who.require_ops()?;
        Ok(self.compared().await)
    }

    /// What the newest comparison said of some lines; for tiers.
    pub fn ledger_of_lines(&self, who: &Principal, lines: &[Id<Line>]) -> Result<Comparison, Problem> {
        who.require_service()?;
        let mut last = self.ledger().last();
        last.findings.retain(|finding| lines.contains(&finding.difference.line_id));
        Ok(last)
    }

    /// Which line belongs to which component, in the order of lines; for tiers.
    pub async fn binding_list(
        &self,
        who: &Principal,
        after: Option<Id<Line>>,
        limit: u32,
    ) -> Result<Vec<Bound>, Problem> {
        who.require_service()?;
        self.store().bound_list(after, None, limit.clamp(1, 1000)).await
    }

    pub(crate) async fn ledger_pass(&self) -> Result<Next, Problem> {
        let settings = self.settings();
        let known = self.compared().await.unknown.is_empty();
        // That Resources does not answer is shown by the loops that need it: here it only means to look again.
        Ok(Next::Requeue(if known { settings.ledger_period } else { settings.ledger_period.min(AGAIN) }))
    }

    async fn compared(&self) -> Comparison {
        self.ledger().compare(|| self.now(), || self.look()).await
    }

    /// Both ledgers, a range of lines at a time.
    async fn look(&self) -> Result<Look, Problem> {
        let (mut look, mut after) = (Look::default(), None);
        loop {
            let lines = self.pool().line_list(after).await?;
            let last = lines.last().map(|line| line.id);
            // Read after Resources was asked: whatever it holds was recorded here before.
            let bound = self.bound_within(after, last).await?;
            look.compared += i64::try_from(lines.len()).unwrap_or(i64::MAX);
            look.differences.extend(differences(&lines, &bound));
            if last.is_none() {
                return Ok(look);
            }
            after = last;
        }
    }

    async fn bound_within(&self, after: Option<Id<Line>>, last: Option<Id<Line>>) -> Result<Vec<Bound>, Problem> {
        let (mut all, mut after) = (Vec::new(), after);
        loop {
            let page = self.store().bound_list(after, last, 1000).await?;
            let Some((_, component)) = page.last() else { return Ok(all) };
            after = Some(component.line_id);
            all.extend(page);
        }
    }
}

/// When to look again after Resources did not answer.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ComponentType, Need, Spread, Whole},
        whole::Chosen,
    };

    type Change = fn(&mut Vec<HeldLine>);

    fn whole(state: State) -> Whole {
        let need = Need {
            size: Size { cpu_millicores: 100, ..Size::ZERO },
            image: String::new(),
            command: Vec::new(),
            environment: Vec::new(),
            ports: Vec::new(),
            min_clock_mhz: None,
        };
        let contract = CContractModel {
            id: Id::new(),
            owner: "project:p".into(),
            name: "web".into(),
            component_type: ComponentType::Container,
            count: 1,
            need,
            region: None,
            zone: None,
            spread: Spread::default(),
            state,
            generation: 1,
            created_ms: 0,
            created_by: String::new(),
            rcontract_id: Id::new(),
            image_id: String::new(),
            detail: String::new(),
            refusal: None,
        };
        Whole::recorded(contract, vec![Chosen { id: Id::new(), name: "h".into(), state: "online".into() }])
    }

    #[test]
    fn what_differs_between_two_that_rest_is_told_once() {
        let cases: [(&str, Change, &str); 7] = [
            ("all is well", |_| {}, ""),
            ("no line", Vec::clear, "holds no line of it"),
            ("another contract", |lines| lines[0].rcontract_id = Id::new(), "of another rcontract"),
            ("another host", |lines| lines[0].host_id = Id::new(), "placed on host h, and its line on another"),
            ("another size", |lines| lines[0].size.cpu_millicores = 7, "needs 0.1 cpu, and its line holds 0.007 cpu"),
            ("a line too many", |lines| lines.push(HeldLine { id: Id::new(), ..lines[0].clone() }), "no ccontract"),
            ("one that ends", |l| l.push(HeldLine { id: Id::new(), ending: true, ..l[0].clone() }), ""),
        ];
        for (what, change, told) in cases {
            let Whole { contract, components } = whole(State::Placed);
            let component = components[0].clone();
            let mut lines = vec![HeldLine {
                id: component.line_id,
                rcontract_id: contract.rcontract_id,
                name: component.name.clone(),
                host_id: component.host_id,
                ending: false,
                size: contract.need.size,
            }];
            change(&mut lines);
            let found: Vec<String> =
                differences(&lines, &[(contract, component)]).into_iter().map(|d| d.detail).collect();
            assert_eq!(found.len(), usize::from(!told.is_empty()), "{what}: {found:?}");
            assert!(found.iter().all(|detail| detail.contains(told)), "{what}: {found:?}");
        }
    }

    #[test]
    fn what_is_on_its_way_is_not_judged() {
        for state in [State::Placing, State::Releasing] {
            let Whole { contract, components } = whole(state);
            assert!(differences(&[], &[(contract, components[0].clone())]).is_empty(), "{state}");
        }
    }
}
