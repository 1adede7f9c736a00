//! The stable codes of refusals, and what they are in HTTP and in gRPC. Clients branch on codes, people read details.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $http:literal, $grpc:literal;)*) => {
        /// Why a request was refused. The text form is stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $($(#[doc = $doc])+ $name,)* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The stable text, such as `host_full`.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// The HTTP status.
            pub fn http(self) -> u16 {
                match self { $(Code::$name => $http,)* }
            }

            /// The number of the gRPC status code.
            pub fn grpc(self) -> i32 {
                match self { $(Code::$name => $grpc,)* }
            }

            /// One line on what it means.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$name => concat!($($doc),+).trim_ascii_start(),)* }
            }
        }
    };
}

codes! {
    // code = text, HTTP, gRPC;
    /// A value has the wrong form or is out of range.
    InvalidArgument = "invalid_argument", 422, 3;
    /// The body is not JSON of the expected shape.
    MalformedBody = "malformed_body", 400, 3;
    /// The body is larger than this call takes.
    BodyTooLarge = "body_too_large", 413, 8;
    /// No credential, or one that is unknown, expired, revoked or forged.
    Unauthenticated = "unauthenticated", 401, 16;
    /// The credential is good, but may not do this.
    PermissionDenied = "permission_denied", 403, 7;
    /// There is nothing of that name or id, or it is another owner's.
    NotFound = "not_found", 404, 5;
    /// There is already one of that name or id.
    AlreadyExists = "already_exists", 409, 6;
    /// Something else still needs it.
    InUse = "in_use", 409, 9;
    /// It is not in a state in which this can be done.
    WrongState = "wrong_state", 409, 9;
    /// The generation that the caller has seen is not the current one.
    StaleGeneration = "stale_generation", 412, 10;
    /// The idempotency key was used before for another request.
    IdempotencyKeyReused = "idempotency_key_reused", 422, 6;
    /// A host has not enough left of something.
    HostFull = "host_full", 409, 8;
    /// No host passes every filter of the need.
    NoPlacement = "no_placement", 409, 8;
    /// The host is cut into nodes of another type.
    NodeTypeMismatch = "node_type_mismatch", 409, 9;
    /// The machine has no working driver for that node type.
    DriverMissing = "driver_missing", 409, 9;
    /// The join token is unknown, used or expired.
    JoinTokenInvalid = "join_token_invalid", 401, 16;
    /// The bytes are not what their checksum says.
    ChecksumMismatch = "checksum_mismatch", 422, 3;
    /// Too many requests; try again after the time given.
    RateLimited = "rate_limited", 429, 8;
    /// Something that this needs does not answer now; the same request may be tried again.
    Unavailable = "unavailable", 503, 14;
    /// A fault of the platform; the details are in its log under the request id.
    Internal = "internal", 500, 13;
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn texts_are_unique_and_are_what_json_says() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} twice");
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            assert!((400..600).contains(&code.http()));
            assert!((1..=16).contains(&code.grpc()));
        }
    }
}
