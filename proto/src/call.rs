//! What every call between tiers carries beside its message: a signed principal and the id of the request.

use std::future::Future;

use tonic::{Request, Status};
use yiqiu_base::{
    Clock, Code, Principal, Problem,
    principal::{Keyring, Signer},
    telemetry::{REQUEST_ID_HEADER, request_id, request_id_or_new, with_request_id},
};

use crate::status::to_status;

const PRINCIPAL: &str = "x-yiqiu-principal";

/// A request in the name of a signed principal, as part of the request that this task serves.
pub fn signed<T>(message: T, principal: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    if let Ok(value) = principal.parse() {
        metadata.insert(PRINCIPAL, value);
    }
    if let Ok(value) = request_id().parse() {
        metadata.insert(REQUEST_ID_HEADER, value);
    }
    request
}

/// A tier's own way of asking: signs each request as `service:<tier>`.
#[derive(Clone)]
pub struct Caller {
    signer: Signer,
    clock: Clock,
}

impl Caller {
    /// Asks in the name of the signer's tier.
    pub fn new(signer: Signer, clock: Clock) -> Self {
        Self { signer, clock }
    }

    /// The message as a request of this tier.
    pub fn request<T>(&self, message: T) -> Request<T> {
        signed(message, &self.signer.service(&self.clock))
    }
}

/// How a tier finds out who calls it.
#[derive(Clone)]
pub struct Callee {
    keyring: Keyring,
    clock: Clock,
}

impl Callee {
    /// Verifies with this keyring.
    pub fn new(keyring: Keyring, clock: Clock) -> Self {
        Self { keyring, clock }
    }

    /// The principal that signed a call; UNAUTHENTICATED without a good one.
    pub fn principal<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        let signed = request
            .metadata()
            .get(PRINCIPAL)
            .and_then(|v| v.to_str().ok())
            .ok_or_else(|| to_status(Problem::new(Code::Unauthenticated, "the call carries no principal")))?;
        self.keyring.verify(signed, self.clock.now()).map_err(to_status)
    }

    /// Serves a call: verifies who calls, takes over the request id, and turns a refusal into a status.
    pub async fn serve<T, R, F, Fut>(&self, request: Request<T>, handle: F) -> Result<tonic::Response<R>, Status>
    where
        F: FnOnce(Principal, T) -> Fut,
        Fut: Future<Output = Result<R, Problem>>,
    {
        let principal = self.principal(&request)?;
        let id = request_id_or_new(request.metadata().get(REQUEST_ID_HEADER).and_then(|v| v.to_str().ok()));
        let answer = with_request_id(id, handle(principal, request.into_inner())).await;
        answer.map(tonic::Response::new).map_err(to_status)
    }
}
