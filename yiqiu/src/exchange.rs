//! How the HTTP edge of every tier learns who holds a token: it asks Projects, wherever that runs.

use async_trait::async_trait;
use yiqiu_base::{Problem, http::TokenExchange, secret::Secret};
use yiqiu_proto::{
    call::Caller,
    link::Link,
    projects::{AuthenticateRequest, projects_client::ProjectsClient},
    status::from_status,
};

/// Asks Projects over a link.
pub struct Exchange {
    projects: ProjectsClient<Link>,
    caller: Caller,
}

impl Exchange {
    /// Asks over this link, in the name of a tier of this process.
    pub fn new(projects: Link, caller: Caller) -> Self {
        Self { projects: ProjectsClient::new(projects), caller }
    }
}

#[async_trait]
impl TokenExchange for Exchange {
    async fn exchange(&self, token: &Secret) -> Result<String, Problem> {
        let request = self.caller.request(AuthenticateRequest { token: token.reveal().to_owned() });
        let answer = self.projects.clone().authenticate(request).await.map_err(from_status)?;
        Ok(answer.into_inner().principal)
    }
}
