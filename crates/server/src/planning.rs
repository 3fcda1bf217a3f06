//! Making plans, keeping them for a while, and starting runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_model::{AppName, RunId, SiteName};
use levee_plan::{Assertion, Executor, Inputs, Plan, PlanKind, Run, StepId, Work};

use crate::config::Config;
use crate::control::{Caller, PlanRequest, RunOrder};
use crate::error::{Result, ServerError};
use crate::runs::{open_key, run_key};
use crate::server::Shared;
use crate::state::{Compare, Op};
use crate::status::Known;

const PLAN: &str = "plan/";
/// Long enough to look at a plan and talk about it; a plan is refused anyway once the app has changed.
const PLAN_KEPT: Duration = Duration::from_secs(3600);
/// As git has it: short enough to type, long enough to be one.
const PLAN_PREFIX_MIN: usize = 6;

impl Shared {
    /// Makes a plan from what is known now.
    pub fn make_plan(&self, caller: &Caller, request: &PlanRequest, now: Timestamp) -> Result<Plan> {
        let config = Config::read(&self.store)?;
        let app = &request.app;
        let known = config.apps.get(app).ok_or_else(|| ServerError::UnknownApp { app: app.clone() })?;
        self.check_idle(app)?;
        let live = self.hub.snapshot();
        let agents = Known { config: &config, live: &live, now }.agents_of(&known.value);
        let measurements = self.history.measurements(app)?;
        let inputs = Inputs {
            app,
            spec: &known.value.spec,
            parent: known.parent(),
            agents: &agents,
            measurements: &measurements,
            assertion: request.old_site_is_down.then(|| Assertion::old_site_is_down(caller.name.clone(), now)),
            now,
        };
        let to = || request.to.as_ref().ok_or_else(|| ServerError::NoTarget { app: app.clone() });
        let plan = match request.kind {
            PlanKind::Failover => levee_plan::failover(&inputs, to()?)?,
            PlanKind::Switchover => levee_plan::switchover(&inputs, to()?)?,
            PlanKind::Drill => levee_plan::drill(&inputs)?,
            PlanKind::Reprotect => levee_plan::protect(&inputs)?,
        };
        match &request.to {
            Some(asked) if *asked != plan.to => Err(ServerError::OtherSite {
                kind: plan.kind.as_str(),
                app: app.clone(),
                asked: asked.clone(),
                to: plan.to,
            }),
            _ => Ok(plan),
        }
    }

    pub fn keep_plan(&self, plan: &Plan) -> Result<()> {
        let lease = self.store.grant_lease(PLAN_KEPT, Instant::now())?;
        self.store.txn(&[], &[Op::put(format!("{PLAN}{}", plan.id), plan)?.under(lease)])?;
        Ok(())
    }

