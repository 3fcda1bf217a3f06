use std::time::Duration;

use levee_api::{Health, RunOrder};
use levee_model::control::Role;
use levee_plan::{PlanKind, RunState, StepId, StepRecord, StepState};
use levee_server::ServerError;
use tokio::task::JoinHandle;

use crate::agent::{Agent, name_of};
use crate::fixture::{TestServer, eventually, options, shop};
use crate::protect::two_sites;

pub struct Shop {
    pub server: TestServer,
    pub east: Agent,
    pub west: Agent,
    pub sessions: [JoinHandle<()>; 2],
    _folder: tempfile::TempDir,
}

impl Shop {
    async fn protected() -> Shop {
        let folder = tempfile::tempdir().unwrap();
        let server = TestServer::start(options(folder.path())).await;
        let (east, west) = two_sites(&server).await;
        server.control.apply(&server.caller, shop(), false).await.unwrap();
        let sessions = [east.run(), west.run()];
        let shop = Shop { server, east, west, sessions, _folder: folder };
        shop.until_protected().await;
        shop
    }

    async fn until_protected(&self) {
        eventually("the app is protected", || async {
            let status = self.server.control.status().await.unwrap();
            status.apps[0].assets.iter().all(|asset| asset.protected)
        })
        .await;
    }

    async fn order(&self, kind: PlanKind, to: Option<&str>, down: bool) -> Result<levee_plan::Run, ServerError> {
        let request = self.server.request(kind, to, down);
        self.server.control.create_run(&self.server.caller, RunOrder::New(request)).await
    }

