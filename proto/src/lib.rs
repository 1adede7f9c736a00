//! The protocols between tiers and with agents, and the clients generated from them.
//!
//! *Invariants*: a tier is called through its generated client only, whether it lives in this process or in another
//! ([`link::Link`]); every call carries a signed principal and a request id ([`call`]); every refusal crosses as a
//! [`yiqiu_base::Problem`], whole ([`status`]).
//!
//! *Does not*: hold any logic of a tier, or know where tiers run.

pub mod call;
mod convert;
pub mod link;
pub mod status;

macro_rules! package {
    ($name:ident, $path:literal) => {
        #[allow(unreachable_pub, missing_docs, clippy::all, clippy::pedantic)] // generated
        pub mod $name {
            tonic::include_proto!($path);
        }
    };
}

package!(common, "yiqiu.common");
package!(agent, "yiqiu.agent");
package!(resources, "yiqiu.resources");
package!(components, "yiqiu.components");
package!(projects, "yiqiu.projects");
