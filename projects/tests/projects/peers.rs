//! Resources and Components, as far as Projects calls them: they serve what a test wrote down.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use tonic::{Request, Response, Status};
use yiqiu_base::{Id, Power, Size, id, outbox::NewEvent, principal::Role};
use yiqiu_proto::{
    call::Callee,
    common::{Event, EventsRequest, EventsResponse, FindingsRequest, FindingsResponse},
    components::{
        self, Binding, CContract, ComponentBound, ComponentUnbound, ListBindingsRequest, ListBindingsResponse,
        ListCContractsRequest, ListCContractsResponse, ReleaseCContractRequest,
    },
    resources::{
        self, HeldLine, ListLinesRequest, ListLinesResponse, SegmentClosed, SegmentOpened, UsageDelta, UsageRecorded,
    },
};

pub(crate) const SIZE: Size = Size { cpu_millicores: 1500, memory_bytes: 1 << 30, disk_bytes: 10, disk_iops: 3 };

#[derive(Clone)]
pub(crate) struct Peer(Arc<Inner>);

struct Inner {
    callee: Callee,
    events: Mutex<Vec<Event>>,
    epoch: AtomicU64,
    /// How many events before the asked one are served again.
    again: AtomicI64,
    contracts: Mutex<Vec<CContract>>,
    lines: Mutex<Vec<HeldLine>>,
    bindings: Mutex<Vec<Binding>>,
    /// What an audit, or a comparison, says; `None`: it does not answer.
    found: Mutex<Option<FindingsResponse>>,
}

impl Peer {
    pub(crate) fn new(callee: Callee) -> Self {
        Self(Arc::new(Inner {
            callee,
            events: Mutex::default(),
            epoch: AtomicU64::new(7),
            again: AtomicI64::new(0),
            contracts: Mutex::default(),
            lines: Mutex::default(),
            bindings: Mutex::default(),
            found: Mutex::default(),
        }))
    }

    pub(crate) fn emit(&self, kind: &'static str, payload: &impl serde::Serialize) {
        let NewEvent { at_ms, kind, owner, subject, request_id, payload } = NewEvent::new(0, kind, "", "", payload);
        let mut events = self.0.events.lock().unwrap();
        let position = events.len() as i64 + 1;
        events.push(Event { position, at_ms, kind: kind.into(), owner, subject, request_id, payload_json: payload });
    }

    pub(crate) fn newest(&self) -> i64 {
        self.0.events.lock().unwrap().len() as i64
    }

    /// Forgets what came after a position, as a restored backup has.
    pub(crate) fn go_back(&self, position: usize) {
        self.0.events.lock().unwrap().truncate(position);
    }

    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.0.epoch.store(epoch, Ordering::SeqCst);
    }

    pub(crate) fn serve_again(&self, events: i64) {
        self.0.again.store(events, Ordering::SeqCst);
    }

    pub(crate) fn opened(&self, line: Line, owner: &str, power: Power, from_ms: i64) {
        let message = SegmentOpened {
            line_id: line.to_string(),
            rcontract_id: Id::<id::RContract>::from(line.uuid()).to_string(),
            owner: owner.into(),
            node_name: format!("node-{}", &line.to_string()[32..]),
            power: power.as_str().into(),
            size: Some(SIZE.into()),
            from_ms,
        };
        self.emit("segment.opened", &message);
    }

    pub(crate) fn closed(&self, line: Line, from_ms: i64, to_ms: i64) {
        self.emit("segment.closed", &SegmentClosed { line_id: line.to_string(), from_ms, to_ms });
    }

    /// One block with one sample; memory is 2^40 byte-milliseconds, more than a row's 64 bits sum up within a day.
    pub(crate) fn used(&self, line: Line, boot: i64, seq: i64, to_ms: i64, cpu_ns: i64) {
        let delta = UsageDelta {
            line_id: line.to_string(),
            boot,
            seq,
            from_ms: to_ms - 10_000,
            to_ms,
            cpu_ns,
            memory_byte_ms: (1 << 62) + 5,
            net_tx_bytes: 11,
            ..UsageDelta::default()
        };
        self.emit("usage.recorded", &UsageRecorded { host_id: "h".into(), deltas: vec![delta] });
    }

    pub(crate) fn bound(&self, line: Line, component: u128, owner: &str, from_ms: i64) {
        let id = uuid::Uuid::from_u128(component).to_string();
        let message = ComponentBound {
            line_id: line.to_string(),
            rcontract_id: line.to_string(),
            component_id: id.clone(),
            component_name: format!("web-{component}"),
            ccontract_id: id,
            ccontract_name: "web".into(),
            owner: owner.into(),
            from_ms,
        };
        self.emit("component.bound", &message);
    }

    pub(crate) fn unbound(&self, line: Line, component: u128, to_ms: i64) {
        let component_id = uuid::Uuid::from_u128(component).to_string();
        self.emit("component.unbound", &ComponentUnbound { line_id: line.to_string(), component_id, to_ms });
    }

    pub(crate) fn contract(&self, owner: &str, created_ms: i64) -> String {
        let id = Id::<id::CContract>::new().to_string();
        let contract =
            CContract { id: id.clone(), name: "c".into(), owner: owner.into(), state: "placed".into(), created_ms };
        self.0.contracts.lock().unwrap().push(contract);
        id
    }

    /// What is held and metered now, in the order of ids.
    pub(crate) fn holds(&self, lines: Vec<HeldLine>) {
        *self.0.lines.lock().unwrap() = lines;
    }

    /// What is bound now, in the order of lines.
    pub(crate) fn binds(&self, bindings: Vec<Binding>) {
        *self.0.bindings.lock().unwrap() = bindings;
    }

    pub(crate) fn finds(&self, found: Option<FindingsResponse>) {
        *self.0.found.lock().unwrap() = found;
    }

    fn found<T>(&self, request: &Request<T>) -> Result<Response<FindingsResponse>, Status> {
        self.0.callee.principal(request)?;
        let found = self.0.found.lock().unwrap().clone();
        found.map(Response::new).ok_or_else(|| Status::unavailable("the link is cut"))
    }

    pub(crate) fn state_of(&self, id: &str) -> String {
        self.0.contracts.lock().unwrap().iter().find(|c| c.id == id).unwrap().state.clone()
    }

    async fn serve<T>(
        &self,
        request: Request<T>,
        answer: impl FnOnce(EventsRequest) -> EventsResponse,
    ) -> Result<Response<EventsResponse>, Status>
    where
        T: Into<EventsRequest>,
    {
        let principal = self.0.callee.principal(&request)?;
        assert_eq!((principal.subject.as_str(), principal.role), ("service:projects", Role::Service));
        let asked: EventsRequest = request.into_inner().into();
        // A long poll, in short.
        for _ in 0..10 {
            if self.newest() > asked.after {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        Ok(Response::new(answer(asked)))
    }

    fn answer(&self, asked: &EventsRequest) -> EventsResponse {
        let after = (asked.after - self.0.again.load(Ordering::SeqCst)).max(0);
        let most = asked.limit as usize + (asked.after - after).max(0) as usize;
        let served = self.0.events.lock().unwrap();
        let events = served.iter().skip(after as usize).take(most).cloned().collect();
        EventsResponse { events, epoch: self.0.epoch.load(Ordering::SeqCst), head: served.len() as i64 }
    }
}

pub(crate) type Line = Id<id::Line>;

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("Projects does not call this"))
}

