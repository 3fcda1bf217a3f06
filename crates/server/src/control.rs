//! Everything that an operator can ask of the server, as methods. The HTTP layer is a thin skin on it.

mod caller;

use std::sync::Arc;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use levee_model::protection::ProtectionFile;
use levee_model::{AgentId, AppName, AssetName, RunId, SiteName};
use levee_plan::{Event, Plan, Run, StepId};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::config::{Config, app_key};
use crate::error::{Result, ServerError};
use crate::server::{Shared, frozen_key};
use crate::state::{Compare, Op};
use crate::status::{AppFacts, Known};
use crate::{apply, tokens};

pub use caller::{BackupKey, Caller};
pub use levee_api::{
    Acknowledged, AdoptReport, AdoptedView, AgentSummary, AppRemoval, AppStatus, AppView, AppliedApp, ApplyReport,
    AssetView, BackupView, Change, ContactView, EntryView, FleetStatus, GapView, Health, JoinTokenView, PlanRequest,
    Proof, RunFilter, RunOrder, RunSummary, Sample, SetAside, SiteView, TokenAccess, TokenView, VaultCopyView,
};

/// How long a join token works when nothing else is asked for.
const JOIN_TOKEN_VALID: SignedDuration = SignedDuration::from_hours(24);
/// A join token is to be used, not kept.
const JOIN_TOKEN_VALID_MAX: SignedDuration = SignedDuration::from_hours(30 * 24);
const RUNS_LISTED: u32 = 50;
const RUNS_LISTED_MAX: u32 = 1000;
const PROOFS_LISTED: u32 = 100;
const GAPS_SHOWN: u32 = 10;

/// A handle on the running server. Clones share it.
///
/// The calls that change something take the `Caller` that `authenticate` gave, and refuse one that may
/// only look; those that only look take none, since `authenticate` was passed already.
#[derive(Clone)]
pub struct Control(pub(crate) Arc<Shared>);

