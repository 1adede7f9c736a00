//! The gRPC edge: what Components offers the tiers beside it.

use std::time::Duration;

use tonic::{Request, Response, Status};
use yiqiu_base::{
    Id,
    ledger::{Comparison, Difference, Finding},
};
use yiqiu_proto::{
    call::Callee,
    common,
    components::{
        self as wire,
        components_server::{Components, ComponentsServer},
    },
};

use crate::{
    model::{CContractModel, ComponentModel},
    service::Service,
};

/// The server of this tier, to be linked or mounted.
pub fn server(service: Service, callee: Callee) -> ComponentsServer<impl Components> {
    ComponentsServer::new(Rpc { service, callee }).max_decoding_message_size(yiqiu_proto::link::MESSAGE_MOST)
}

struct Rpc {
    service: Service,
    callee: Callee,
}

#[tonic::async_trait]
impl Components for Rpc {
    async fn events(
        &self,
        request: Request<common::EventsRequest>,
    ) -> Result<Response<common::EventsResponse>, Status> {
        let service = &self.service;
        self.callee
            .serve(request, |who, common::EventsRequest { after, limit, wait_ms }| async move {
                who.require_service()?;
                let wait = Duration::from_millis(wait_ms.into());
                service.events(&who, after, limit, wait).await.map(Into::into)
            })
            .await
    }

    async fn list_c_contracts(
        &self,
        request: Request<wire::ListCContractsRequest>,
    ) -> Result<Response<wire::ListCContractsResponse>, Status> {
        let service = &self.service;
        self.callee
            .serve(request, |who, message| async move {
                let wire::ListCContractsRequest { created_before_ms, after_id, limit, owner } = message;
                let before = (created_before_ms != 0).then_some(created_before_ms);
                let after = if after_id.is_empty() { None } else { Some(Id::parse(&after_id)?) };
                let limit = if limit == 0 { 1000 } else { limit };
                let owner = (!owner.is_empty()).then_some(owner);
                let contracts = service.list_all(&who, before, after, limit, owner.as_deref()).await?;
                Ok(wire::ListCContractsResponse { contracts: contracts.into_iter().map(contract).collect() })
            })
            .await
    }

    async fn release_c_contract(
        &self,
        request: Request<wire::ReleaseCContractRequest>,
    ) -> Result<Response<wire::CContract>, Status> {
        let service = &self.service;
        self.callee
            .serve(request, |who, wire::ReleaseCContractRequest { id }| async move {
                Ok(contract(service.release_any(&who, Id::parse(&id)?).await?.contract))
            })
            .await
    }

    async fn list_bindings(
        &self,
        request: Request<wire::ListBindingsRequest>,
    ) -> Result<Response<wire::ListBindingsResponse>, Status> {
        let service = &self.service;
        self.callee
            .serve(request, |who, wire::ListBindingsRequest { after_line_id, limit }| async move {
                let after = if after_line_id.is_empty() { None } else { Some(Id::parse(&after_line_id)?) };
                let bound = service.binding_list(&who, after, if limit == 0 { 1000 } else { limit }).await?;
                Ok(wire::ListBindingsResponse { bindings: bound.into_iter().map(binding).collect() })
            })
            .await
    }

    async fn findings(
        &self,
        request: Request<common::FindingsRequest>,
    ) -> Result<Response<common::FindingsResponse>, Status> {
        let service = &self.service;
        self.callee
            .serve(request, |who, common::FindingsRequest { line_ids }| async move {
                let lines = line_ids.iter().map(|id| Id::parse(id)).collect::<Result<Vec<_>, _>>()?;
                let Comparison { at_ms, findings, .. } = service.ledger_of_lines(&who, &lines)?;
                let findings = findings.into_iter().map(finding).collect();
                Ok(common::FindingsResponse { at_ms: at_ms.unwrap_or_default(), findings })
            })
            .await
    }
}

fn binding((contract, component): (CContractModel, ComponentModel)) -> wire::Binding {
    wire::Binding {
        line_id: component.line_id.to_string(),
        rcontract_id: contract.rcontract_id.to_string(),
        component_id: component.id.to_string(),
        component_name: component.name,
        ccontract_id: contract.id.to_string(),
        owner: contract.owner,
    }
}

fn finding(finding: Finding) -> common::Finding {
    let Finding { kind, tier: _, at_ms, difference } = finding;
    let Difference { line_id, rcontract_id: _, owner: _, name, detail } = difference;
    let (kind, line_id) = (kind.to_owned(), line_id.to_string());
    common::Finding { kind, line_id, host_name: String::new(), name, detail, at_ms }
}

fn contract(contract: CContractModel) -> wire::CContract {
    let CContractModel { id, name, owner, state, created_ms, .. } = contract;
    wire::CContract { id: id.to_string(), name, owner, state: state.to_string(), created_ms }
}
