use levee_model::Epoch;
use levee_model::control::AssetState;
use levee_plan::{Measurements, Plan, PlanError, drill, failover, protect, switchover};

use crate::fixture::{Fixture, after_s, site, step};

fn shape(plan: &Plan) -> Vec<String> {
    plan.steps
        .iter()
        .map(|step| {
            let after: Vec<&str> = step.after.iter().map(|id| id.as_str()).collect();
            format!("{} @{} e{} < {}", step.id, step.at, step.epoch, after.join(" "))
        })
        .collect()
}

#[test]
fn a_failover_of_a_lost_site() {
    let fixture = Fixture::new(AssetState::Protected).disconnect("east").assert_down();
    let plan = failover(&fixture.inputs(), &site("west")).unwrap();
    assert_eq!(
        shape(&plan),
        [
            "assert @server e3 < ",
            "advance @server e3 < assert",
            "seal @west e4 < advance",
            "choose @west e4 < seal",
            "rebuild-orders @west e4 < choose",
            "start-orders @west e4 < rebuild-orders",
            "probe-orders @west e4 < start-orders",
            "rebuild-documents @west e4 < choose",
            "start-documents @west e4 < rebuild-documents",
            "probe-documents @west e4 < start-documents",
            "switch @DNS nodes e4 < probe-orders probe-documents",
        ]
    );
    let record = &plan.entries[0];
    assert_eq!((record.name.as_str(), record.ttl_s, record.epoch), ("shop.example.test.", 2, Epoch(4)));
    assert_eq!(record.address.unwrap().to_string(), "127.0.0.3");
    let orders = &plan.prediction.assets[0];
    assert_eq!((orders.age_s, orders.log_behind_bytes), (Some(2.0), Some(500)));
    assert_eq!(plan.prediction.recovery_point_age_s, Some(2.0));
}

#[test]
fn a_failover_uses_a_standby_and_stops_an_old_agent_that_is_there() {
    let plan = failover(&Fixture::new(AssetState::Staged).assert_down().inputs(), &site("west")).unwrap();
    let shape = shape(&plan);
    assert_eq!(shape[0], "stop @east e3 < ");
    assert!(shape.contains(&"rebuild-orders @west e4 < choose".into()), "{shape:?}");
    let title =
        |asset: &str| &plan.steps.iter().find(|step| step.id.as_str() == format!("rebuild-{asset}")).unwrap().title;
    assert_eq!(title("orders"), "Let the staged copy of orders catch up at west");
}

#[test]
fn a_switchover_stages_stops_waits_and_only_then_cuts_over() {
    let plan = switchover(&Fixture::new(AssetState::Protected).inputs(), &site("west")).unwrap();
    assert_eq!(
        shape(&plan),
        [
            "stage-orders @west e3 < ",
            "stage-documents @west e3 < ",
            "close @server e3 < stage-orders stage-documents",
            "stop @east e3 < close",
            "await @west e3 < stop",
            "catch-up-orders @west e3 < await",
            "catch-up-documents @west e3 < await",
            "advance @server e3 < catch-up-orders catch-up-documents",
            "seal @west e4 < advance",
            "start-orders @west e4 < seal",
            "probe-orders @west e4 < start-orders",
            "start-documents @west e4 < seal",
            "probe-documents @west e4 < start-documents",
            "switch @DNS nodes e4 < probe-orders probe-documents",
        ]
    );
    let staged = switchover(&Fixture::new(AssetState::Staged).inputs(), &site("west")).unwrap();
    assert!(!shape(&staged).iter().any(|line| line.starts_with("stage")));
}

#[test]
fn a_drill_touches_neither_the_app_nor_its_entries_and_always_cleans_up() {
    let plan = drill(&Fixture::new(AssetState::Protected).inputs()).unwrap();
    let shape = shape(&plan);
    assert!(shape.iter().all(|line| line.contains("@west e3") || line.starts_with("record @server")), "{shape:?}");
    let others: Vec<&str> = plan.steps.iter().map(|step| step.id.as_str()).take(7).collect();
    assert!(shape.contains(&format!("clean-up @west e3 < {}", others.join(" "))), "{shape:?}");
    assert!(plan.entries.is_empty() && plan.cut_over().is_none());
}

#[test]
fn a_reprotect_sets_aside_only_where_no_copies_are() {
    let holds = protect(&Fixture::new(AssetState::Copying).inputs()).unwrap();
    assert_eq!(shape(&holds), ["protect @server e3 < "]);
    let empty = protect(&Fixture::new(AssetState::Waiting).inputs()).unwrap();
    assert_eq!(shape(&empty), ["set-aside @west e3 < ", "protect @server e3 < set-aside"]);
}

