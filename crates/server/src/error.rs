use std::path::PathBuf;

use jiff::Timestamp;
use levee_model::{AgentId, AppName, RunId, SiteName};
use levee_plan::{PlanId, StepId};

/// What can go wrong in the server. The text of an error, and of its sources, never holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    #[error("cannot {doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is in use by another levee server; stop that one first", path.display())]
    FolderInUse { path: PathBuf },
    #[error("cannot {doing} in the server's state; check the disk that holds the server's folder")]
    State { doing: &'static str, source: rusqlite::Error },
    #[error(
        "cannot {doing} in the server's state: the disk that holds the server's folder is full; free some space and try \
         again, nothing of it was kept"
    )]
    StateFull { doing: &'static str, source: rusqlite::Error },
    #[error("the server's state holds a record that cannot be read ({key}); restore the folder from a backup")]
    Damaged { key: String, source: serde_json::Error },
    #[error("the server's state was written by a newer levee (format {found}, this one knows {known}); update levee")]
    NewerFormat { found: i64, known: i64 },
    #[error("the state kept changing while {doing}; try again")]
    Contended { doing: &'static str },
    #[error("the changes before revision {oldest} are no longer kept; read the whole state, then watch from there")]
    Compacted { oldest: u64 },
    #[error("cannot listen on {address} for {what}")]
    Listen { what: &'static str, address: std::net::SocketAddr, source: std::io::Error },
    #[error("the link to the agents failed")]
    Wire(#[from] levee_wire::Error),
    #[error("the DNS node failed")]
    Traffic(#[from] levee_traffic::TrafficError),
    #[error("the server is shutting down; try again in a moment")]
    ShuttingDown,

    #[error("this call needs a token: send it as `Authorization: Bearer …`, or set LEVEE_TOKEN")]
    NoToken,
    #[error("the token is unknown, was revoked, or has expired; ask for a new one")]
    BadToken,
    #[error("the token {name} may only read; use one that may change things")]
    ReadOnlyToken { name: String },
    #[error("there is no token {id}; `levee token list` shows them")]
    UnknownToken { id: String },
    #[error("the token {id} is the last one that may change things; create another one before revoking it")]
    LastAdminToken { id: String },

    #[error("there is no app {app}; `levee app list` shows them")]
    UnknownApp { app: AppName },
    #[error("no warning stands for {asset} of {app}; `levee status` shows those that do")]
    NoWarning { app: AppName, asset: levee_model::AssetName },
    #[error(
        "there is no site {site}: no agent has joined there yet; make a join token for it and start an agent there"
    )]
    UnknownSite { site: SiteName },
    #[error(
        "app {app} names the site {site}, where no agent has joined; check the name, or let an agent join there first"
    )]
    UnknownSiteInFile { app: AppName, site: SiteName },
    #[error("there is no agent {agent}; `levee agent list` shows them")]
    UnknownAgent { agent: AgentId },
    #[error("the agent {agent} is one of site {site} already; join with another name, or revoke it first")]
    AgentOfOtherSite { agent: AgentId, site: SiteName },
    #[error(
        "the agent {agent} was revoked: join with a new token, another name and another folder; what the old folder keeps stays there"
    )]
    RevokedAgent { agent: AgentId },
    #[error("there is no run {run}; `levee run list` shows them")]
    UnknownRun { run: RunId },
    #[error(
        "there is no plan {plan}: a plan is kept for an hour after it was last looked at; make a new one with --dry-run"
    )]
    UnknownPlan { plan: PlanId },
    #[error("{given:?} stands for more than one plan; give more of its characters")]
    AmbiguousPlan { given: String },
    #[error("plan {plan} of {app} is stale: the app has changed since it was made; make a new one with --dry-run")]
    StalePlan { plan: PlanId, app: AppName },
    #[error(
        "plan {plan} of {app} takes {site} to be down, and its agent is connected again; make a new plan, which stops the app there"
    )]
    OldSiteIsBack { plan: PlanId, app: AppName, site: SiteName },
    #[error(
        "run {run} ({kind}) of {app} is under way, and only one can be at a time; follow it with `levee run watch {run}`, or end it with `levee run abort {run}`"
    )]
    AppBusy { app: AppName, run: RunId, kind: &'static str },
    #[error(
        "run {run} holds {app}, which cannot be changed meanwhile, and this server does not carry it out; try again in a moment, and if that stays so, restart the server: it takes the run up again, or lets {app} go when nothing is left of the run"
    )]
    AppHeld { app: AppName, run: RunId },
    #[error(
        "step {step} of run {run} cannot be skipped now: agent {agent} is connected and at work on it; wait for its answer, or stop that agent first"
    )]
    StillAtWork { run: RunId, step: StepId, agent: AgentId },
    #[error(
        "run {run} cannot be given up: agent {agent} at {site} is connected, so {site} is not down. Retry what hangs, or make sure that it is down: end its databases and its agent"
    )]
    NewSiteIsThere { run: RunId, site: SiteName, agent: AgentId },
    #[error(
        "the sites of {app} cannot be changed from {old} to {new} while it is protected; apply the old sites, or protect it under another name"
    )]
    SitesChanged { app: AppName, old: String, new: String },
    #[error("the asset {asset} of {app} was {old} and cannot become {new}; give it another name")]
    KindChanged { app: AppName, asset: String, old: &'static str, new: &'static str },
    #[error("the DNS name {name} belongs to {owner} already; give the entry of {app} another name")]
    EntryTaken { name: String, owner: AppName, app: AppName },
    #[error("the removal of {app} is not confirmed: repeat its name")]
    NotConfirmed { app: AppName },
    #[error(
        "{app} cannot be removed while {asset} is protected with zero loss: its commits wait for Levee, and would wait for ever. Say `zero_loss = false` in the protection file and apply it, then take Levee out of `synchronous_standby_names` of the database and reload, and try again"
    )]
    CommitsWait { app: AppName, asset: levee_model::AssetName },
    #[error(
        "{asset} cannot be taken out of the protection file of {app} while it is protected with zero loss: its commits wait for Levee, and would wait for ever. Leave it in, say `zero_loss = false` and apply that, then take Levee out of `synchronous_standby_names` of the database and reload, and only then take it out"
    )]
    AssetCommitsWait { app: AppName, asset: levee_model::AssetName },
    #[error("the {kind} of {app} cannot be at {asked}: its copies are at {to}; leave --to out, or say --to {to}")]
    OtherSite { kind: &'static str, app: AppName, asked: SiteName, to: SiteName },
    #[error("{app} needs a site to move to: say --to SITE")]
    NoTarget { app: AppName },
    #[error("the time {at} is in the past or too far away; give a time from now, up to 30 days")]
    BadExpiry { at: Timestamp },
    #[error(transparent)]
    Name(#[from] levee_model::InvalidName),
    #[error(transparent)]
    Plan(#[from] levee_plan::PlanError),
    #[error(transparent)]
    Run(#[from] levee_plan::RunError),
    #[error("cannot make the backup: {why}")]
    Backup { why: String },
}

pub type Result<T, E = ServerError> = std::result::Result<T, E>;

/// Which sort of answer an error is, for callers over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 401
    Unauthenticated,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 409: the state does not allow it now.
    Conflict,
    /// 422: what was asked for makes no sense.
    Invalid,
    /// 503
    Unavailable,
    /// 500: the server's own trouble; show `code` and log the rest.
    Internal,
}

impl ServerError {
    pub fn kind(&self) -> ErrorKind {
        use ServerError as E;
        match self {
            E::NoToken | E::BadToken => ErrorKind::Unauthenticated,
            E::ReadOnlyToken { .. } => ErrorKind::Forbidden,
            E::UnknownToken { .. }
            | E::UnknownApp { .. }
            | E::NoWarning { .. }
            | E::UnknownSite { .. }
            | E::UnknownAgent { .. }
            | E::UnknownRun { .. }
            | E::UnknownPlan { .. } => ErrorKind::NotFound,
            E::LastAdminToken { .. }
            | E::AgentOfOtherSite { .. }
            | E::RevokedAgent { .. }
            | E::StalePlan { .. }
            | E::OldSiteIsBack { .. }
            | E::AppBusy { .. }
            | E::AppHeld { .. }
            | E::StillAtWork { .. }
            | E::NewSiteIsThere { .. }
            | E::SitesChanged { .. }
            | E::KindChanged { .. }
            | E::EntryTaken { .. }
            | E::Contended { .. }
            | E::CommitsWait { .. }
            | E::AssetCommitsWait { .. }
            | E::Plan(_)
            | E::Run(_) => ErrorKind::Conflict,
            E::UnknownSiteInFile { .. }
            | E::AmbiguousPlan { .. }
            | E::NoTarget { .. }
            | E::OtherSite { .. }
            | E::NotConfirmed { .. }
            | E::BadExpiry { .. }
            | E::Name(_)
            | E::Backup { .. } => ErrorKind::Invalid,
            E::ShuttingDown | E::Compacted { .. } => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        }
    }

    /// What the state's database has said.
    pub(crate) fn state(doing: &'static str) -> impl Fn(rusqlite::Error) -> Self + Copy {
        move |source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::StateFull { doing, source },
            _ => Self::State { doing, source },
        }
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        use ServerError as E;
        match self {
            E::File { .. } | E::State { .. } | E::StateFull { .. } | E::Damaged { .. } | E::NewerFormat { .. } => {
                "state"
            }
            E::FolderInUse { .. } => "folder_in_use",
            E::Contended { .. } => "contended",
            E::Compacted { .. } => "compacted",
            E::Listen { .. } => "listen",
            E::Wire(_) => "wire",
            E::Traffic(_) => "dns",
            E::ShuttingDown => "shutting_down",
            E::NoToken => "no_token",
            E::BadToken => "bad_token",
            E::ReadOnlyToken { .. } => "read_only_token",
            E::UnknownToken { .. } => "unknown_token",
            E::LastAdminToken { .. } => "last_admin_token",
            E::UnknownApp { .. } => "unknown_app",
            E::NoWarning { .. } => "no_warning",
            E::UnknownSite { .. } | E::UnknownSiteInFile { .. } => "unknown_site",
            E::UnknownAgent { .. } => "unknown_agent",
            E::AgentOfOtherSite { .. } => "agent_of_other_site",
            E::RevokedAgent { .. } => "revoked_agent",
            E::UnknownRun { .. } => "unknown_run",
            E::UnknownPlan { .. } => "unknown_plan",
            E::AmbiguousPlan { .. } => "ambiguous_plan",
            E::StalePlan { .. } => "stale_plan",
            E::OldSiteIsBack { .. } => "old_site_is_back",
            E::AppBusy { .. } => "app_busy",
            E::AppHeld { .. } => "app_held",
            E::StillAtWork { .. } => "still_at_work",
            E::NewSiteIsThere { .. } => "new_site_is_there",
            E::SitesChanged { .. } => "sites_changed",
            E::KindChanged { .. } => "kind_changed",
            E::EntryTaken { .. } => "entry_taken",
            E::NotConfirmed { .. } => "not_confirmed",
            E::CommitsWait { .. } | E::AssetCommitsWait { .. } => "commits_wait",
            E::NoTarget { .. } => "no_target",
            E::OtherSite { .. } => "other_site",
            E::BadExpiry { .. } => "bad_expiry",
            E::Name(_) => "invalid_name",
            E::Plan(_) => "cannot_plan",
            E::Run(_) => "run_refuses",
            E::Backup { .. } => "backup",
        }
    }
}