impl Control {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.0.clone().blocking(work).await
    }

    /// Who a token belongs to. `None` stands for a call without a token.
    pub async fn authenticate(&self, token: Option<&str>) -> Result<Caller> {
        let token = Zeroizing::new(token.ok_or(ServerError::NoToken)?.to_string());
        self.blocking(move |shared| tokens::authenticate(&shared.store, &token, Timestamp::now())).await
    }

    /// The owner of the machine, who needs no token: for a server that runs in the same process.
    pub fn local_caller(&self) -> Caller {
        Caller { token: "local".into(), name: "local".into(), access: TokenAccess::Admin }
    }

    /// Creates and updates apps, all or none. With `dry_run` it only says what would change.
    pub async fn apply(&self, caller: &Caller, file: ProtectionFile, dry_run: bool) -> Result<ApplyReport> {
        may_change(caller)?;
        let by = caller.name.clone();
        self.blocking(move |shared| {
            let begun = Instant::now();
            loop {
                let config = Config::read(&shared.store)?;
                let decided = apply::decide(&config, &shared.runs.open(), &file, Timestamp::now())?;
                if dry_run || shared.store.txn(&decided.compares, &decided.ops)?.succeeded {
                    if !dry_run {
                        tracing::info!(%by, report = ?decided.report, "applied");
                    }
                    return Ok(decided.report);
                }
                shared.wait_to_decide_anew(begun, "the protection file was applied", &decided.compares)?;
            }
        })
        .await
    }

    pub async fn status(&self) -> Result<FleetStatus> {
        self.blocking(|shared| {
            let config = Config::read(&shared.store)?;
            let apps = config
                .apps
                .keys()
                .filter_map(|app| shared.app_status(&config, app).transpose())
                .collect::<Result<Vec<_>>>()?;
            let agents = shared.agents(&config)?;
            let now = Timestamp::now();
            let health = apps.iter().map(|app| app.health).max().unwrap_or(Health::Protected);
            Ok(FleetStatus { now, health, apps, agents })
        })
        .await
    }

    pub async fn app_status(&self, app: &AppName) -> Result<AppStatus> {
        let app = app.clone();
        self.blocking(move |shared| {
            let config = Config::read(&shared.store)?;
            shared.app_status(&config, &app)?.ok_or(ServerError::UnknownApp { app })
        })
        .await
    }

    pub async fn sites(&self) -> Result<Vec<SiteView>> {
        self.known(|known| known.sites()).await
    }

    pub async fn agents(&self) -> Result<Vec<AgentSummary>> {
        self.blocking(|shared| shared.agents(&Config::read(&shared.store)?)).await
    }

    async fn known<T: Send + 'static>(&self, look: impl FnOnce(&Known<'_>) -> T + Send + 'static) -> Result<T> {
        self.blocking(move |shared| {
            let config = Config::read(&shared.store)?;
            let live = shared.hub.snapshot();
            Ok(look(&Known { config: &config, live: &live, now: Timestamp::now() }))
        })
        .await
    }

    pub async fn apps(&self) -> Result<Vec<AppView>> {
        self.blocking(|shared| {
            let (mut open, mut config) = (shared.runs.open(), Config::read(&shared.store)?);
            let apps = std::mem::take(&mut config.apps);
            let view = |(app, record): (AppName, crate::config::Revised<crate::config::AppRecord>)| AppView {
                open_run: open.remove(&app).map(|(run, _)| run),
                app,
                vaults: config.vaults_for(&record.value.spec),
                spec: record.value.spec,
                writer: record.value.writer,
                epoch: record.value.epoch,
                revision: record.revision,
            };
            Ok(apps.into_iter().map(view).collect())
        })
        .await
    }

    pub async fn app(&self, app: &AppName) -> Result<AppView> {
        let found = self.apps().await?.into_iter().find(|view| view.app == *app);
        found.ok_or_else(|| ServerError::UnknownApp { app: app.clone() })
    }

    /// Ends an app's protection. `confirm` is its name once more: nobody removes one by a slip.
    /// An operator has looked at the warning of an asset: it stands no more, and what is there now is what is usual.
    pub async fn acknowledge(&self, caller: &Caller, app: &AppName, asset: &AssetName) -> Result<Acknowledged> {
        may_change(caller)?;
        let (app, asset, by) = (app.clone(), asset.clone(), caller.name.clone());
        self.blocking(move |shared| shared.acknowledge(&app, &asset, &by)).await
    }

    pub async fn app_remove(&self, caller: &Caller, app: &AppName, confirm: &AppName) -> Result<AppRemoval> {
        may_change(caller)?;
        if app != confirm {
            return Err(ServerError::NotConfirmed { app: app.clone() });
        }
        self.0.remove(app.clone(), caller.name.clone()).await
    }

    /// Takes over newer epochs that the agents know, after the server was restored from an older backup.
    pub async fn adopt_epochs(&self, caller: &Caller, dry_run: bool) -> Result<AdoptReport> {
        may_change(caller)?;
        let by = caller.name.clone();
        let report = self.blocking(move |shared| shared.adopt_epochs(&by, dry_run, Timestamp::now())).await?;
        if !dry_run {
            self.0.push_wanted().await;
        }
        Ok(report)
    }

    /// The ages of an app's recovery points since a moment, oldest first. A week of them is kept.
    pub async fn samples(&self, app: &AppName, since: Timestamp) -> Result<Vec<Sample>> {
        self.app(app).await?;
        let app = app.clone();
        self.blocking(move |shared| shared.history.samples(&app, since)).await
    }

    /// What the drills of an app have shown, newest first.
    pub async fn proofs(&self, app: &AppName) -> Result<Vec<Proof>> {
        self.app(app).await?;
        let app = app.clone();
        self.blocking(move |shared| shared.history.proofs(&app, PROOFS_LISTED)).await
    }

    /// Makes a plan and keeps it for an hour, so that exactly it can be run.
    pub async fn plan_only(&self, caller: &Caller, request: PlanRequest) -> Result<Plan> {
        may_change(caller)?;
        let caller = caller.clone();
        self.blocking(move |shared| {
            let plan = shared.make_plan(&caller, &request, Timestamp::now())?;
            shared.keep_plan(&plan)?;
            Ok(plan)
        })
        .await
    }

    /// A plan that was kept, by its id or at least 6 of its first characters.
    pub async fn plan(&self, id: &str) -> Result<Plan> {
        let id = id.to_string();
        self.blocking(move |shared| shared.find_plan(&id)).await
    }

    /// Starts a run and returns it as it stands after its first steps were begun.
    pub async fn create_run(&self, caller: &Caller, order: RunOrder) -> Result<Run> {
        may_change(caller)?;
        self.0.begin_run(caller.clone(), order).await
    }

    pub async fn run(&self, run: &RunId) -> Result<Run> {
        let run = run.clone();
        self.blocking(move |shared| shared.find_run(&run)).await
    }

    /// Newest first.
    pub async fn runs(&self, filter: RunFilter) -> Result<Vec<RunSummary>> {
        self.blocking(move |shared| {
            let limit = filter.limit.unwrap_or(RUNS_LISTED).min(RUNS_LISTED_MAX);
            let mut runs = shared.runs.summaries();
            runs.retain(|run| filter.app.as_ref().is_none_or(|app| run.app == *app));
            if !filter.open {
                let ended = shared.history.runs(filter.app.as_ref(), limit)?;
                runs.extend(
                    ended.into_iter().filter(|ended| runs.iter().all(|run| run.id != ended.id)).collect::<Vec<_>>(),
                );
            }
            runs.sort_by(|a, b| (b.started_at, &b.id).cmp(&(a.started_at, &a.id)));
            runs.truncate(limit as usize);
            Ok(runs)
        })
        .await
    }

    pub async fn run_retry(&self, caller: &Caller, run: &RunId, step: &StepId) -> Result<Run> {
        self.ask(caller, run, Event::Retry { step: step.clone() }).await
    }

    /// The operator says that a step was done by hand, and what was done.
    pub async fn run_skip(&self, caller: &Caller, run: &RunId, step: &StepId, reason: String) -> Result<Run> {
        let (id, name) = (run.clone(), step.clone());
        self.blocking(move |shared| shared.check_skip(&id, &name)).await?;
        self.ask(caller, run, Event::Skip { step: step.clone(), by: caller.name.clone(), reason }).await
    }

    /// Ends a run before its cut-over, and takes back what it has begun.
    pub async fn run_abort(&self, caller: &Caller, run: &RunId) -> Result<Run> {
        self.ask(caller, run, Event::Abort { by: caller.name.clone() }).await
    }

    /// Ends a run after its cut-over, by the operator's word that its new site is down.
    pub async fn run_give_up(&self, caller: &Caller, run: &RunId) -> Result<Run> {
        may_change(caller)?;
        let id = run.clone();
        let set_aside = self.blocking(move |shared| shared.check_give_up(&id)).await?;
        self.ask(caller, run, Event::GiveUp { by: caller.name.clone(), set_aside }).await
    }

    async fn ask(&self, caller: &Caller, id: &RunId, event: Event) -> Result<Run> {
        may_change(caller)?;
        match self.0.runs.ask(id, event).await {
            Some(answer) => answer,
            None => {
                // It has ended, or there never was one.
                let state = self.run(id).await?.state.as_str().to_string();
                Err(levee_plan::RunError::Ended { run: id.clone(), state }.into())
            }
        }
    }

    /// The run as it stands, then each change of it. The sender is gone when nothing will change any more.
    pub async fn run_watch(&self, run: &RunId) -> Result<watch::Receiver<Run>> {
        match self.0.runs.watch(run) {
            Some(changes) => Ok(changes),
            None => Ok(watch::channel(self.run(run).await?).1),
        }
    }

    /// Makes a token for the API; the text is shown this once.
    pub async fn token_create(
        &self,
        caller: &Caller,
        name: String,
        access: TokenAccess,
        expires_at: Option<Timestamp>,
    ) -> Result<(TokenView, Zeroizing<String>)> {
        may_change(caller)?;
        self.blocking(move |shared| {
            let now = Timestamp::now();
            if let Some(at) = expires_at.filter(|at| *at <= now) {
                return Err(ServerError::BadExpiry { at });
            }
            let token = tokens::generate(&name, access, expires_at, now)?;
            Ok((tokens::keep(&shared.store, &token)?, token.text))
        })
        .await
    }

    pub async fn tokens(&self) -> Result<Vec<TokenView>> {
        self.blocking(|shared| tokens::list(&shared.store)).await
    }

    pub async fn token_revoke(&self, caller: &Caller, id: &str) -> Result<()> {
        may_change(caller)?;
        let id = id.to_string();
        self.blocking(move |shared| tokens::revoke(&shared.store, &id, Timestamp::now())).await
    }

    /// Makes a token that lets one agent join; the text is shown this once. Bound to a site when one is
    /// given; works for a day unless another end is given, at most 30 days.
    pub async fn join_token_create(
        &self,
        caller: &Caller,
        site: Option<SiteName>,
        expires_at: Option<Timestamp>,
    ) -> Result<(JoinTokenView, Zeroizing<String>)> {
        may_change(caller)?;
        self.blocking(move |shared| {
            let now = Timestamp::now();
            let at = expires_at.or_else(|| now.checked_add(JOIN_TOKEN_VALID).ok()).unwrap_or(now);
            if at <= now || at.duration_since(now) > JOIN_TOKEN_VALID_MAX {
                return Err(ServerError::BadExpiry { at });
            }
            shared.make_join_token(site, at)
        })
        .await
    }

    pub async fn join_tokens(&self) -> Result<Vec<JoinTokenView>> {
        self.blocking(|shared| shared.join_tokens()).await
    }

    pub async fn join_token_revoke(&self, caller: &Caller, id: &str) -> Result<()> {
        may_change(caller)?;
        let id = id.to_string();
        self.blocking(move |shared| shared.revoke_join_token(&id)).await
    }

    /// An agent's certificates are no longer trusted, and its work goes to another agent of its site.
    pub async fn agent_revoke(&self, caller: &Caller, agent: &AgentId) -> Result<()> {
        may_change(caller)?;
        let id = agent.clone();
        self.blocking(move |shared| shared.revoke_agent(&id, Timestamp::now())).await?;
        self.0.push_wanted().await;
        self.0.hub.cut(agent);
        self.0.runs.resend();
        Ok(())
    }

    /// State and CA as one file in the `age` format, with a tar inside.
    pub async fn backup(&self, caller: &Caller, key: BackupKey) -> Result<Vec<u8>> {
        may_change(caller)?;
        self.blocking(move |shared| shared.make_backup(&key, Timestamp::now())).await
    }
}