#[test]
fn what_is_refused_says_what_to_do() {
    type Make = fn(&Fixture) -> Result<Plan, PlanError>;
    let to_west: Make = |fixture| failover(&fixture.inputs(), &site("west"));
    let over: Make = |fixture| switchover(&fixture.inputs(), &site("west"));
    let protected = || Fixture::new(AssetState::Protected);
    let check = |fixture: Fixture, make: Make, expected: &[&str]| {
        let error = make(&fixture).unwrap_err().to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    };
    check(protected().disconnect("east"), to_west, &["without a word on east", "agent at east", "--old-site-is-down"]);
    check(protected().disconnect("west").assert_down(), to_west, &["west is not connected"]);
    check(protected(), |f| failover(&f.inputs(), &site("east")), &["writes there already (epoch 3)"]);
    check(protected(), |f| failover(&f.inputs(), &site("north")), &["its sites are east and west"]);
    check(protected().disconnect("east"), over, &["east is not connected"]);
    check(Fixture::new(AssetState::Received), over, &["orders is not protected at west (received)"]);
    let mut nobody = protected();
    nobody.agents.pop();
    check(nobody, to_west, &["no agent of site west has joined"]);
    let mut old_word = protected();
    old_word.parent.epoch = Epoch(4);
    check(old_word, to_west, &["no complete recovery point of orders for epoch 4", "take orders out"]);
}

#[test]
fn an_id_stands_for_the_content_and_survives_json() {
    let fixture = Fixture::new(AssetState::Protected);
    let plan = drill(&fixture.inputs()).unwrap();
    assert_eq!(plan.id, plan.content_id());
    let text = serde_json::to_string(&plan).unwrap();
    let read: Plan = serde_json::from_str(&text).unwrap();
    assert_eq!(read, plan);
    assert_eq!(read.content_id(), plan.id);
    let mut changed = plan.clone();
    changed.steps[0].title.push('!');
    assert_ne!(changed.content_id(), plan.id);
    assert!(plan.is_fresh(&fixture.parent));
    let mut later = fixture.parent.clone();
    later.revision += 1;
    assert!(!plan.is_fresh(&later));
}

#[test]
fn a_prediction_adds_up_the_longest_chain() {
    let mut fixture = Fixture::new(AssetState::Protected).disconnect("east").assert_down();
    let seconds = [("rebuild-orders", 10.0), ("rebuild-documents", 4.0), ("start-orders", 2.5), ("seal", 0.1234)];
    fixture.measurements =
        Measurements { seconds: seconds.into_iter().map(|(id, seconds)| (step(id), seconds)).collect() };
    let plan = failover(&fixture.inputs(), &site("west")).unwrap();
    assert_eq!(plan.prediction.recovery_time_s, Some(12.623));
    let text = plan.to_string();
    assert!(text.contains("orders: 0/3E8 on timeline 1, 2.0 s old, 500 bytes of log not at west yet"), "{text}");
    assert!(!text.contains("last heard of"), "it spoke a moment ago: {text}");
    assert!(text.contains("expected to take 13 s"), "{text}");
    // What is said of the old site is as old as its last word.
    fixture.agents[0].heard_at = Some(after_s(-60));
    let text = failover(&fixture.inputs(), &site("west")).unwrap().to_string();
    assert!(text.contains("east was last heard of 62 s before this"), "{text}");
    fixture.agents[0].heard_at = None;
    let text = failover(&fixture.inputs(), &site("west")).unwrap().to_string();
    assert!(text.contains("what it had written is not known"), "{text}");

    let mut fixture = Fixture::new(AssetState::Protected);
    fixture.measurements = Measurements {
        seconds: [("stage-orders", 60.0), ("stop", 1.0), ("start-orders", 1.0)]
            .into_iter()
            .map(|(id, seconds)| (step(id), seconds))
            .collect(),
    };
    let plan = switchover(&fixture.inputs(), &site("west")).unwrap();
    assert_eq!(plan.prediction.recovery_time_s, Some(2.0), "staging is no part of the interruption");
}

#[test]
fn an_age_is_taken_on_the_sources_clock() {
    let mut fixture = Fixture::new(AssetState::Protected);
    fixture.agents[0].clock_ahead_ms = 3_600_000;
    for status in &mut fixture.agents[1].status.as_mut().unwrap().assets {
        let point = status.point.as_mut().unwrap();
        point.as_of = point.as_of.checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
    }
    let plan = drill(&fixture.inputs()).unwrap();
    assert_eq!(plan.prediction.recovery_point_age_s, Some(2.0));
}
