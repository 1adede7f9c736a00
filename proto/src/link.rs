//! The way to a tier: in this process without a socket, or over the network. One type for both, so that callers
//! cannot tell.

use std::{convert::Infallible, time::Duration};

use http::{Request, Response};
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt, util::BoxCloneSyncService};
use yiqiu_base::Problem;

/// What a generated client is made over: `ResourcesClient::new(link)`.
pub type Link = BoxCloneSyncService<Request<Body>, Response<Body>, LinkError>;

/// Why a link did not carry a call. A type of its own: over a `BoxError` the compiler cannot prove the future of a call
/// `Send`, and no task that makes one could be spawned.
#[derive(Debug)]
pub struct LinkError(tonic::transport::Error);

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the link to a tier is broken")
    }
}

impl std::error::Error for LinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The largest message between tiers, in bytes.
pub const MESSAGE_MOST: usize = 64 << 20;

/// A link to a service of this process.
pub fn local<S>(service: S) -> Link
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(ServiceExt::<Request<Body>>::map_err(service, |never| match never {}))
}

/// A link over the network to `http://host:port`. It connects when first used, and again when it broke.
pub fn remote(url: &str) -> Result<Link, Problem> {
    let channel: Channel = Endpoint::from_shared(url.to_owned())
        .map_err(|error| Problem::invalid(format!("`{url}` is not the URL of a tier: {error}")))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_lazy();
    Ok(BoxCloneSyncService::new(ServiceExt::<Request<Body>>::map_err(channel, LinkError)))
}
