//! The usage report of a project.

use yiqiu_base::{Principal, Problem, clock::Ms, database::problem, principal::Role};

use super::Service;
use crate::{
    effect::BUCKET_MS,
    instant,
    model::Project,
    report::{self, Report},
    store::{binding, project, segment, usage},
};

/// A period as asked for; what is absent is filled in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Period {
    /// Its first millisecond; the minute in which the project was made, if absent.
    pub from_ms: Option<Ms>,
    /// The first millisecond after it; now, if absent.
    pub to_ms: Option<Ms>,
}

/// A report with whose it is.
#[derive(Debug, Clone)]
pub struct ProjectReport {
    /// Whose.
    pub project: Project,
    /// What.
    pub report: Report,
}

impl Service {
    /// The report of a project: of any for ops, also of a deleted one by its id; of its own for a tenant, which need not
    /// name it. `invalid_argument` for a period that ends before it begins.
    pub async fn usage_report(
        &self,
        principal: &Principal,
        text: Option<&str>,
        period: Period,
    ) -> Result<ProjectReport, Problem> {
        let project = match (text, principal.role) {
            (Some(text), Role::Ops) => project::project_ever(self.0.database.read(), text)
                .await
                .map_err(problem)?
                .ok_or_else(|| Problem::not_found("project", text))?,
            (Some(text), Role::Tenant | Role::Service) => self.visible_project(principal, text).await?,
            (None, _) => self.own_project(principal).await?,
        };
        let now = self.now();
        let to_ms = period.to_ms.unwrap_or(now);
        // A whole minute, so that what is used in the first one counts; nothing was claimed before.
        let first = project.created_ms - project.created_ms.rem_euclid(BUCKET_MS);
        let from_ms = period.from_ms.unwrap_or_else(|| first.min(to_ms));
        if from_ms > to_ms {
            let (from, to) = (instant::shown_as(from_ms), instant::shown_as(to_ms));
            return Err(Problem::invalid(format!("the period ends at {to}, before it begins at {from}")));
        }

        let (read, owner) = (self.0.database.read(), project.owner());
        let bindings = binding::binding_of_owner(read, &owner).await.map_err(problem)?;
        let held = segment::segment_lines(read, &owner).await.map_err(problem)?;
        let segments = segment::segment_of_owner(read, &owner, from_ms, to_ms).await.map_err(problem)?;
        let used = usage::usage_of_owner(read, &owner, from_ms, to_ms).await.map_err(problem)?;
        let mut shares = Vec::new();
        for share in report::shares(&owner, &held, &bindings) {
            let actual = if share.is_whole() {
                used.get(&share.line).copied().unwrap_or_default()
            } else {
                let (since, until) = (share.from_ms.max(from_ms), share.to_ms.min(to_ms));
                usage::usage_of_line(read, share.line, since, until).await.map_err(problem)?
            };
            shares.push((share, actual));
        }
        Ok(ProjectReport { project, report: report::report(from_ms, to_ms, now, shares, &segments) })
    }
}
