//! Projects and who is in them.

use yiqiu_base::{Code, Principal, Problem, database::problem, idempotency::Key, outbox::NewEvent, principal::Role};

use super::{Made, Service, check_name, in_use, key};
use crate::{
    model::{Member, MemberChanged, Project, ProjectChanged, ProjectId},
    store::{exists, keep, kept, member, project, segment, taken, token, user},
};

impl Service {
    /// A new project; by ops.
    pub async fn project_create(
        &self,
        principal: &Principal,
        given: Option<&str>,
        name: &str,
    ) -> Result<Project, Problem> {
        principal.require_ops()?;
        check_name("project", name)?;
        let key = key(principal, "project", given, &name)?;
        let made = self.project_make(key.as_ref(), name).await;
        match self.settle(key.as_ref(), made).await? {
            Made::Now(project) => Ok(project),
            Made::Before(id) => self.project_get(principal, &id).await,
        }
    }

    async fn project_make(&self, key: Option<&Key>, name: &str) -> Result<Made<Project>, Problem> {
        let now = self.now();
        let mut change = self.begin().await?;
        if let Some(before) = kept(&*change, key).await? {
            return Ok(Made::Before(before));
        }
        if project::project_get(&*change, name).await.map_err(problem)?.is_some() {
            return Err(exists("project", name));
        }
        let made = Project { id: ProjectId::new(), name: name.to_owned(), created_ms: now, deleted_ms: None };
        project::project_insert(&*change, &made).await.map_err(|error| taken(error, "project", name))?;
        keep(&change, key, made.id.to_string(), now).await?;
        change.emit(NewEvent::new(now, "project.created", &made.owner(), made.id, &changed(&made)));
        change.commit().await.map_err(problem)?;
        Ok(Made::Now(made))
    }

    /// One project: any for ops, its own for a tenant.
    pub async fn project_get(&self, principal: &Principal, text: &str) -> Result<Project, Problem> {
        self.visible_project(principal, text).await
    }

    /// Projects by name: all for ops, its own for a tenant.
    pub async fn project_list(&self, principal: &Principal, after: &str, limit: u64) -> Result<Vec<Project>, Problem> {
        match principal.role {
            Role::Ops => project::project_list(self.0.database.read(), after, limit).await.map_err(problem),
            Role::Tenant => {
                let own = self.own_project(principal).await?;
                Ok(if own.name.as_str() > after { vec![own] } else { Vec::new() })
            }
            Role::Service => Err(not_a_service(principal)),
        }
    }

    /// Deletes a project; by ops. `in_use` while it has members, good tokens, or claims that are still metered. What it
    /// used stays, for reports by its id.
    pub async fn project_delete(&self, principal: &Principal, text: &str) -> Result<(), Problem> {
        principal.require_ops()?;
        let now = self.now();
        let mut change = self.begin().await?;
        let found = project::project_lock(&*change, text).await.map_err(problem)?;
        let found = found.ok_or_else(|| Problem::not_found("project", text))?;
        let members = project::project_members(&*change, found.id).await.map_err(problem)?;
        let tokens = project::project_tokens(&*change, found.id, now).await.map_err(problem)?;
        let claims = segment::segment_open_count(&*change, &found.owner()).await.map_err(problem)?;
        let uses = [("members", members), ("tokens", tokens), ("claims of contracts", claims)];
        let hint = "release its contracts, revoke its tokens and take out its members first";
        in_use("project", &found.name, &uses, hint)?;
        project::project_delete(&*change, found.id, now).await.map_err(problem)?;
        change.emit(NewEvent::new(now, "project.deleted", &found.owner(), found.id, &changed(&found)));
        change.commit().await.map_err(problem)
    }

    /// Puts a user into a project; by ops.
    pub async fn member_add(
        &self,
        principal: &Principal,
        given: Option<&str>,
        project: &str,
        user: &str,
        role: Role,
    ) -> Result<Member, Problem> {
        principal.require_ops()?;
        if role != Role::Tenant {
            return Err(Problem::invalid(format!("`{}` is not a role in a project: expected tenant", role.as_str())));
        }
        let key = key(principal, "member", given, &(project, user, role))?;
        let made = self.member_make(key.as_ref(), project, user, role).await;
        match self.settle(key.as_ref(), made).await? {
            Made::Now(member) => Ok(member),
            Made::Before(_) => {
                let (project, user) =
                    (self.project_get(principal, project).await?, self.user_get(principal, user).await?);
                let found = member::member_hold(self.0.database.read(), project.id, user.id).await.map_err(problem)?;
                found.ok_or_else(|| Problem::not_found("member", &user.name))
            }
        }
    }

