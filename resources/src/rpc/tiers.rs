//! What the tiers above ask for.

use std::time::Duration;

use tonic::{Request, Response, Status};
use yiqiu_base::{Id, Power, Problem, http::Paging};
use yiqiu_proto::{
    call::Callee,
    common::{self, EventsRequest, EventsResponse, FindingsRequest, FindingsResponse},
    link::MESSAGE_MOST,
    resources::{
        CreateRContractRequest, GetImageRequest, GetRContractRequest, Image, ListHostsRequest, ListHostsResponse,
        ListLinesRequest, ListLinesResponse, ListRContractsRequest, ListRContractsResponse, Node, RContract,
        ReleaseRContractRequest, SetNodePowerRequest,
        resources_server::{Resources, ResourcesServer},
    },
};

use super::wire;
use crate::{
    model::Wish,
    service::{ContractRequest, Service},
};

/// How many lines one question for findings names.
const LINES_AT_ONCE: usize = 1000;

/// The server of the tier's own interface.
pub fn server(service: Service, callee: Callee) -> ResourcesServer<impl Resources> {
    ResourcesServer::new(Rpc { service, callee })
        .max_decoding_message_size(MESSAGE_MOST)
        .max_encoding_message_size(MESSAGE_MOST)
}

struct Rpc {
    service: Service,
    callee: Callee,
}

#[tonic::async_trait]
impl Resources for Rpc {
    async fn list_hosts(&self, request: Request<ListHostsRequest>) -> Result<Response<ListHostsResponse>, Status> {
        self.callee
            .serve(request, async |who, ListHostsRequest {}| {
                let places = self.service.places(&who).await?;
                let hosts = self.service.host_all(&who).await?;
                Ok(ListHostsResponse { hosts: hosts.into_iter().map(|h| wire::host(h, &places)).collect() })
            })
            .await
    }

    async fn create_r_contract(&self, request: Request<CreateRContractRequest>) -> Result<Response<RContract>, Status> {
        self.callee
            .serve(request, async |who, CreateRContractRequest { id, name, lines, dry_run }| {
                let lines = lines.into_iter().map(wire::line).collect::<Result<Vec<_>, Problem>>()?;
                if dry_run {
                    self.service.contract_dry_run(&who, &ContractRequest::open(None, &name, &lines)).await?;
                    return Ok(RContract::default());
                }
                let id = Some(Id::parse(&id)?);
                let (contract, nodes) = self.service.contract_create(&who, id, &name, &lines, None).await?;
                Ok(wire::contract(contract, nodes))
            })
            .await
    }

    async fn get_r_contract(&self, request: Request<GetRContractRequest>) -> Result<Response<RContract>, Status> {
        self.callee
            .serve(request, async |who, GetRContractRequest { id }| {
                let (contract, nodes) = self.service.contract_get(&who, &id).await?;
                Ok(wire::contract(contract, nodes))
            })
            .await
    }

    async fn list_r_contracts(
        &self,
        request: Request<ListRContractsRequest>,
    ) -> Result<Response<ListRContractsResponse>, Status> {
        self.callee
            .serve(request, async |who, ListRContractsRequest { created_before_ms, after_id, limit }| {
                let paging =
                    Paging { cursor: Some(after_id).filter(|a| !a.is_empty()), limit: Some(limit).filter(|l| *l > 0) };
                let before = Some(created_before_ms).filter(|b| *b > 0);
                let page = self.service.contract_list(&who, &paging, before, false).await?;
                let contracts = page.items.into_iter().map(|c| wire::contract(c, Vec::new())).collect();
                Ok(ListRContractsResponse { contracts })
            })
            .await
    }

    async fn release_r_contract(
        &self,
        request: Request<ReleaseRContractRequest>,
    ) -> Result<Response<RContract>, Status> {
        self.callee
            .serve(request, async |who, ReleaseRContractRequest { id }| {
                let contract = self.service.contract_release(&who, &id).await?;
                Ok(wire::contract(contract, Vec::new()))
            })
            .await
    }

    async fn set_node_power(&self, request: Request<SetNodePowerRequest>) -> Result<Response<Node>, Status> {
        self.callee
            .serve(request, async |who, message: SetNodePowerRequest| {
                let power = wire::power_from(message.power())?
                    .ok_or_else(|| Problem::invalid("the message has no power state"))?;
                let SetNodePowerRequest { node_id, power: _, command_id, if_generation, reboot, grace_ms } = message;
                if reboot && power != Power::On {
                    return Err(Problem::invalid("a reboot ends with power on"));
                }
                let wish = Wish { power, reboot, grace_ms: grace_ms.map(i64::from) };
                let command = match command_id.as_str() {
                    "" => None,
                    id => Some(Id::parse(id)?),
                };
                let seen = Some(if_generation).filter(|g| *g > 0);
                let node = self.service.node_power(&who, Id::parse(&node_id)?, wish, command, seen).await?;
                Ok(wire::node(node))
            })
            .await
    }

    async fn get_image(&self, request: Request<GetImageRequest>) -> Result<Response<Image>, Status> {
        self.callee
            .serve(request, async |who, GetImageRequest { name_or_id, owner }| {
                self.service.image_for_owner(&who, &name_or_id, &owner).await.map(wire::image)
            })
            .await
    }

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<EventsResponse>, Status> {
        self.callee
            .serve(request, async |who, EventsRequest { after, limit, wait_ms }| {
                who.require_service()?;
                let wait = Duration::from_millis(wait_ms.into());
                self.service.events(&who, after, limit, wait).await.map(Into::into)
            })
            .await
    }

    async fn list_lines(&self, request: Request<ListLinesRequest>) -> Result<Response<ListLinesResponse>, Status> {
        self.callee
            .serve(request, async |who, ListLinesRequest { owner, after_id, limit }| {
                let owner = Some(owner).filter(|owner| !owner.is_empty());
                let after = if after_id.is_empty() { None } else { Some(Id::parse(&after_id)?) };
                let lines = self.service.line_list(&who, owner.as_deref(), after, limit).await?;
                Ok(ListLinesResponse { lines: lines.into_iter().map(wire::held_line).collect() })
            })
            .await
    }

    async fn findings(&self, request: Request<FindingsRequest>) -> Result<Response<FindingsResponse>, Status> {
        self.callee
            .serve(request, async |who, FindingsRequest { line_ids }| {
                if line_ids.len() > LINES_AT_ONCE {
                    return Err(Problem::invalid(format!("ask for {LINES_AT_ONCE} lines at once at most")));
                }
                let lines = line_ids.iter().map(|id| Id::parse(id)).collect::<Result<Vec<_>, Problem>>()?;
                let Some((audit, findings)) = self.service.finding_of_lines(&who, &lines).await? else {
                    return Ok(FindingsResponse::default());
                };
                let findings: Vec<common::Finding> = findings.into_iter().map(wire::finding).collect();
                Ok(FindingsResponse { at_ms: audit.ended_ms.unwrap_or(audit.started_ms), findings })
            })
            .await
    }
}
