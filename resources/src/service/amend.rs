//! Contracts that change in place.

use std::collections::HashSet;

use serde::Serialize;
use yiqiu_base::{Code, Principal, Problem, idempotency::Key, name, principal::Role};

use super::{LineRequest, Service, contract::check_reason};
use crate::{
    lifecycle::amend::LINES_MOST,
    model::{Amendment, By, ContractModel, Forecast, LineChange, NodeModel},
    store::Amending,
};

/// What is to change of a contract: all of it, or nothing. What is left out stays.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AmendRequest {
    /// Another name.
    pub name: Option<String>,
    /// New lines.
    pub add: Vec<LineRequest>,
    /// Lines that go, by name or id.
    pub remove: Vec<String>,
    /// Lines that stay, and how they change.
    pub change: Vec<LineChange>,
    /// Why, for its history.
    pub reason: String,
}

impl Service {
    /// Amends a contract in one step, on all its hosts: the old set of lines or the new one, never one between. What
    /// grows is claimed at once; what shrinks is given back when its host confirmed that, what goes when it is gone.
    pub async fn contract_amend(
        &self,
        who: &Principal,
        name_or_id: &str,
        request: &AmendRequest,
        if_generation: Option<i64>,
        key: Option<&str>,
    ) -> Result<(ContractModel, Vec<NodeModel>), Problem> {
        let contract = self.contract_find(who, name_or_id).await?;
        let scope = format!("{} {}", who.subject, who.owner);
        let asked = (contract.id, request, if_generation);
        let key = key.map(|key| Key::new(&scope, "amendment", key, &asked)).transpose()?;
        let amendment = self.amendment_checked(who, &contract, request).await?;
        let by = By { who: &who.subject, reason: &request.reason };
        let amending = Amending { id: contract.id, amendment: &amendment, if_generation, key: key.as_ref(), by };
        let nodes = match self.store().contract_amend(&amending, self.now()).await {
            Ok(nodes) => nodes,
            Err(problem) => return Err(self.explained(who, problem).await),
        };
        metrics::counter!("yiqiu_claims_total").increment(amendment.add.len() as u64);
        self.push(&nodes);
        self.contract_get(who, &contract.id.to_string()).await
    }

    /// What [`Service::contract_amend`] would claim where, without claiming.
    pub async fn contract_amend_dry_run(
        &self,
        who: &Principal,
        name_or_id: &str,
        request: &AmendRequest,
        if_generation: Option<i64>,
    ) -> Result<Forecast, Problem> {
        let contract = self.contract_find(who, name_or_id).await?;
        let amendment = self.amendment_checked(who, &contract, request).await?;
        let by = By { who: &who.subject, reason: &request.reason };
        let amending = Amending { id: contract.id, amendment: &amendment, if_generation, key: None, by };
        match self.store().contract_amend_dry_run(&amending).await {
            Err(problem) => Err(self.explained(who, problem).await),
            forecast => forecast,
        }
    }

    async fn amendment_checked(
        &self,
        who: &Principal,
        contract: &ContractModel,
        request: &AmendRequest,
    ) -> Result<Amendment, Problem> {
        let AmendRequest { name, add, remove, change, reason } = request;
        check_reason(reason)?;
        if let Some(name) = name {
            name::check("rcontract", name)?;
        }
        if name.is_none() && add.is_empty() && remove.is_empty() && change.is_empty() {
            return Err(Problem::invalid("the amendment changes nothing: give name, add, remove or change"));
        }
        if add.len().max(remove.len()).max(change.len()) > LINES_MOST {
            return Err(Problem::invalid(format!("an amendment names at most {LINES_MOST} lines of each kind")));
        }
        let mut ids = HashSet::new();
        let mut checked = Vec::with_capacity(add.len());
        for line in add {
            name::check("line", &line.name)?;
            if line.id.is_some_and(|id| !ids.insert(id)) {
                let why = format!("the id of line `{}` is there twice", line.name);
                return Err(Problem::new(Code::AlreadyExists, why));
            }
            // Images are looked up for whom the contract belongs to: ops may amend a tenant's.
            let for_whom = Principal { owner: contract.owner.clone(), ..who.clone() };
            checked.push(self.line_checked(&for_whom, line).await?);
        }
        Ok(Amendment {
            name: name.clone(),
            add: checked,
            remove: remove.clone(),
            change: change.clone(),
            whole_hosts: who.role == Role::Ops,
        })
    }
}
