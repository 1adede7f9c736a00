//! A refusal on its way through gRPC: the status carries the whole [`Problem`] in its details.

use tonic::{Code as Grpc, Status, metadata::MetadataMap};
use yiqiu_base::{Code, Problem};

/// The status of a refusal; the message is the sentence, the details are the problem as JSON.
#[allow(clippy::needless_pass_by_value)] // used as `map_err(to_status)`
pub fn to_status(problem: Problem) -> Status {
    let details = serde_json::to_vec(&problem).unwrap_or_default();
    Status::with_details_and_metadata(
        Grpc::from_i32(problem.code.grpc()),
        &problem.detail,
        details.into(),
        MetadataMap::new(),
    )
}

/// The refusal behind a status. A status without one (a broken connection, a deadline) is `unavailable`.
#[allow(clippy::needless_pass_by_value)] // used as `map_err(from_status)`
pub fn from_status(status: Status) -> Problem {
    if let Ok(problem) = serde_json::from_slice::<Problem>(status.details()) {
        return problem;
    }
    match status.code() {
        Grpc::Unauthenticated => Problem::new(Code::Unauthenticated, status.message()),
        Grpc::InvalidArgument | Grpc::OutOfRange => Problem::new(Code::InvalidArgument, status.message()),
        _ => Problem {
            retry_after_s: Some(1),
            ..Problem::new(Code::Unavailable, format!("a tier does not answer: {}", status.message()))
        },
    }
}
