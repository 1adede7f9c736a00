//! Tokens, and the principals that they are traded for.

use yiqiu_base::{
    Code, Principal, Problem,
    clock::Ms,
    database::{Transaction, problem},
    idempotency::Key,
    outbox::NewEvent,
    principal::{LIFETIME_MS, Role},
    secret::Secret,
};

use super::{Made, Service, check_name, check_role, key, projects::not_a_service};
use crate::{
    lifecycle::{TokenState, token_end},
    model::{NewToken, Project, Token, TokenChanged, TokenId, TokenRequest, User, owner_label},
    store::{
        exists, keep, kept, member, project,
        token::{self, Scope, Standing},
        user,
    },
};

/// What every token begins with.
pub(super) const PREFIX: &str = "yqt_";

impl Service {
    /// Trades a token for a signed principal that holds a minute, or as long as the token if that is less.
    /// `unauthenticated`, without telling which, for one that is unknown, expired or revoked, or whose user may not do
    /// any more what it says.
    pub async fn authenticate(&self, secret: &Secret) -> Result<String, Problem> {
        let refused = || {
            let told = "the token is refused: it is unknown, expired or revoked";
            Problem::new(Code::Unauthenticated, told)
        };
        if !secret.reveal().starts_with(PREFIX) {
            return Err(refused());
        }
        let now = self.credentials_now();
        let standing = token::token_by_hash(self.0.database.read(), &secret.hash()).await.map_err(problem)?;
        let Standing { token, ops, member, living } = standing.ok_or_else(refused)?;
        let project_good = token.project.is_none() || living;
        let stands = match token.role {
            Role::Ops => ops && project_good,
            Role::Tenant => member && living,
            Role::Service => false,
        };
        if token.state(now) != TokenState::Active || !stands {
            return Err(refused());
        }
        Ok(self.0.signer.sign(&Principal {
            subject: format!("user:{}", token.user_name),
            role: token.role,
            owner: token.project.map(owner_label).unwrap_or_default(),
            expires_ms: token.expires_ms.min(now + LIFETIME_MS),
            token: Some(token.id.uuid()),
        }))
    }

    /// A new token: any for ops; for a tenant one of its own user, in its own project, in the role tenant, which ends
    /// with the token that asks at the latest and is revoked with it. The secret is in this answer only: the same
    /// request again finds the token without it.
    pub async fn token_create(
        &self,
        principal: &Principal,
        given: Option<&str>,
        request: TokenRequest,
    ) -> Result<NewToken, Problem> {
        let key = key(principal, "token", given, &request)?;
        let made = self.token_make(principal, key.as_ref(), request).await;
        match self.settle(key.as_ref(), made).await? {
            Made::Now(made) => Ok(made),
            Made::Before(id) => Ok(NewToken { token: self.token_get(principal, &id).await?, secret: None }),
        }
    }

    async fn token_make(
        &self,
        principal: &Principal,
        key: Option<&Key>,
        request: TokenRequest,
    ) -> Result<Made<NewToken>, Problem> {
        let TokenRequest { name, user, role, project, ttl_ms, expires_ms } = request;
        let now = self.now();
        let asked_end = token_end(ttl_ms, expires_ms, self.credentials_now())?;
        let role = role.unwrap_or(match (principal.role, &project) {
            (Role::Ops, None) => Role::Ops,
            (Role::Ops | Role::Tenant | Role::Service, _) => Role::Tenant,
        });
        check_role(role)?;
        let (user, project) = match (principal.role, user) {
            (Role::Ops, Some(user)) => (user, project),
            (Role::Ops, None) => (self.asking_user(principal).await?.name, project),
            (Role::Tenant, user) => {
                let own = self.asking_user(principal).await?;
                if user.is_some_and(|user| user != own.name && user != own.id.to_string()) {
                    return Err(Problem::new(Code::PermissionDenied, "a tenant makes tokens for itself only"));
                }
                (own.name, Some(self.tenant_asks(principal, role, project).await?))
            }
            (Role::Service, _) => return Err(not_a_service(principal)),
        };

        let mut change = self.begin().await?;
        if let Some(before) = kept(&*change, key).await? {
            return Ok(Made::Before(before));
        }
        let project = match project {
            Some(text) => {
                let found = project::project_hold(&*change, &text).await.map_err(problem)?;
                Some(found.ok_or_else(|| Problem::not_found("project", &text))?)
            }
            None => None,
        };
        let found = user::user_lock(&*change, &user).await.map_err(problem)?;
        let user = found.ok_or_else(|| Problem::not_found("user", &user))?;
        self.may_hold(&change, &user, role, project.as_ref()).await?;
        let parent = match principal.role {
            Role::Tenant => Some(asking_token(&change, principal, now).await?),
            Role::Ops | Role::Service => None, // ops may renew what ends, and make tokens that outlive theirs
        };
        let expires_ms = parent.as_ref().map_or(asked_end, |parent| asked_end.min(parent.expires_ms));
        let id = TokenId::new();
        let name = match name {
            Some(name) => {
                check_name("token", &name)?;
                if token::token_name_taken(&*change, user.id, &name, now).await.map_err(problem)? {
                    return Err(exists(&format!("token of user `{}` named", user.name), &name));
                }
                name
            }
            None => format!("token-{id}"),
        };
        let made = Token {
            id,
            name,
            user: user.id,
            user_name: user.name,
            role,
            project: project.as_ref().map(|p| p.id),
            project_name: project.map(|p| p.name),
            created_ms: now,
            expires_ms,
            revoked_ms: None,
            parent: parent.map(|parent| parent.id),
        };
        let secret = Secret::generate(PREFIX);
        token::token_insert(&*change, &made, &secret.hash()).await.map_err(problem)?;
        keep(&change, key, made.id.to_string(), now).await?;
        tell(&mut change, "token.created", &made, now);
        change.commit().await.map_err(problem)?;
        Ok(Made::Now(NewToken { token: made, secret: Some(secret) }))
    }

