use levee_model::Position;
use levee_model::control::{Action, AssetState, Done, Failure, Left, RecoveryPoint};
use levee_plan::{
    ATTEMPTS_MAX, Effect, Event, Outcome, Plan, Run, RunError, RunState, StepState, Work, drill, failover, switchover,
};

use crate::fixture::{ASSETS, Fixture, after_s, position, site, start, step};

fn begin(plan: Plan) -> (Run, Vec<Effect>) {
    let mut run = Run::new("run-1".parse().unwrap(), plan, "ops", start()).unwrap();
    let effects = run.handle(Event::Begin, start()).unwrap();
    (run, effects)
}

pub fn point(lsn: u64) -> RecoveryPoint {
    let assets = ASSETS.iter().map(|name| {
        let point = levee_model::control::AssetPoint { position: position(name, lsn), as_of: start() };
        (name.parse().unwrap(), point)
    });
    RecoveryPoint { assets: assets.collect() }
}

/// The answer that a step hopes for.
pub fn good(work: &Work) -> Outcome {
    Outcome::of(match work {
        Work::Stop { .. } => Done::Stopped { point: point(1500), left: Default::default() },
        Work::Seal | Work::ChoosePoint | Work::AwaitStopped => Done::Point { point: point(1000) },
        Work::Rebuild { .. } => Done::Rebuilt { bytes: 1, copy_s: 0.1, passed_over: None },
        Work::Start { .. } => Done::Started { timeline: Some(2), replay_s: 0.1 },
        Work::Probe { .. } => Done::Probed { passed: true, detail: "t".into() },
        _ => Done::Nothing,
    })
}

fn ids(effects: &[Effect]) -> Vec<(String, u32)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Act { step, attempt, .. } | Effect::Serve { step, attempt, .. } => {
                Some((step.to_string(), *attempt))
            }
            Effect::Wake { .. } => None,
        })
        .collect()
}

fn answer(run: &mut Run, id: &str, result: Result<Outcome, Failure>) -> Vec<Effect> {
    let StepState::Running { attempt } = run.steps[&step(id)].state else {
        panic!("{id} is {:?}", run.steps[&step(id)].state)
    };
    run.handle(Event::Ended { step: step(id), attempt, result, seconds: 0.5 }, after_s(1)).unwrap()
}

fn succeed(run: &mut Run, id: &str) -> Vec<Effect> {
    let outcome = good(&run.step(&step(id)).unwrap().0.work.clone());
    answer(run, id, Ok(outcome))
}

fn fail(run: &mut Run, id: &str, transient: bool) -> Vec<Effect> {
    answer(run, id, Err(Failure { message: "no".into(), transient }))
}

/// Lets everything in flight succeed until nothing is.
fn finish(run: &mut Run) {
    while let Some((id, _)) = ids(&run.resume()).pop() {
        succeed(run, &id);
    }
}

fn lost_site() -> Plan {
    let fixture = Fixture::new(AssetState::Protected).disconnect("east").assert_down();
    failover(&fixture.inputs(), &site("west")).unwrap()
}

#[test]
fn a_run_goes_step_by_step_and_in_parallel_where_it_can() {
    let (mut run, effects) = begin(lost_site());
    assert_eq!(ids(&effects), [("advance".into(), 1)], "the assertion is taken at once");
    assert_eq!(run.facts.assertion.as_ref().unwrap().by, "ops");
    assert_eq!(ids(&succeed(&mut run, "advance")), [("seal".into(), 1)]);
    assert_eq!(ids(&succeed(&mut run, "seal")), [("choose".into(), 1)]);
    let both = [("rebuild-orders".into(), 1), ("rebuild-documents".into(), 1)];
    assert_eq!(ids(&succeed(&mut run, "choose")), both);
    let note = run.steps[&step("choose")].outcome.as_ref().unwrap().note.clone().unwrap();
    for words in [
        "east was not asked, it was last heard of 2.0 s before the plan",
        "orders: brought back as of 2026-",
        "at least 500 bytes of its log, which had come to 0/5DC then, are lost",
        "documents: brought back as of",
    ] {
        assert!(note.contains(words), "{words:?} is not in {note}");
    }
    assert_eq!(ids(&run.resume()), both, "after a restart the same is sent again");
    assert_eq!(ids(&succeed(&mut run, "rebuild-documents")), [("start-documents".into(), 1)]);
    finish(&mut run);
    assert_eq!(run.state, RunState::Done);
    assert!(run.ended_at.is_some() && run.resume().is_empty());
}