#[tonic::async_trait]
impl components::components_server::Components for Peer {
    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<EventsResponse>, Status> {
        self.serve(request, |asked| self.answer(&asked)).await
    }

    async fn list_c_contracts(
        &self,
        request: Request<ListCContractsRequest>,
    ) -> Result<Response<ListCContractsResponse>, Status> {
        self.0.callee.principal(&request)?;
        let asked = request.into_inner();
        // Two a page, so that there are pages.
        let contracts = self.0.contracts.lock().unwrap();
        let page = contracts
            .iter()
            .filter(|c| c.created_ms < asked.created_before_ms && c.id > asked.after_id)
            .take(2)
            .cloned()
            .collect();
        Ok(Response::new(ListCContractsResponse { contracts: page }))
    }

    async fn release_c_contract(
        &self,
        request: Request<ReleaseCContractRequest>,
    ) -> Result<Response<CContract>, Status> {
        self.0.callee.principal(&request)?;
        let id = request.into_inner().id;
        let mut contracts = self.0.contracts.lock().unwrap();
        let contract = contracts.iter_mut().find(|c| c.id == id).unwrap();
        contract.state = "releasing".into();
        Ok(Response::new(contract.clone()))
    }

    async fn list_bindings(
        &self,
        request: Request<ListBindingsRequest>,
    ) -> Result<Response<ListBindingsResponse>, Status> {
        self.0.callee.principal(&request)?;
        let after = request.into_inner().after_line_id;
        let all = self.0.bindings.lock().unwrap();
        let bindings = all.iter().filter(|binding| binding.line_id > after).take(2).cloned().collect();
        Ok(Response::new(ListBindingsResponse { bindings }))
    }

    async fn findings(&self, request: Request<FindingsRequest>) -> Result<Response<FindingsResponse>, Status> {
        self.found(&request)
    }
}

#[tonic::async_trait]
impl resources::resources_server::Resources for Peer {
    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<EventsResponse>, Status> {
        self.serve(request, |asked| self.answer(&asked)).await
    }

    async fn list_lines(&self, request: Request<ListLinesRequest>) -> Result<Response<ListLinesResponse>, Status> {
        self.0.callee.principal(&request)?;
        let after = request.into_inner().after_id;
        let lines = self.0.lines.lock().unwrap().iter().filter(|line| line.id > after).take(2).cloned().collect();
        Ok(Response::new(ListLinesResponse { lines }))
    }

    async fn findings(&self, request: Request<FindingsRequest>) -> Result<Response<FindingsResponse>, Status> {
        self.found(&request)
    }

    async fn list_hosts(
        &self,
        _: Request<resources::ListHostsRequest>,
    ) -> Result<Response<resources::ListHostsResponse>, Status> {
        not_here()
    }

    async fn create_r_contract(
        &self,
        _: Request<resources::CreateRContractRequest>,
    ) -> Result<Response<resources::RContract>, Status> {
        not_here()
    }

    async fn get_r_contract(
        &self,
        _: Request<resources::GetRContractRequest>,
    ) -> Result<Response<resources::RContract>, Status> {
        not_here()
    }

    async fn list_r_contracts(
        &self,
        _: Request<resources::ListRContractsRequest>,
    ) -> Result<Response<resources::ListRContractsResponse>, Status> {
        not_here()
    }

    async fn release_r_contract(
        &self,
        _: Request<resources::ReleaseRContractRequest>,
    ) -> Result<Response<resources::RContract>, Status> {
        not_here()
    }

    async fn set_node_power(
        &self,
        _: Request<resources::SetNodePowerRequest>,
    ) -> Result<Response<resources::Node>, Status> {
        not_here()
    }

    async fn get_image(&self, _: Request<resources::GetImageRequest>) -> Result<Response<resources::Image>, Status> {
        not_here()
    }
}