    async fn lose_east(&self) {
        self.sessions[0].abort();
        eventually("east is away", || async {
            let agents = self.server.control.agents().await.unwrap();
            agents.iter().any(|agent| agent.agent == self.east.id && !agent.connected)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_leaves_a_proof_and_changes_nothing() {
    let shop = Shop::protected().await;
    let run = shop.order(PlanKind::Drill, None, false).await.unwrap();
    shop.server.done(&run).await;
    let status = shop.server.control.app_status(&"shop".parse().unwrap()).await.unwrap();
    let proof = status.last_proof.unwrap();
    assert!(proof.passed && proof.run == run.id && proof.probes.len() == 2, "{proof:?}");
    assert!(proof.recovery_time_s.is_some() && proof.recovery_point_age_s.is_some(), "{proof:?}");
    assert_eq!((status.writer.as_str(), status.epoch.0, status.open_run), ("east", 1, None));
    assert_eq!(shop.east.asked(), Vec::<String>::new());
    let asked = shop.west.asked();
    assert_eq!((asked[0].as_str(), asked.last().unwrap().as_str()), ("choose e1", "clean-up e1"));

    // It is held against what was wanted.
    assert_eq!(status.problems, Vec::<String>::new());
    let mut impatient = crate::fixture::shop();
    impatient.app.values_mut().next().unwrap().objective.recovery_time = "1ms".parse().unwrap();
    shop.server.control.apply(&shop.server.caller, impatient, false).await.unwrap();
    let status = shop.server.control.app_status(&"shop".parse().unwrap()).await.unwrap();
    assert!(status.problems[0].contains("its objective is 1ms") && status.health == Health::Degraded, "{status:?}");
    let error = shop.order(PlanKind::Drill, Some("east"), false).await.unwrap_err();
    assert!(error.to_string().contains("its copies are at west"), "{error}");

    shop.west.memory.lock().unwrap().failing.insert("probe", false);
    let run = shop.order(PlanKind::Drill, None, false).await.unwrap();
    let run = shop.server.ended(&run).await;
    assert_eq!(run.state, RunState::Failed);
    let proofs = shop.server.control.proofs(&"shop".parse().unwrap()).await.unwrap();
    assert!(!proofs[0].passed && proofs[0].detail.contains("probe fails here"), "{:?}", proofs[0]);
    assert!(shop.west.asked().last().unwrap().starts_with("clean-up"));
    shop.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_and_the_way_home() {
    let shop = Shop::protected().await;
    shop.lose_east().await;
    let error = shop.order(PlanKind::Failover, Some("west"), false).await.unwrap_err();
    assert!(error.to_string().contains("--old-site-is-down"), "{error}");
    let run = shop.order(PlanKind::Failover, Some("west"), true).await.unwrap();
    let run = shop.server.done(&run).await;
    let note = run.steps[&StepId("switch".into())].outcome.as_ref().unwrap().note.clone().unwrap();
    assert!(note.contains("east-1") && !note.contains("west-1"), "{note}");
    let status = shop.server.control.app_status(&"shop".parse().unwrap()).await.unwrap();
    assert_eq!((status.writer.as_str(), status.epoch.0), ("west", 2));
    assert_eq!(status.vault_frozen_at.unwrap().as_str(), "west");
    assert_eq!((status.entries[0].record.site.as_str(), status.entries[0].record.epoch.0), ("west", 2));
    assert!(shop.west.has_grants("shop", Role::Writer, 2));
    assert!(status.assets.iter().all(|asset| !asset.protected), "{:?}", status.assets);

    // East returns, and the agents do the rest by their assignments.
    let _back = shop.east.run();
    eventually("east keeps the copies now", || async { shop.east.has_grants("shop", Role::Recovery, 2) }).await;
    shop.until_protected().await;
    eventually("the vault is thawed", || async {
        let status = shop.server.control.app_status(&"shop".parse().unwrap()).await.unwrap();
        status.vault_frozen_at.is_none()
    })
    .await;
    let run = shop.order(PlanKind::Reprotect, None, false).await.unwrap();
    shop.server.done(&run).await;

    let run = shop.order(PlanKind::Switchover, Some("east"), false).await.unwrap();
    assert!(run.plan.prediction.recovery_time_s.is_some(), "measured in the failover");
    shop.server.done(&run).await;
    let status = shop.server.control.app_status(&"shop".parse().unwrap()).await.unwrap();
    assert_eq!((status.writer.as_str(), status.epoch.0), ("east", 3));
    let asked = shop.west.asked();
    assert_eq!(asked[asked.len() - 2..], ["stop e2", "switch e3"]);
    let runs = shop.server.control.runs(Default::default()).await.unwrap();
    let kinds: Vec<_> = runs.iter().map(|run| run.kind).collect();
    assert_eq!(kinds, [PlanKind::Switchover, PlanKind::Reprotect, PlanKind::Failover]);
    shop.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_run_at_a_time_and_plans_go_stale() {
    let shop = Shop::protected().await;
    let (control, caller) = (&shop.server.control, &shop.server.caller);
    shop.west.memory.lock().unwrap().hanging.insert("rebuild");
    let plan = control.plan_only(caller, shop.server.request(PlanKind::Drill, None, false)).await.unwrap();
    assert_eq!(control.plan(&plan.id.0[..8]).await.unwrap(), plan);
    let by_prefix = RunOrder::Plan(levee_plan::PlanId(plan.id.0[..8].into()));
    let run = control.create_run(caller, by_prefix.clone()).await.unwrap();
    let error = shop.order(PlanKind::Failover, Some("west"), true).await.unwrap_err();
    assert!(matches!(&error, ServerError::AppBusy { run: busy, .. } if *busy == run.id), "{error}");
    assert_eq!(control.app(&"shop".parse().unwrap()).await.unwrap().open_run, Some(run.id.clone()));
    let mut changed = crate::fixture::shop();
    changed.app.values_mut().next().unwrap().objective.recovery_point = "1s".parse().unwrap();
    let error = control.apply(caller, changed.clone(), false).await.unwrap_err();
    assert_eq!(error.code(), "app_busy");

    let both = |run: &levee_plan::Run| {
        let is_running = |id: &str| matches!(run.steps[&StepId(id.into())].state, StepState::Running { .. });
        is_running("rebuild-orders") && is_running("rebuild-documents")
    };
    shop.server.until(&run, both).await;

    // The rebuild hangs; the drill is ended, waits for it, and then cleans up.
    let error = control.run_abort(&shop.server.reader(), &run.id).await.unwrap_err();
    assert_eq!(error.code(), "read_only_token");
    let stopping = control.run_abort(caller, &run.id).await.unwrap();
    assert_eq!(stopping.state, RunState::Stopping);
    for step in ["rebuild-orders", "rebuild-documents"] {
        control.run_skip(caller, &run.id, &StepId(step.into()), "the agent hangs".into()).await.unwrap();
    }
    assert_eq!(shop.server.ended(&run).await.state, RunState::Aborted);
    let error = control.run_abort(caller, &run.id).await.unwrap_err();
    assert!(error.to_string().contains("has ended (aborted)"), "{error}");

    control.apply(caller, changed, false).await.unwrap();
    let error = control.create_run(caller, by_prefix).await.unwrap_err();
    assert_eq!(error.code(), "stale_plan", "{error}");
    shop.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_takes_a_site_to_be_down_is_refused_when_it_is_back() {
    let mut shop = Shop::protected().await;
    shop.lose_east().await;
    let request = shop.server.request(PlanKind::Failover, Some("west"), true);
    let plan = shop.server.control.plan_only(&shop.server.caller, request).await.unwrap();
    shop.sessions[0] = shop.east.run();
    shop.until_protected().await;
    eventually("east is back", || async {
        shop.server.control.agents().await.unwrap().iter().all(|agent| agent.connected)
    })
    .await;
    let order = RunOrder::Plan(plan.id);
    let error = shop.server.control.create_run(&shop.server.caller, order).await.unwrap_err();
    assert_eq!(error.code(), "old_site_is_back", "{error}");
    shop.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_is_aborted_before_its_cut_over_and_not_after() {
    let shop = Shop::protected().await;
    let (control, caller) = (&shop.server.control, &shop.server.caller);
    shop.west.memory.lock().unwrap().failing.insert("catch-up", false);
    let run = shop.order(PlanKind::Switchover, Some("west"), false).await.unwrap();
    let run = shop.server.until(&run, |run| run.state == RunState::Blocked).await;
    control.run_abort(caller, &run.id).await.unwrap();
    assert_eq!(shop.server.ended(&run).await.state, RunState::Aborted);
    assert_eq!(shop.east.asked(), ["stop e1", "start e1", "start e1"]);
    assert_eq!(control.app(&"shop".parse().unwrap()).await.unwrap().epoch.0, 1);

    shop.west.memory.lock().unwrap().failing = [("start", false)].into();
    let run = shop.order(PlanKind::Switchover, Some("west"), false).await.unwrap();
    let run = shop.server.until(&run, |run| run.state == RunState::Blocked).await;
    let error = control.run_abort(caller, &run.id).await.unwrap_err();
    assert!(error.to_string().contains("cut over to west (epoch 2)"), "{error}");
    shop.west.memory.lock().unwrap().failing.clear();
    for step in ["start-orders", "start-documents"] {
        let step = StepId(step.into());
        shop.server.until(&run, |run| matches!(run.steps[&step].state, StepState::Failed { .. })).await;
        control.run_retry(caller, &run.id, &step).await.unwrap();
    }
    shop.server.done(&run).await;
    shop.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_new_site_is_lost_ends_by_the_word_that_it_is_down() {
    let shop = Shop::protected().await;
    let (control, caller) = (&shop.server.control, &shop.server.caller);
    shop.west.memory.lock().unwrap().failing = [("start", false)].into();
    let run = shop.order(PlanKind::Switchover, Some("west"), false).await.unwrap();
    let run = shop.server.until(&run, |run| run.state == RunState::Blocked).await;
    let error = control.run_give_up(caller, &run.id).await.unwrap_err();
    assert_eq!(error.code(), "new_site_is_there", "{error}");
    shop.sessions[1].abort();
    eventually("west is away", || async { control.agents().await.unwrap().iter().any(|agent| !agent.connected) }).await;
    control.run_give_up(caller, &run.id).await.unwrap();
    let ended = shop.server.ended(&run).await;
    assert_eq!((ended.state, ended.facts.given_up.is_some()), (RunState::Failed, true));
    let app = control.app(&"shop".parse().unwrap()).await.unwrap();
    assert_eq!((app.open_run, app.epoch.0), (None, 2), "the epoch stays, and the next run can begin");
    shop.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_in_a_step_is_asked_again_when_it_is_back() {
    let mut shop = Shop::protected().await;
    shop.west.memory.lock().unwrap().hanging.insert("rebuild");
    let run = shop.order(PlanKind::Drill, None, false).await.unwrap();
    eventually("both rebuilds were asked for", || async {
        shop.west.asked().iter().filter(|asked| asked.starts_with("rebuild")).count() == 2
    })
    .await;
    shop.sessions[1].abort();
    tokio::time::sleep(Duration::from_millis(50)).await;
    shop.west.memory.lock().unwrap().hanging.clear();
    shop.sessions[1] = shop.west.run();
    let run = shop.server.done(&run).await;
    assert_eq!(run.steps[&StepId("rebuild-orders".into())].attempts, 1, "the same command, once more");
    shop.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_takes_its_runs_up_again() {
    let shop = Shop::protected().await;
    let mut again = options(shop._folder.path());
    again.wire_listen = shop.server.listening.wire;
    shop.west.memory.lock().unwrap().hanging.insert("start");
    let run = shop.order(PlanKind::Failover, Some("west"), false).await.unwrap();
    eventually("it is past its cut-over", || async {
        shop.west.asked().iter().any(|asked| asked.starts_with("start"))
    })
    .await;
    shop.server.stop().await;
    shop.west.memory.lock().unwrap().hanging.clear();
    let server = TestServer::start(again).await;
    server.done(&run).await;
    assert_eq!(server.control.app(&"shop".parse().unwrap()).await.unwrap().epoch.0, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_until_its_agent_has_taken_over_what_it_was_planned_from() {
    let shop = Shop::protected().await;
    let (control, caller) = (&shop.server.control, &shop.server.caller);
    shop.west.memory.lock().unwrap().slow = true;
    let mut changed = crate::fixture::shop();
    changed.app.values_mut().next().unwrap().objective.recovery_point = "1h".parse().unwrap();
    control.apply(caller, changed, false).await.unwrap();
    let applied = control.app(&"shop".parse().unwrap()).await.unwrap().revision;
    let run = shop.order(PlanKind::Switchover, Some("west"), false).await.unwrap();
    let is_put_off = |record: &StepRecord| match &record.state {
        StepState::Backoff { failure, .. } => failure.message == "not taken over yet",
        _ => false,
    };
    shop.server.until(&run, |run| run.steps.values().any(is_put_off)).await;
    assert_eq!(control.app(&"shop".parse().unwrap()).await.unwrap().epoch.0, 1);
    shop.west.memory.lock().unwrap().slow = false;
    shop.west.take_over();
    shop.server.done(&run).await;
    // What the run changes itself is no reason to wait, and an answer of the nodes rests on nothing.
    for agent in [&shop.east, &shop.west] {
        for command in &agent.memory.lock().unwrap().commands {
            let expected = if name_of(&command.action) == "switch" { 0 } else { applied };
            assert_eq!(command.revision, expected, "{command:?}");
        }
    }
    shop.server.stop().await;
}
