//! What every call between tiers carries beside its message: a signed principal and the id of the request.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tonic::{Request, Status};
use yiqiu_base::{
    Clock, Code, Principal, Problem,
    clock::Ms,
    principal::{Keyring, LIFETIME_MS, Signer},
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

/// A tier's own way of asking: signs its requests as `service:<tier>`.
#[derive(Clone)]
pub struct Caller {
    signer: Signer,
    clock: Clock,
    /// The newest signed principal, and until when it is used again.
    signed: Arc<Mutex<(String, Ms)>>,
}

impl Caller {
    /// Asks in the name of the signer's tier.
    pub fn new(signer: Signer, clock: Clock) -> Self {
        Self { signer, clock, signed: Arc::default() }
    }

    /// The message as a request of this tier.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let now = self.clock.now();
        let mut newest = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.1 <= now {
            *newest = (self.signer.service(&self.clock), now + LIFETIME_MS / 2);
        }
        signed(message, &newest.0)
    }
}

/// How a tier finds out who calls it.
#[derive(Clone)]
pub struct Callee {
    keyring: Keyring,
    clock: Clock,
    /// Signed texts that were verified, each good until its principal ends. Tiers use one for a while.
    verified: Arc<Mutex<HashMap<String, Principal>>>,
}

/// How many verified principals are kept: a few for each tier.
const VERIFIED_MOST: usize = 64;

impl Callee {
    /// Verifies with this keyring.
    pub fn new(keyring: Keyring, clock: Clock) -> Self {
        Self { keyring, clock, verified: Arc::default() }
    }

    /// The principal that signed a call; UNAUTHENTICATED without a good one.
    pub fn principal<T>(&self, request: &Request<T>) -> Result<Principal, Status> {
        let signed = request
            .metadata()
            .get(PRINCIPAL)
            .and_then(|v| v.to_str().ok())
            .ok_or_else(|| to_status(Problem::new(Code::Unauthenticated, "the call carries no principal")))?;
        let now = self.clock.now();
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = verified.get(signed).filter(|p| p.expires_ms > now) {
            return Ok(known.clone());
        }
        let principal = self.keyring.verify(signed, now).map_err(to_status)?;
        if verified.len() >= VERIFIED_MOST {
            verified.clear();
        }
        verified.insert(signed.to_owned(), principal.clone());
        Ok(principal)
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
