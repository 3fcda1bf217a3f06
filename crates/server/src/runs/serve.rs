//! The steps that the server carries out itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use levee_model::control::{Action, AssetStatus, Command, Done, EntryRecord, Failure, Role};
use levee_model::{AgentId, AppName, AssetName, Epoch, SiteName};
use levee_plan::{Outcome, Run, StepId, Work};
use tokio::sync::mpsc;

use super::closeness::{Closeness, Stuck};
use crate::config::{Config, Published, app_key, entry_key};
use crate::error::Result;
use crate::hub::Reply;
use crate::proofs;
use crate::server::{Shared, frozen_key};
use crate::state::{Compare, Op};
use crate::status::{Known, is_protected};

/// How long the nodes have to confirm. One that is away must not hold up everyone else's users.
const NODES_PATIENCE: Duration = Duration::from_secs(2);

/// How often a state is looked at that also changes with time alone.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub async fn carry_out(
    shared: &Arc<Shared>,
    run: &Run,
    step: &StepId,
    attempt: u32,
    work: &Work,
) -> Result<Outcome, Failure> {
    let app = run.plan.app.clone();
    match work {
        Work::AdvanceEpoch { to, writer } => {
            let (to, writer) = (*to, writer.clone());
            let advanced = shared.clone().blocking(move |shared| shared.advance_epoch(&app, to, &writer)).await;
            advanced.map_err(|error| failed(&error))??;
            // Before any command of the new epoch is sent.
            shared.push_wanted().await;
            Ok(Outcome::of(Done::Nothing))
        }
        Work::AwaitClose { age_ms_max } => {
            let mut closeness = Closeness::default();
            until(shared, &app, |sides, source_now| {
                let looked = closeness.look(age_ms_max, &sides.recovery, &sides.writer, source_now, Instant::now());
                looked.map_err(|stuck| does_not_come_close(run, &stuck))
            })
            .await
        }
        Work::AwaitProtected { assets: wanted } => {
            until(shared, &app, |sides, _| Ok(wanted.iter().all(|asset| is_protected(sides.recovery.get(asset))))).await
        }
        Work::SwitchEntry { records } => switch_entries(shared, run, step, attempt, records).await,
        Work::RecordProof => {
            let proof = proofs::of(run, Timestamp::now());
            let kept = shared.clone().blocking(move |shared| shared.history.put_proof(&proof)).await;
            kept.map(|()| Outcome::of(Done::Nothing)).map_err(|error| failed(&error))
        }
        other => Err(Failure { message: format!("the server cannot do this: {other:?}"), transient: false }),
    }
}

fn does_not_come_close(run: &Run, stuck: &Stuck) -> Failure {
    let (app, from, to) = (&run.plan.app, &run.plan.from, &run.plan.to);
    let Stuck { asset, problem, silent_s } = stuck;
    let message = match problem {
        Some(problem) => format!(
            "{to} does not come close to {asset} at {from}: {problem}. Put that right (a database that has died is started by \
             `levee agent start-database {app}/{asset}` at {from}) and retry, or abort the run"
        ),
        None => format!(
            "{to} does not come close to {asset} at {from}: nothing new of it has arrived for {silent_s} s, and neither \
             agent says why. Look at `levee status {app}`, at the agents' logs and at {asset} itself, and retry, or abort \
             the run"
        ),
    };
    Failure { message, transient: true }
}

fn failed(error: &crate::ServerError) -> Failure {
    Failure { message: levee_wire::chain(error), transient: true }
}

impl Shared {
    /// The cut-over: one durable transition, only from the epoch before, and only once. The outer error
    /// is trouble with the state; the inner one says that the app is not where the run takes it to be.
    fn advance_epoch(&self, app: &AppName, to: Epoch, writer: &SiteName) -> Result<Result<(), Failure>> {
        loop {
            let refused = |message: String| Ok(Err(Failure { message, transient: false }));
            let config = Config::read(&self.store)?;
            let Some(known) = config.apps.get(app) else { return refused(format!("there is no app {app} any more")) };
            let mut record = known.value.clone();
            if record.epoch == to && record.writer == *writer {
                return Ok(Ok(()));
            }
            if record.epoch.next() != to {
                return refused(format!(
                    "{app} is at epoch {} written by {}, so epoch {to} for {writer} cannot follow; make a new plan",
                    record.epoch, record.writer
                ));
            }
            record.epoch = to;
            record.writer = writer.clone();
            record.epoch_since = Timestamp::now();
            let ops = [Op::put(app_key(app), &record)?, Op::put(frozen_key(app), writer)?];
            if self.store.txn(&[Compare::ModRevision(app_key(app), known.revision)], &ops)?.succeeded {
                tracing::info!(%app, epoch = %to, %writer, "the epoch has advanced");
                return Ok(Ok(()));
            }
        }
    }

    /// The entries of an app answer a site from now on, unless they answer a higher epoch.
    fn publish(&self, app: &AppName, epoch: Epoch, site: &SiteName) -> Result<()> {
        loop {
            let known = self.store.get(&entry_key(app))?;
            let (compare, withdrawn) = match &known {
                Some(kv) => {
                    let published = kv.parse::<Published>()?;
                    if published.epoch >= epoch {
                        return Ok(());
                    }
                    (Compare::ModRevision(entry_key(app), kv.mod_revision), published.withdrawn)
                }
                None => (Compare::Absent(entry_key(app)), BTreeSet::new()),
            };
            let put = Op::put(entry_key(app), &Published { epoch, site: site.clone(), version: 0, withdrawn })?;
            if self.store.txn(&[compare], &[put])?.succeeded {
                return Ok(());
            }
        }
    }
}

