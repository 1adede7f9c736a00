//! Projects for the tiers: the gRPC server.

use tonic::{Request, Response, Status};
use yiqiu_base::secret::Secret;
use yiqiu_proto::{
    call::Callee,
    projects::{
        AuthenticateRequest, AuthenticateResponse,
        projects_server::{Projects, ProjectsServer},
    },
};

use crate::Service;

/// The server, to be called in this process or mounted in a transport.
pub fn server(service: Service, callee: Callee) -> ProjectsServer<impl Projects> {
    ProjectsServer::new(Rpc { service, callee })
}

struct Rpc {
    service: Service,
    callee: Callee,
}

#[tonic::async_trait]
impl Projects for Rpc {
    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        self.callee
            .serve(request, |principal, AuthenticateRequest { token }| async move {
                // Tokens are tried by tiers only, at whose edge guessing has a limit.
                principal.require_service()?;
                let principal = self.service.authenticate(&Secret::from_text(token)).await?;
                Ok(AuthenticateResponse { principal })
            })
            .await
    }
}