/// A stop whose database could not send its last 500 bytes.
fn stopped_not_shipped() -> Outcome {
    let Position::Log(end) = position("orders", 1500) else { unreachable!("a database's position is one in a log") };
    let left = Left {
        kept_in: "/srv/east/pg".into(),
        ends_at: Some(end),
        sent: point(1000).assets.remove(&"orders".parse().unwrap()),
        reason: "cannot reach west".into(),
    };
    Outcome::of(Done::Stopped { point: point(1000), left: [("orders".parse().unwrap(), left)].into() })
}

#[test]
fn a_failover_goes_on_without_what_could_not_be_sent_and_names_it() {
    let plan = failover(&Fixture::new(AssetState::Protected).inputs(), &site("west")).unwrap();
    assert!(plan.warnings[0].contains("at most everything after the points above"), "{:?}", plan.warnings);
    let (mut run, _) = begin(plan);
    assert_eq!(ids(&answer(&mut run, "stop", Ok(stopped_not_shipped()))), [("advance".into(), 1)]);
    let note = run.steps[&step("stop")].outcome.as_ref().unwrap().note.clone().unwrap();
    assert_eq!(
        note,
        "stopped, not everything was sent from east: orders: the other site has 0/3E8 on timeline 1, 500 bytes of log \
         up to 0/5DC were not sent; the rest is in /srv/east/pg (cannot reach west). It is set aside there under a new name, \
         which `levee status` shows"
    );
    assert_eq!(run.facts.left.len(), 1);
    finish(&mut run);
    assert_eq!(run.state, RunState::Done);
}

#[test]
fn a_switchover_never_goes_on_without_what_was_not_sent() {
    let plan = switchover(&Fixture::new(AssetState::Staged).inputs(), &site("west")).unwrap();
    let (mut run, _) = begin(plan);
    succeed(&mut run, "close");
    assert!(ids(&answer(&mut run, "stop", Ok(stopped_not_shipped()))).is_empty());
    assert!(matches!(run.steps[&step("stop")].state, StepState::Failed { .. }));
    assert_eq!((run.state, run.is_cut_over()), (RunState::Blocked, false));
}

#[test]
fn a_transient_failure_is_tried_again_a_bounded_number_of_times() {
    let (mut run, _) = begin(lost_site());
    for attempt in 1..=ATTEMPTS_MAX {
        let effects = fail(&mut run, "advance", true);
        if attempt == ATTEMPTS_MAX {
            break;
        }
        let Some(Effect::Wake { at }) = effects.last() else { panic!("{effects:?}") };
        assert!(ids(&run.handle(Event::Tick, start()).unwrap()).is_empty(), "not before its time");
        assert_eq!(ids(&run.handle(Event::Tick, *at).unwrap()), [("advance".into(), attempt + 1)]);
    }
    assert_eq!(run.state, RunState::Blocked);
    let effects = run.handle(Event::Retry { step: step("advance") }, after_s(9)).unwrap();
    assert_eq!(ids(&effects), [("advance".into(), ATTEMPTS_MAX + 1)], "a new command, not an old answer");
    assert_eq!(run.state, RunState::Running);
    finish(&mut run);
    assert_eq!(run.state, RunState::Done);
}