/// What the two sides of an app say of its assets at its present epoch.
struct Sides {
    recovery: BTreeMap<AssetName, AssetStatus>,
    writer: BTreeMap<AssetName, AssetStatus>,
}

/// Waits until what is said of an app's assets passes a test, or the test gives up. `now` is the source's clock.
async fn until(
    shared: &Arc<Shared>,
    app: &AppName,
    mut test: impl FnMut(&Sides, Timestamp) -> Result<bool, Failure>,
) -> Result<Outcome, Failure> {
    let mut changes = shared.hub.subscribe();
    loop {
        changes.borrow_and_update();
        let config = shared.clone().blocking(|shared| Config::read(&shared.store)).await;
        if let Ok(config) = config
            && let Some(record) = config.apps.get(app)
        {
            let live = shared.hub.snapshot();
            let record = &record.value;
            let known = Known { config: &config, live: &live, now: Timestamp::now() };
            let agents = known.agents_of(record);
            let keeper = record.spec.peer_of(&record.writer);
            let statuses = |site: &SiteName, role: Role| {
                agents
                    .iter()
                    .filter(|view| view.site == *site && view.connected)
                    .filter_map(|view| view.status.as_ref())
                    .flat_map(|status| &status.assets)
                    .filter(|asset| asset.app == *app && asset.role == role && asset.epoch == record.epoch)
                    .map(|asset| (asset.asset.clone(), asset.clone()))
                    .collect()
            };
            let sides =
                Sides { recovery: statuses(keeper, Role::Recovery), writer: statuses(&record.writer, Role::Writer) };
            let writer = agents.iter().find(|view| view.site == record.writer);
            if test(&sides, writer.map_or(known.now, |view| view.clock(known.now)))? {
                return Ok(Outcome::of(Done::Nothing));
            }
        }
        let _ = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
    }
}

/// Lets every node answer the app's new site. Nodes that do not confirm in time are named, and learn it
/// when they come back.
async fn switch_entries(
    shared: &Arc<Shared>,
    run: &Run,
    step: &StepId,
    attempt: u32,
    records: &[EntryRecord],
) -> Result<Outcome, Failure> {
    let (app, site, epoch) = (run.plan.app.clone(), run.plan.to.clone(), run.plan.epoch.next());
    let own = records.to_vec();
    let (config, records) = shared
        .clone()
        .blocking(move |shared| {
            shared.publish(&app, epoch, &site)?;
            let mut signed = Vec::new();
            for record in own {
                shared.records.update(record.clone())?;
                signed.push(shared.authority.signer().sign_entry(record)?);
            }
            Ok((Config::read(&shared.store)?, signed))
        })
        .await
        .map_err(|error| failed(&error))?;

    let live = shared.hub.snapshot();
    let has_node =
        |id: &AgentId| live.get(id).and_then(|live| live.status.as_ref()).is_none_or(|status| status.dns.is_some());
    let nodes: Vec<&AgentId> = config
        .agents
        .iter()
        .filter(|(id, agent)| agent.value.revoked_at.is_none() && has_node(id))
        .map(|(id, _)| id)
        .collect();
    let (reply, mut replies) = mpsc::unbounded_channel();
    let mut waiting: BTreeMap<String, AgentId> = BTreeMap::new();
    for node in nodes {
        for (index, record) in records.iter().enumerate() {
            let id = format!("{}/{node}/{index}", run.command_id(step, attempt));
            waiting.insert(id.clone(), node.clone());
            let command = Command {
                id,
                run: run.id.clone(),
                app: run.plan.app.clone(),
                epoch,
                // A node answers it for apps of which its agent is told nothing.
                revision: 0,
                action: Action::SwitchEntry { record: record.clone() },
            };
            shared.hub.send(node, command, reply.clone());
        }
    }
    let mut unconfirmed: BTreeSet<AgentId> = BTreeSet::new();
    let all_answered = async {
        while !waiting.is_empty() {
            match replies.recv().await {
                Some(Reply::Answer(answer)) => {
                    if let Some(agent) = waiting.remove(&answer.command)
                        && answer.result.is_err()
                    {
                        unconfirmed.insert(agent);
                    }
                }
                Some(Reply::Gone { agent }) => {
                    waiting.retain(|id, node| {
                        if *node == agent {
                            shared.hub.forget(id);
                        }
                        *node != agent
                    });
                    unconfirmed.insert(agent);
                }
                None => break,
            }
        }
    };
    let _ = tokio::time::timeout(NODES_PATIENCE, all_answered).await;
    for (id, agent) in waiting {
        shared.hub.forget(&id);
        unconfirmed.insert(agent);
    }
    let note = (!unconfirmed.is_empty()).then(|| {
        let names: Vec<String> = unconfirmed.iter().map(AgentId::to_string).collect();
        format!("not confirmed by the node of {}; they learn it when they are back", names.join(", "))
    });
    Ok(Outcome { done: Done::Nothing, note })
}