    /// What a tenant may ask for; returns its project.
    async fn tenant_asks(&self, principal: &Principal, role: Role, project: Option<String>) -> Result<String, Problem> {
        if role != Role::Tenant {
            return Err(Problem::new(Code::PermissionDenied, "a tenant makes tokens of the role tenant only"));
        }
        let own = self.own_project(principal).await?;
        if let Some(text) = project {
            self.visible_project(principal, &text).await?;
        }
        Ok(own.id.to_string())
    }

    /// Whether a user may hold a token of this role and project.
    async fn may_hold(
        &self,
        change: &Transaction,
        user: &User,
        role: Role,
        project: Option<&Project>,
    ) -> Result<(), Problem> {
        match (role, project) {
            (Role::Ops, _) if user.ops => Ok(()),
            (Role::Ops, _) => Err(Problem::new(
                Code::WrongState,
                format!("user `{}` is not ops: it cannot hold a token of the role ops", user.name),
            )),
            (Role::Tenant, None) => Err(Problem::invalid("a token of the role tenant needs a project")),
            (Role::Tenant, Some(project)) => {
                let member = member::member_hold(&**change, project.id, user.id).await.map_err(problem)?;
                member.map(|_| ()).ok_or_else(|| {
                    Problem::new(
                        Code::WrongState,
                        format!("user `{}` is not in project `{}`: add it first", user.name, project.name),
                    )
                })
            }
            (Role::Service, _) => check_role(role),
        }
    }

    /// One token by id or name: any for ops, its own for a tenant.
    pub async fn token_get(&self, principal: &Principal, text: &str) -> Result<Token, Problem> {
        let scope = self.token_scope(principal).await?;
        let now = self.credentials_now();
        let found = token::token_find(self.0.database.read(), scope, text, now).await.map_err(problem)?;
        let good = |token: &Token| token.state(now) == TokenState::Active;
        let mut found = found.into_iter();
        match (found.next(), found.next()) {
            (None, _) => Err(Problem::not_found("token", text)),
            (Some(token), None) => Ok(token),
            (Some(token), Some(other)) if good(&token) && !good(&other) => Ok(token),
            (Some(_), Some(_)) => Err(Problem::invalid(format!(
                "several users have a token named `{}`: give its id",
                yiqiu_base::name::shown(text)
            ))),
        }
    }

    /// Tokens, oldest first: all for ops, its own for a tenant. Secrets are never in it.
    pub async fn token_list(
        &self,
        principal: &Principal,
        after: Option<TokenId>,
        limit: u64,
    ) -> Result<Vec<Token>, Problem> {
        let scope = self.token_scope(principal).await?;
        token::token_list(self.0.database.read(), scope, after, limit).await.map_err(problem)
    }

    /// Takes a token back, and what was made with it: any for ops, its own for a tenant. Asking again is the same as
    /// once. Principals that it was traded for may hold on for a minute.
    pub async fn token_revoke(&self, principal: &Principal, text: &str) -> Result<(), Problem> {
        let found = self.token_get(principal, text).await?;
        let now = self.now();
        let mut change = self.begin().await?;
        revoke(&mut change, found, now).await?;
        change.commit().await.map_err(problem)
    }

    async fn token_scope(&self, principal: &Principal) -> Result<Scope, Problem> {
        match principal.role {
            Role::Ops => Ok(Scope::All),
            Role::Tenant => {
                let (user, project) = (self.asking_user(principal).await?, self.own_project(principal).await?);
                Ok(Scope::Own(user.id, project.id))
            }
            Role::Service => Err(not_a_service(principal)),
        }
    }
}

/// The token that a tenant asks with, if it is still good; it stays so until the transaction ends.
async fn asking_token(change: &Transaction, principal: &Principal, now: Ms) -> Result<Token, Problem> {
    let found = match principal.token {
        Some(id) => token::token_hold(&**change, id.into()).await.map_err(problem)?,
        None => None,
    };
    found.filter(|token| token.state(now) == TokenState::Active).ok_or_else(|| {
        Problem::new(Code::Unauthenticated, "the token that asks is expired or revoked: it makes no other")
    })
}

/// Takes a token back, then what was made with it, and so on. Each is changed before its children are looked for: one
/// that is being made holds its parent, and is seen after that.
pub(super) async fn revoke(change: &mut Transaction, token: Token, now: Ms) -> Result<(), Problem> {
    let mut left = vec![token];
    while let Some(token) = left.pop() {
        if token::token_revoke(&**change, token.id, now).await.map_err(problem)? {
            tell(change, "token.revoked", &token, now);
        }
        left.extend(token::token_children(&**change, token.id).await.map_err(problem)?);
    }
    Ok(())
}

/// Adds the event of a token.
pub(super) fn tell(change: &mut Transaction, kind: &'static str, token: &Token, now: Ms) {
    let owner = token.project.map(owner_label).unwrap_or_default();
    let event = TokenChanged {
        token_id: token.id.to_string(),
        name: token.name.clone(),
        user_name: token.user_name.clone(),
        role: token.role,
        expires_ms: token.expires_ms,
    };
    change.emit(NewEvent::new(now, kind, &owner, token.id, &event));
}
