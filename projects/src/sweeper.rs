//! Releases the CContracts of projects that are not there (any more).
//!
//! A contract is let alone until a grace after its making, and if it is older than this database: whoever lost the
//! database of Projects and began a new one must not lose every tenant's contracts with it.

use std::{collections::BTreeSet, time::Duration};

use yiqiu_base::{
    Code, Problem,
    clock::Ms,
    database::{Database, problem},
    reconcile::Next,
};
use yiqiu_proto::{
    call::Caller,
    components::{CContract, ListCContractsRequest, ReleaseCContractRequest, components_client::ComponentsClient},
    link::Link,
    status::from_status,
};

use crate::{
    model::{ProjectId, project_of},
    store::{project, user},
};

/// Looks through all contracts now and then.
pub(crate) struct Sweeper {
    pub(crate) database: Database,
    pub(crate) components: ComponentsClient<Link>,
    pub(crate) caller: Caller,
    pub(crate) grace: Duration,
}

/// Contracts in one question.
const PAGE: u32 = 500;

impl Sweeper {
    /// Goes once through all contracts. One that cannot be released does not keep the others.
    pub(crate) async fn pass(&self, now: Ms) -> Result<Next, Problem> {
        let Some(born_ms) = user::user_oldest_ms(self.database.read()).await.map_err(problem)? else {
            return Ok(Next::Done);
        };
        let before = now - i64::try_from(self.grace.as_millis()).unwrap_or(i64::MAX).min(now);
        let (mut after_id, mut failed, mut foreign) = (String::new(), None, 0_u64);
        loop {
            let request = ListCContractsRequest {
                created_before_ms: before,
                after_id: after_id.clone(),
                limit: PAGE,
                owner: String::new(),
            };
            let contracts = self.list(request).await?;
            let Some(last) = contracts.last().map(|contract| contract.id.clone()) else { break };
            for contract in self.unheld(&contracts).await? {
                if contract.created_ms < born_ms {
                    foreign += 1;
                    continue;
                }
                tracing::warn!(ccontract = contract.id, owner = contract.owner, "releasing what nobody holds");
                let request = ReleaseCContractRequest { id: contract.id.clone() };
                if let Err(problem) = self.release(request).await {
                    failed = Some(problem);
                }
            }
            if last == after_id {
                break; // a tier that repeats itself must not hold us for ever
            }
            after_id = last;
        }
        match (failed, foreign) {
            (Some(problem), _) => Err(problem),
            (None, 0) => Ok(Next::Done),
            (None, n) => Err(Problem::new(
                Code::WrongState,
                format!(
                    "{n} contracts are of unknown projects and older than this database: release them by hand, or restore it"
                ),
            )),
        }
    }

    async fn list(&self, request: ListCContractsRequest) -> Result<Vec<CContract>, Problem> {
        let request = self.caller.request(request);
        let page = self.components.clone().list_c_contracts(request).await.map_err(from_status)?;
        Ok(page.into_inner().contracts)
    }

    async fn release(&self, request: ReleaseCContractRequest) -> Result<(), Problem> {
        let request = self.caller.request(request);
        self.components.clone().release_c_contract(request).await.map(|_| ()).map_err(from_status)
    }

    /// Those of a page whose project is not there and that are not on their way out already.
    async fn unheld<'a>(&self, contracts: &'a [CContract]) -> Result<Vec<&'a CContract>, Problem> {
        let of_projects: Vec<(&CContract, ProjectId)> = contracts
            .iter()
            .filter(|contract| !matches!(contract.state.as_str(), "releasing" | "released"))
            .filter_map(|contract| Some((contract, project_of(&contract.owner)?)))
            .collect();
        let asked: BTreeSet<ProjectId> = of_projects.iter().map(|(_, project)| *project).collect();
        let asked: Vec<ProjectId> = asked.into_iter().collect();
        let living = project::project_living(self.database.read(), &asked).await.map_err(problem)?;
        let living: BTreeSet<ProjectId> = living.into_iter().collect();
        Ok(of_projects.into_iter().filter(|(_, project)| !living.contains(project)).map(|(c, _)| c).collect())
    }
}