#[test]
fn repeated_late_and_foreign_answers_change_nothing() {
    let (mut run, _) = begin(lost_site());
    succeed(&mut run, "advance");
    fail(&mut run, "seal", true);
    let before = run.clone();
    for (id, attempt) in [("advance", 1), ("seal", 1), ("seal", 2), ("choose", 1), ("nonsense", 1)] {
        let result = Ok(Outcome::of(Done::Nothing));
        let event = Event::Ended { step: step(id), attempt, result, seconds: 1.0 };
        assert!(ids(&run.handle(event, after_s(1)).unwrap()).is_empty());
        assert_eq!(run, before, "{id} {attempt}");
    }
}

#[test]
fn an_answer_of_an_attempt_that_was_given_up_is_not_taken_for_the_present_one() {
    let (mut run, _) = begin(lost_site());
    let effects = fail(&mut run, "advance", true);
    let Some(Effect::Wake { at }) = effects.last() else { panic!("{effects:?}") };
    assert_eq!(ids(&run.handle(Event::Tick, *at).unwrap()), [("advance".into(), 2)]);
    let late = Event::Ended { step: step("advance"), attempt: 1, result: Ok(Outcome::of(Done::Nothing)), seconds: 9.0 };
    assert!(ids(&run.handle(late, *at).unwrap()).is_empty());
    assert_eq!(run.steps[&step("advance")].state, StepState::Running { attempt: 2 });
}

#[test]
fn an_answer_that_does_not_fit_is_a_failure() {
    let (mut run, _) = begin(drill(&Fixture::new(AssetState::Protected).inputs()).unwrap());
    answer(&mut run, "choose", Ok(Outcome::of(Done::Nothing)));
    let StepState::Failed { failure } = &run.steps[&step("choose")].state else { panic!() };
    assert!(failure.message.contains("does not fit"), "{failure:?}");

    let (mut run, _) = begin(drill(&Fixture::new(AssetState::Protected).inputs()).unwrap());
    let mut half = point(5);
    half.assets.remove(&"documents".parse().unwrap());
    answer(&mut run, "choose", Ok(Outcome::of(Done::Point { point: half })));
    assert!(
        matches!(&run.steps[&step("choose")].state, StepState::Backoff { failure, .. } if failure.message.contains("documents"))
    );
}

#[test]
fn a_failed_drill_lets_what_is_in_flight_end_then_cleans_up_and_records() {
    let (mut run, _) = begin(drill(&Fixture::new(AssetState::Protected).inputs()).unwrap());
    succeed(&mut run, "choose");
    assert!(ids(&fail(&mut run, "rebuild-orders", false)).is_empty(), "documents are still being rebuilt");
    assert_eq!(run.state, RunState::Stopping);
    assert_eq!(ids(&succeed(&mut run, "rebuild-documents")), [("clean-up".into(), 1)]);
    assert_eq!(ids(&succeed(&mut run, "clean-up")), [("record".into(), 1)]);
    succeed(&mut run, "record");
    assert_eq!(run.state, RunState::Failed);
    assert_eq!(run.steps[&step("start-documents")].state, StepState::Cancelled);
}

#[test]
fn a_drill_whose_cleaning_up_fails_stays_open() {
    let (mut run, _) = begin(drill(&Fixture::new(AssetState::Protected).inputs()).unwrap());
    run.handle(Event::Abort { by: "ops".into() }, after_s(1)).unwrap();
    assert_eq!(ids(&run.resume()), [("clean-up".into(), 1)], "looking for a point need not be waited for");
    fail(&mut run, "clean-up", false);
    assert!(!run.state.has_ended());
    run.handle(Event::Retry { step: step("clean-up") }, after_s(2)).unwrap();
    finish(&mut run);
    assert_eq!(run.state, RunState::Aborted);
}