    async fn member_make(
        &self,
        key: Option<&Key>,
        project: &str,
        user: &str,
        role: Role,
    ) -> Result<Made<Member>, Problem> {
        let now = self.now();
        let mut change = self.begin().await?;
        if let Some(before) = kept(&*change, key).await? {
            return Ok(Made::Before(before));
        }
        let found = project::project_hold(&*change, project).await.map_err(problem)?;
        let project = found.ok_or_else(|| Problem::not_found("project", project))?;
        let found = user::user_get(&*change, user).await.map_err(problem)?;
        let user = found.ok_or_else(|| Problem::not_found("user", user))?;
        let there = || exists(&format!("member of project `{}` named", project.name), &user.name);
        if member::member_hold(&*change, project.id, user.id).await.map_err(problem)?.is_some() {
            return Err(there());
        }
        let made = Member { user: user.id, user_name: user.name.clone(), role, created_ms: now };
        member::member_insert(&*change, project.id, &made).await.map_err(|error| match taken(error, "", "") {
            duplicate if duplicate.code == Code::AlreadyExists => there(),
            other => other,
        })?;
        keep(&change, key, user.id.to_string(), now).await?;
        let event = member_changed(project.id, &made);
        change.emit(NewEvent::new(now, "member.added", &project.owner(), project.id, &event));
        change.commit().await.map_err(problem)?;
        Ok(Made::Now(made))
    }

    /// The members of a project, by name: of any for ops, of its own for a tenant.
    pub async fn member_list(
        &self,
        principal: &Principal,
        project: &str,
        after: &str,
        limit: u64,
    ) -> Result<Vec<Member>, Problem> {
        let project = self.visible_project(principal, project).await?;
        member::member_list(self.0.database.read(), project.id, after, limit).await.map_err(problem)
    }

    /// Takes a user out of a project, and revokes its tokens for it; by ops.
    pub async fn member_remove(&self, principal: &Principal, project: &str, user: &str) -> Result<(), Problem> {
        principal.require_ops()?;
        let now = self.now();
        let mut change = self.begin().await?;
        let found = project::project_hold(&*change, project).await.map_err(problem)?;
        let project = found.ok_or_else(|| Problem::not_found("project", project))?;
        let missing = || Problem::not_found("member", user);
        // Held against a token that is being made for it at this moment.
        let found = user::user_lock(&*change, user).await.map_err(problem)?.ok_or_else(missing)?;
        let member = member::member_hold(&*change, project.id, found.id).await.map_err(problem)?.ok_or_else(missing)?;
        if !member::member_delete(&*change, project.id, found.id).await.map_err(problem)? {
            return Err(missing());
        }
        for token in token::token_active_of(&*change, found.id, project.id, now).await.map_err(problem)? {
            // What ops made for itself in a project does not hang on membership.
            if token.role == Role::Tenant {
                super::tokens::revoke(&mut change, token, now).await?;
            }
        }
        let event = member_changed(project.id, &member);
        change.emit(NewEvent::new(now, "member.removed", &project.owner(), project.id, &event));
        change.commit().await.map_err(problem)
    }
}

pub(super) fn not_a_service(principal: &Principal) -> Problem {
    Problem::new(
        Code::PermissionDenied,
        format!("{} has the role service: this needs the role ops or tenant", principal.subject),
    )
}

fn changed(project: &Project) -> ProjectChanged {
    let Project { id, name, created_ms: _, deleted_ms: _ } = project;
    ProjectChanged { project_id: id.to_string(), name: name.clone() }
}

fn member_changed(project: ProjectId, member: &Member) -> MemberChanged {
    let Member { user, user_name, role, created_ms: _ } = member;
    MemberChanged {
        project_id: project.to_string(),
        user_id: user.to_string(),
        user_name: user_name.clone(),
        role: *role,
    }
}
