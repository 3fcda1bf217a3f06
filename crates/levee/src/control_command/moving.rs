//! Failover, switchover, drill and re-protect: show the plan, ask, start the run, follow it.

use clap::Args;
use levee_api::{Client, PlanRequest, RunOrder};
use levee_model::{AppName, SiteName};
use levee_plan::{Plan, PlanId, PlanKind};

use super::confirm::confirm;
use super::connection::Connection;
use super::follow::{describe_plan, follow};
use crate::exit::Exit;
use crate::output::Output;

/// What all of them have.
#[derive(Debug, Args)]
pub struct Common {
    /// Show the plan, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Carry out exactly this plan, as --dry-run has shown it (refused when it is stale)
    #[arg(long, value_name = "ID", conflicts_with = "dry_run")]
    plan: Option<String>,
    /// Start the run, print its id, and do not follow it
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct DrillArguments {
    /// The app, as the protection file names it
    app: AppName,
    /// Where to rebuild it: its recovery site
    #[arg(long, value_name = "SITE")]
    to: Option<SiteName>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub struct FailoverArguments {
    /// The app, as the protection file names it
    app: AppName,
    /// Where to bring it back
    #[arg(long, value_name = "SITE")]
    to: SiteName,
    /// Your word that the site where the app lives is down and can write no more; it is recorded.
    /// If it is not so, two sites may write, and one of the two histories is lost
    #[arg(long)]
    old_site_is_down: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub struct SwitchoverArguments {
    /// The app, as the protection file names it
    app: AppName,
    /// Where to move it
    #[arg(long, value_name = "SITE")]
    to: SiteName,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub struct ReprotectArguments {
    /// The app, as the protection file names it
    app: AppName,
    #[command(flatten)]
    common: Common,
}

pub fn drill(arguments: DrillArguments, output: Output) -> anyhow::Result<Exit> {
    let DrillArguments { app, to, common } = arguments;
    // A drill touches nothing that is in use.
    carry_out(PlanRequest { kind: PlanKind::Drill, app, to, old_site_is_down: false }, common, None, output)
}

pub fn failover(arguments: FailoverArguments, output: Output) -> anyhow::Result<Exit> {
    let FailoverArguments { app, to, old_site_is_down, yes, common } = arguments;
    let question =
        format!("This stops {app} where it lives and brings it back at {to}; what is said to be lost is lost.");
    let question = (!yes && !old_site_is_down).then_some(question);
    carry_out(PlanRequest { kind: PlanKind::Failover, app, to: Some(to), old_site_is_down }, common, question, output)
}

pub fn switchover(arguments: SwitchoverArguments, output: Output) -> anyhow::Result<Exit> {
    let SwitchoverArguments { app, to, yes, common } = arguments;
    let question = (!yes).then(|| format!("This interrupts writes to {app} while it moves to {to}."));
    let request = PlanRequest { kind: PlanKind::Switchover, app, to: Some(to), old_site_is_down: false };
    carry_out(request, common, question, output)
}

pub fn reprotect(arguments: ReprotectArguments, output: Output) -> anyhow::Result<Exit> {
    let ReprotectArguments { app, common } = arguments;
    // Copies are made, and nothing is moved.
    let request = PlanRequest { kind: PlanKind::Reprotect, app, to: None, old_site_is_down: false };
    carry_out(request, common, None, output)
}

fn carry_out(request: PlanRequest, common: Common, question: Option<String>, output: Output) -> anyhow::Result<Exit> {
    let client = common.connection.client()?;
    let plan = find_plan(&client, &request, common.plan.as_deref())?;
    if common.dry_run {
        output.result(&plan, describe_plan)?;
        output.note(&format!("carry out exactly this with --plan {}", short(&plan.id)));
        return Ok(Exit::DONE);
    }
    output.note(&describe_plan(&plan));
    if let Some(question) = question {
        confirm(&question)?;
    }
    let run = client.create_run(&RunOrder::Plan(plan.id))?;
    if common.no_wait {
        output.result(&run, |run| run.id.to_string())?;
        return Ok(Exit::DONE);
    }
    output.note(&format!("run {}", run.id));
    follow(&client, &run.id, output)
}

/// The plan that was asked for by its id, when it is of this kind and app; otherwise a new one.
fn find_plan(client: &Client, request: &PlanRequest, id: Option<&str>) -> anyhow::Result<Plan> {
    let Some(id) = id else { return Ok(client.make_plan(request)?) };
    let plan = client.plan(id)?;
    let fits = plan.kind == request.kind
        && plan.app == request.app
        && request.to.as_ref().is_none_or(|to| *to == plan.to)
        && (!request.old_site_is_down || plan.assertion.is_some());
    if !fits {
        anyhow::bail!(
            "plan {} is a {} of {} to {}{}: it is not what this command asks for",
            short(&plan.id),
            plan.kind,
            plan.app,
            plan.to,
            if plan.assertion.is_some() { " with the old site down" } else { "" }
        );
    }
    Ok(plan)
}

/// As much of a plan's id as is needed to name it.
fn short(id: &PlanId) -> &str {
    id.0.get(..12).unwrap_or(&id.0)
}