#[test]
fn a_failed_probe_is_asked_again_and_blocks_a_failover() {
    let (mut run, _) = begin(lost_site());
    for id in ["advance", "seal", "choose", "rebuild-orders", "start-orders"] {
        succeed(&mut run, id);
    }
    let refused = || Ok(Outcome::of(Done::Probed { passed: false, detail: "f".into() }));
    let effects = answer(&mut run, "probe-orders", refused());
    assert!(matches!(effects.last(), Some(Effect::Wake { .. })), "{effects:?}");
    assert!(!run.facts.probes[&"orders".parse().unwrap()].passed);
    let error = run.handle(Event::Abort { by: "ops".into() }, after_s(2)).unwrap_err();
    assert!(matches!(error, RunError::CutOver { .. }), "{error}");
    run.handle(Event::Skip { step: step("probe-orders"), by: "ops".into(), reason: "looked".into() }, after_s(2))
        .unwrap();
    finish(&mut run);
    assert_eq!(run.state, RunState::Done);
}

#[test]
fn what_was_rebuilt_by_hand_is_taken_over_by_the_start_that_follows() {
    let (mut run, _) = begin(lost_site());
    for id in ["advance", "seal", "choose"] {
        succeed(&mut run, id);
    }
    fail(&mut run, "rebuild-orders", false);
    let skip = |id: &str| Event::Skip { step: step(id), by: "ops".into(), reason: "restored by hand".into() };
    let by_hand = |effects: &[Effect]| match effects {
        [Effect::Act { command, .. }, ..] => match command.action {
            Action::Start { by_hand, .. } => by_hand,
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    assert!(by_hand(&run.handle(skip("rebuild-orders"), after_s(2)).unwrap()));
    assert!(!by_hand(&succeed(&mut run, "rebuild-documents")), "the agent has put it there itself");
    // Nobody else can tell the agent that it is written there now.
    fail(&mut run, "start-orders", false);
    let error = run.handle(skip("start-orders"), after_s(3)).unwrap_err();
    assert!(matches!(&error, RunError::NotSkippable { why, .. } if why.contains("retry it")), "{error}");
}

#[test]
fn a_run_whose_new_site_is_lost_can_be_given_up() {
    let give_up = || Event::GiveUp { by: "ops".into(), set_aside: vec!["/srv/east/pg.set-aside".into()] };
    let (mut run, _) = begin(lost_site());
    let early = run.handle(give_up(), after_s(1));
    assert!(matches!(early, Err(RunError::NotCutOver { .. })), "{early:?}: the change is under way");
    for id in ["advance", "seal", "choose"] {
        succeed(&mut run, id);
    }
    fail(&mut run, "rebuild-orders", false);
    assert!(run.handle(give_up(), after_s(2)).unwrap().is_empty(), "nothing is asked of a site that is lost");
    assert_eq!(run.state, RunState::Failed);
    assert!(matches!(run.steps[&step("rebuild-orders")].state, StepState::Failed { .. }), "what it failed of is kept");
    assert_eq!(run.steps[&step("rebuild-documents")].state, StepState::Cancelled);
    let given_up = run.facts.given_up.unwrap();
    assert_eq!((given_up.assertion.statement.as_str(), given_up.set_aside.len()), ("new_site_is_down", 1));

    let (mut run, _) = begin(switchover(&Fixture::new(AssetState::Staged).inputs(), &site("west")).unwrap());
    assert!(matches!(run.handle(give_up(), after_s(1)), Err(RunError::NotCutOver { .. })));
}

#[test]
fn an_abort_before_the_cut_over_starts_the_old_site_again() {
    let plan = switchover(&Fixture::new(AssetState::Staged).inputs(), &site("west")).unwrap();
    let (mut run, _) = begin(plan.clone());
    run.handle(Event::Abort { by: "ops".into() }, after_s(1)).unwrap();
    assert_eq!(run.state, RunState::Aborted, "nothing was stopped, nothing is to be taken back");

    let (mut run, _) = begin(plan);
    succeed(&mut run, "close");
    run.handle(Event::Abort { by: "ops".into() }, after_s(1)).unwrap();
    assert_eq!(ids(&run.resume()), [("stop".into(), 1)], "a stop that was sent is waited for");
    let effects = succeed(&mut run, "stop");
    assert_eq!(ids(&effects), [("undo-start-orders".into(), 1), ("undo-start-documents".into(), 1)]);
    for effect in &effects {
        let Effect::Act { site, command, .. } = effect else { panic!("{effect:?}") };
        assert_eq!((site.as_str(), command.epoch.0), ("east", 3));
    }
    let error = run.handle(Event::Retry { step: step("stop") }, after_s(2)).unwrap_err();
    assert!(matches!(error, RunError::NotNow { .. }), "{error}");
    finish(&mut run);
    assert_eq!(run.state, RunState::Aborted);
}

#[test]
fn a_switchover_that_hangs_in_between_can_be_aborted() {
    let plan = switchover(&Fixture::new(AssetState::Staged).inputs(), &site("west")).unwrap();
    let (mut run, _) = begin(plan);
    succeed(&mut run, "close");
    succeed(&mut run, "stop");
    fail(&mut run, "await", false);
    assert_eq!(run.state, RunState::Blocked);
    for id in ["await", "stop"] {
        let skip = Event::Skip { step: step(id), by: "ops".into(), reason: "by hand".into() };
        assert!(run.handle(skip, after_s(2)).is_err(), "{id}");
    }
    let effects = run.handle(Event::Abort { by: "ops".into() }, after_s(2)).unwrap();
    assert_eq!(ids(&effects).len(), 2, "{effects:?}");
    finish(&mut run);
    assert_eq!(run.state, RunState::Aborted);
}

#[test]
fn the_operators_word_stands_in_for_an_agent_that_does_not_answer() {
    let plan = || failover(&Fixture::new(AssetState::Protected).assert_down().inputs(), &site("west")).unwrap();
    let (mut run, effects) = begin(plan());
    let Some(Effect::Wake { at }) = effects.last() else { panic!("{effects:?}") };
    assert!(ids(&run.handle(Event::Tick, after_s(1)).unwrap()).is_empty());
    assert_eq!(ids(&run.handle(Event::Tick, *at).unwrap()), [("advance".into(), 1)]);
    assert!(run.facts.assertion.is_some());

    let (mut run, _) = begin(plan());
    let gone = Event::AgentGone { site: site("east") };
    assert_eq!(ids(&run.handle(gone, after_s(1)).unwrap()), [("advance".into(), 1)]);

    // An agent that says that it cannot stop is alive: the word is not taken for it.
    let (mut run, _) = begin(plan());
    fail(&mut run, "stop", false);
    assert_eq!((run.state, run.facts.assertion.is_none()), (RunState::Blocked, true));
    let no_reason = Event::Skip { step: step("stop"), by: "ops".into(), reason: " ".into() };
    assert!(matches!(run.handle(no_reason, after_s(2)), Err(RunError::NoReason { .. })));
    let skip = Event::Skip { step: step("stop"), by: "ops".into(), reason: "pulled the plug".into() };
    assert_eq!(ids(&run.handle(skip, after_s(2)).unwrap()), [("advance".into(), 1)]);
    assert!(run.facts.assertion.is_some());
}

#[test]
fn without_the_operators_word_an_agent_that_is_gone_is_waited_for() {
    let plan = failover(&Fixture::new(AssetState::Protected).inputs(), &site("west")).unwrap();
    let (mut run, _) = begin(plan);
    run.handle(Event::AgentGone { site: site("east") }, after_s(1)).unwrap();
    run.handle(Event::Tick, after_s(10_000)).unwrap();
    assert_eq!(ids(&run.resume()), [("stop".into(), 1)]);
}

#[test]
fn a_plan_that_was_changed_is_refused() {
    let mut plan = lost_site();
    plan.steps.remove(0);
    let error = Run::new("run-1".parse().unwrap(), plan, "ops", start()).unwrap_err();
    assert!(matches!(error, RunError::Tampered { .. }), "{error}");
}