    /// A plan by its id or the first characters of it. Looking at it keeps it for another hour.
    pub fn find_plan(&self, id: &str) -> Result<Plan> {
        let unknown = || {
            let shown: String = id.chars().take(64).collect();
            ServerError::UnknownPlan { plan: levee_plan::PlanId(shown) }
        };
        if id.len() < PLAN_PREFIX_MIN || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(unknown());
        }
        match &self.store.range(&format!("{PLAN}{id}"))?.values[..] {
            [] => Err(unknown()),
            [one] => {
                if let Some(lease) = one.lease {
                    self.store.keep_alive(lease, Instant::now())?;
                }
                one.parse()
            }
            _ => Err(ServerError::AmbiguousPlan { given: id.into() }),
        }
    }

    fn check_idle(&self, app: &AppName) -> Result<()> {
        match self.runs.open().remove(app) {
            Some((run, kind)) => Err(ServerError::AppBusy { app: app.clone(), run, kind: kind.as_str() }),
            None => Ok(()),
        }
    }

    /// Makes a run durable. It has not begun when this returns.
    pub fn start_run(&self, caller: &Caller, order: &RunOrder, now: Timestamp) -> Result<Run> {
        let plan = match order {
            RunOrder::New(request) => self.make_plan(caller, request, now)?,
            RunOrder::Plan(id) => {
                let plan = self.find_plan(&id.0)?;
                self.check_idle(&plan.app)?;
                plan
            }
        };
        let app = plan.app.clone();
        let config = Config::read(&self.store)?;
        let known = config.apps.get(&app).ok_or_else(|| ServerError::UnknownApp { app: app.clone() })?;
        if !plan.is_fresh(&known.parent()) {
            return Err(ServerError::StalePlan { plan: plan.id, app });
        }
        // The operator's word was taken while nobody was there to be asked. Now somebody is.
        let old_agent = known.value.agents.get(&plan.from);
        let is_back = old_agent.and_then(|id| self.hub.snapshot().remove(id)).is_some_and(|live| live.connected);
        if is_back && plan.steps.iter().any(|step| step.work == Work::Assert) {
            return Err(ServerError::OldSiteIsBack { plan: plan.id, app, site: plan.from });
        }
        let run = Run::new(run_id(plan.kind, now)?, plan, caller.name.clone(), now)?;
        let compares =
            [Compare::Absent(open_key(&app)), Compare::ModRevision(crate::config::app_key(&app), known.revision)];
        let ops = [Op::put(run_key(&run.id), &run)?, Op::put(open_key(&app), &run.id)?];
        if !self.store.txn(&compares, &ops)?.succeeded {
            // Somebody was faster: either with a run, or with a change of the app.
            self.check_idle(&app)?;
            self.check_not_held(&app)?;
            return Err(ServerError::StalePlan { plan: run.plan.id, app });
        }
        tracing::info!(run = %run.id, %app, by = %caller.name, plan = %run.plan.id, "run started");
        Ok(run)
    }

    /// Refuses to skip a stop or a start at the old site while its agent is there and at work on it.
    pub fn check_skip(&self, id: &RunId, step: &StepId) -> Result<()> {
        let Some(run) = self.runs.get(id).filter(|run| run.must_not_be_left(step)) else { return Ok(()) };
        let config = Config::read(&self.store)?;
        let site = match run.all_steps().find(|known| known.id == *step).map(|step| &step.at) {
            Some(Executor::Agent(site)) => site,
            _ => &run.plan.from,
        };
        let agent = config.apps.get(&run.plan.app).and_then(|known| known.value.agents.get(site));
        match agent {
            Some(agent) if self.hub.snapshot().get(agent).is_some_and(|live| live.connected) => {
                let (run, step, agent) = (id.clone(), step.clone(), agent.clone());
                Err(ServerError::StillAtWork { run, step, agent })
            }
            _ => Ok(()),
        }
    }

    /// Refuses the word that a run's new site is down while its agent is there. Otherwise says where the old site's data were
    /// set aside, as far as its agent has said.
    pub fn check_give_up(&self, id: &RunId) -> Result<Vec<PathBuf>> {
        let Some(run) = self.runs.get(id) else { return Ok(Vec::new()) };
        let config = Config::read(&self.store)?;
        let live = self.hub.snapshot();
        let agent_at = |site: &SiteName| config.apps.get(&run.plan.app).and_then(|known| known.value.agents.get(site));
        if let Some(agent) = agent_at(&run.plan.to)
            && live.get(agent).is_some_and(|live| live.connected)
        {
            let (run, site, agent) = (id.clone(), run.plan.to.clone(), agent.clone());
            return Err(ServerError::NewSiteIsThere { run, site, agent });
        }
        let old = agent_at(&run.plan.from).and_then(|agent| live.get(agent)?.status.as_ref());
        Ok(old
            .and_then(|status| status.known.get(&run.plan.app))
            .map_or_else(Vec::new, |known| known.set_aside.clone()))
    }

    /// Starts a run, and gives back how it stands after its first steps were begun.
    pub async fn begin_run(self: &Arc<Self>, caller: Caller, order: RunOrder) -> Result<Run> {
        // At one go: a caller who goes away in between would leave a run that nobody carries out, and that bars the app.
        let begun = move |shared: &Arc<Self>| -> Result<Run> {
            let run = shared.start_run(&caller, &order, Timestamp::now())?;
            shared.carry_out(run.clone(), true);
            Ok(run)
        };
        let run = self.clone().blocking(begun).await?;
        let id = run.id.clone();
        if let Some(mut changes) = self.runs.watch(&id) {
            let _ = changes.changed().await;
            return Ok(changes.borrow().clone());
        }
        Ok(run)
    }
}

/// `failover-20261120-115406-3f9a1c`: sorted by time, and never the same twice.
fn run_id(kind: PlanKind, now: Timestamp) -> Result<RunId> {
    let mut random = [0u8; 3];
    getrandom::fill(&mut random).map_err(|error| ServerError::File {
        doing: "read random bytes for a run's name from",
        path: "/dev/urandom".into(),
        source: error.into(),
    })?;
    Ok(RunId::new(format!("{kind}-{}-{}", now.strftime("%Y%m%d-%H%M%S"), hex::encode(random)))?)
}
