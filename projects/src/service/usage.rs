//! The usage report of a project.

use std::{collections::BTreeSet, time::Duration};

use yiqiu_base::{Code, Id, Principal, Problem, clock::Ms, database::problem, ledger, principal::Role};
use yiqiu_proto::{
    common::{self, FindingsRequest, FindingsResponse},
    status::from_status,
};

use super::Service;
use crate::{
    effect::BUCKET_MS,
    instant,
    ledger::Comparer,
    model::{LineId, Project},
    report::{self, Finding, Report},
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
    /// What its findings rest on.
    pub audited: Audited,
}

/// How far findings can be relied on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audited {
    /// When the newest audit of every host ended.
    pub at_ms: Option<Ms>,
    /// Why findings may be missing; empty if none are.
    pub unknown: String,
}

/// How many lines one question for findings names.
const LINES_AT_ONCE: usize = 1000;
/// How long a report waits for what another tier found.
const PATIENCE: Duration = Duration::from_secs(5);

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
        let holders = {
            let shares: Vec<_> = shares.iter().map(|(share, _)| share.clone()).collect();
            let open: BTreeSet<LineId> =
                segments.iter().filter(|segment| segment.to_ms.is_none()).map(|segment| segment.line).collect();
            let mut holders = report::holders(&shares);
            holders.retain(|line, _| open.contains(line));
            holders
        };
        let mut report = report::report(from_ms, to_ms, now, shares, &segments);
        let (audited, findings) = self.findings(&holders.keys().copied().collect::<Vec<_>>()).await;
        report.attach(&holders, findings);
        Ok(ProjectReport { project, report, audited })
    }

    /// What every tier knows to be amiss with these lines. A tier that does not answer makes no report fail.
    async fn findings(&self, lines: &[LineId]) -> (Audited, Vec<(LineId, Finding)>) {
        let (mut audited, mut found, mut unknown) = (Audited::default(), Vec::new(), Vec::new());
        match self.findings_of("resources", lines).await {
            Ok((0, _)) => unknown.push("no audit of every host has ended yet".to_owned()),
            Ok((at_ms, findings)) => {
                audited.at_ms = Some(at_ms);
                found.extend(findings);
            }
            Err(problem) => unknown.push(format!("Resources could not be asked: {}", problem.detail)),
        }
        match self.findings_of("components", lines).await {
            Ok((_, findings)) => found.extend(findings),
            Err(problem) => unknown.push(format!("Components could not be asked: {}", problem.detail)),
        }
        let here = self.comparer().ledger.last();
        found.extend(here.findings.into_iter().filter(|finding| lines.contains(&finding.difference.line_id)).map(
            |finding| {
                let ledger::Finding { kind, tier, at_ms, difference } = finding;
                let (kind, host_name) = (kind.to_owned(), String::new());
                (difference.line_id, Finding { kind, tier, at_ms, host_name, detail: difference.detail })
            },
        ));
        audited.unknown = unknown.join("; ");
        (audited, found)
    }

    /// What one other tier found, and when.
    async fn findings_of(&self, tier: &'static str, lines: &[LineId]) -> Result<(Ms, Vec<(LineId, Finding)>), Problem> {
        let Comparer { resources, components, caller, .. } = self.comparer();
        let (mut at, mut found) = (0, Vec::new());
        // Also without lines: when the newest audit ended is said in any case.
        let all = lines.chunks(LINES_AT_ONCE).chain(lines.is_empty().then_some(lines));
        for chunk in all {
            let line_ids = chunk.iter().map(ToString::to_string).collect();
            let request = caller.request(FindingsRequest { line_ids });
            let (mut resources, mut components) = (resources.clone(), components.clone());
            let answer = async {
                if tier == "resources" { resources.findings(request).await } else { components.findings(request).await }
            };
            let late = || Problem::new(Code::Unavailable, "it does not answer in time");
            let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| late())?.map_err(from_status)?;
            let FindingsResponse { at_ms, findings } = answer.into_inner();
            at = at_ms;
            for common::Finding { kind, line_id, host_name, name: _, detail, at_ms } in findings {
                found.push((Id::parse(&line_id)?, Finding { kind, tier, at_ms, host_name, detail }));
            }
        }
        Ok((at, found))
    }
}