fn may_change(caller: &Caller) -> Result<()> {
    match caller.access {
        TokenAccess::Admin => Ok(()),
        TokenAccess::Read => Err(ServerError::ReadOnlyToken { name: caller.name.clone() }),
    }
}

impl Shared {
    fn acknowledge(&self, app: &AppName, asset: &AssetName, by: &str) -> Result<Acknowledged> {
        loop {
            let config = Config::read(&self.store)?;
            let unknown = || ServerError::UnknownApp { app: app.clone() };
            let status = self.app_status(&config, app)?.ok_or_else(unknown)?;
            let warned = status.assets.iter().find(|view| view.asset == *asset).and_then(|view| view.warned_since);
            let nothing = || ServerError::NoWarning { app: app.clone(), asset: asset.clone() };
            let warned_since = warned.ok_or_else(nothing)?;
            let known = config.apps.get(app).ok_or_else(unknown)?;
            let mut record = known.value.clone();
            record.acknowledged.insert(asset.clone(), warned_since);
            let compares = [Compare::ModRevision(app_key(app), known.revision)];
            if self.store.txn(&compares, &[Op::put(app_key(app), &record)?])?.succeeded {
                tracing::info!(%app, %asset, %by, %warned_since, "a warning was acknowledged");
                return Ok(Acknowledged { app: app.clone(), asset: asset.clone(), warned_since });
            }
        }
    }

