//! Seeded: `LEVEE_SEED=N` plays one seed again.

use levee_model::control::AssetState;
use levee_plan::{Event, Plan, PlanKind, RunState, StepState, drill, failover, switchover};

use crate::fixture::{ASSETS, Fixture, site};
use crate::world::World;

const SEEDS: u64 = 400;
/// Far more than any run needs; one that takes longer would never end.
const EVENTS_MAX: usize = 60_000;

fn seeds() -> Vec<u64> {
    match std::env::var("LEVEE_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..SEEDS).collect(),
    }
}

/// Plays a run to its end. `meddle` is asked before each event.
fn play(seed: u64, plan: Plan, mut meddle: impl FnMut(&mut World, usize)) -> World {
    let trouble = [0, 4, 15, 30][(seed % 4) as usize];
    let mut world = World::new(seed, plan, trouble);
    for event in 0..EVENTS_MAX {
        if world.run().state.has_ended() {
            return world;
        }
        // Trouble does not last for ever; what is left then must come to an end.
        if event == EVENTS_MAX / 2 {
            world.trouble = 0;
        }
        let failed: Vec<_> = world
            .run()
            .steps
            .iter()
            .filter(|(_, record)| matches!(record.state, StepState::Failed { .. }))
            .map(|(id, _)| id.clone())
            .collect();
        if !failed.is_empty() && event % 50 == 49 {
            for step in failed {
                world.event(Event::Retry { step });
            }
        }
        meddle(&mut world, event);
        world.happen();
    }
    panic!("seed {seed}: it does not end\n{:?}\n{}", world.run().steps, world.log.join("\n"));
}

fn writes_at(world: &World, name: &str) -> bool {
    ASSETS.iter().all(|asset| world.agents[&site(name)].running.contains_key(*asset))
}

#[test]
fn switchovers_end_with_one_writer_whatever_happens() {
    let (mut done, mut aborted) = (0, 0);
    for seed in seeds() {
        let state = if seed % 3 == 0 { AssetState::Protected } else { AssetState::Staged };
        let plan = switchover(&Fixture::new(state).inputs(), &site("west")).unwrap();
        let abort_at = (seed % 5 == 0).then_some((seed % 97) as usize);
        let world = play(seed, plan, |world, event| {
            if Some(event) == abort_at {
                world.event(Event::Abort { by: "ops".into() });
            }
        });
        let (state, epoch) = (world.run().state, world.epoch.0);
        match state {
            RunState::Done => {
                done += 1;
                assert!(writes_at(&world, "west") && world.switched && epoch == 4, "seed {seed}");
            }
            RunState::Aborted => {
                aborted += 1;
                assert!(writes_at(&world, "east") && !world.switched && epoch == 3, "seed {seed}");
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    if seeds().len() > 1 {
        assert!(done > 100 && aborted > 20, "{done} done, {aborted} aborted");
    }
}

#[test]
fn failovers_bring_the_app_up_once() {
    for seed in seeds() {
        let fixture = Fixture::new(AssetState::Protected);
        // The site is lost before, during or not at all; the operator says so only when it is or will be.
        let fixture = match seed % 3 {
            0 => fixture,
            1 => fixture.disconnect("east").assert_down(),
            _ => fixture.assert_down(),
        };
        let plan = failover(&fixture.inputs(), &site("west")).unwrap();
        // Where the word is given, the site is dead before anyone acts on the word.
        let world = play(seed, plan, |world, event| {
            if event == 0 && seed % 3 != 0 {
                world.kill_site(&site("east"));
            }
        });
        match world.run().state {
            RunState::Done => assert!(writes_at(&world, "west") && world.switched && world.epoch.0 == 4, "seed {seed}"),
            RunState::Aborted => assert!(world.epoch.0 == 3 && !world.switched, "seed {seed}"),
            other => panic!("seed {seed}: {other:?}"),
        }
    }
}

#[test]
fn drills_leave_nothing_behind() {
    let mut failed = 0;
    for seed in seeds() {
        let plan = drill(&Fixture::new(AssetState::Protected).inputs()).unwrap();
        assert_eq!(plan.kind, PlanKind::Drill);
        let world = play(seed, plan, |_, _| {});
        assert!(world.run().state.has_ended() && world.leftovers() == 0 && world.recorded, "seed {seed}");
        assert!(writes_at(&world, "east"), "seed {seed}");
        failed += usize::from(world.run().state != RunState::Done);
    }
    if seeds().len() > 1 {
        assert!(failed > 10, "only {failed} drills met trouble");
    }
}
