//! A refusal as data and as a sentence: RFC 9457 problem details with a stable code.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Code;

/// A refusal as the caller sees it. What caused it inside stays in the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// Stable; clients branch on it.
    pub code: Code,
    /// What was wrong, what was expected, what to do.
    pub detail: String,
    /// The same as data, in a shape that the code names; absent where the sentence says it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
    /// Seconds after which the same request may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

impl Problem {
    /// A refusal with a sentence for the caller.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), data: None, retry_after_s: None }
    }

    /// Adds the machine-readable part.
    #[must_use]
    pub fn with_data(mut self, data: impl Serialize) -> Self {
        self.data = serde_json::to_value(data).ok();
        self
    }

    /// `not_found`, the same words whether it never was or is another owner's.
    pub fn not_found(noun: &str, name: impl fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {noun} `{}`", crate::name::shown(&name.to_string())))
    }

    /// `invalid_argument`.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, detail)
    }

    /// `unavailable`: `what` has no room left, and so nothing was changed.
    pub fn disk_full(what: &str) -> Self {
        let told = format!("{what} is full, and nothing was changed: make room there, then try the same request again");
        Self { retry_after_s: Some(5), ..Self::new(Code::Unavailable, told) }
    }

    /// A file of ours that cannot be read or written: `unavailable` where its disk is full, else `internal`.
    #[allow(clippy::needless_pass_by_value)] // used as `map_err(Problem::file)`
    pub fn file(cause: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match cause.kind() {
            StorageFull | QuotaExceeded => {
                tracing::error!(%cause, "the disk of the platform's files is full");
                Self::disk_full("the disk of the platform's files")
            }
            _ => Self::internal(cause),
        }
    }

    /// A fault of ours: the cause goes to the log here, and only that it happened to the caller.
    pub fn internal(cause: impl fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(Code::Internal, "something failed inside the platform; its log tells more under this request's id")
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}

impl std::error::Error for Problem {}