    /// The agents, with when those were last seen that have not spoken since the server was started.
    fn agents(&self, config: &Config) -> Result<Vec<AgentSummary>> {
        let live = self.hub.snapshot();
        let mut agents = Known { config, live: &live, now: Timestamp::now() }.agents();
        let seen = self.history.last_contacts()?;
        for agent in &mut agents {
            agent.last_seen = agent.last_seen.or_else(|| seen.get(&agent.agent).copied());
        }
        Ok(agents)
    }

    fn app_status(&self, config: &Config, app: &AppName) -> Result<Option<AppStatus>> {
        let live = self.hub.snapshot();
        let known = Known { config, live: &live, now: Timestamp::now() };
        let frozen = self.store.get(&frozen_key(app))?.map(|kv| kv.parse::<SiteName>()).transpose()?;
        let last_proof = self.history.proofs(app, 1)?.pop();
        let open_run = self.runs.open().remove(app).map(|(run, _)| run);
        let (proven, contacts) = (self.proven(app)?, self.history.contacts(app)?);
        let mut status = known.app(app, AppFacts { frozen, last_proof, open_run, proven, contacts });
        for asset in status.iter_mut().flat_map(|status| &mut status.assets) {
            asset.gaps = self.history.gaps(app, &asset.asset, GAPS_SHOWN)?;
        }
        Ok(status)
    }
}
