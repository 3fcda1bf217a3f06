//! Each process killed at each step of each kind of run. The run goes on by itself, or can be retried;
//! no acknowledged order is missing, and there are never two writers.

use levee_testing::postgres::Session;
use rustix::process::Signal;

use super::orders::Orders;
use super::runs::{Begun, Kind};
use super::seed::Moments;
use super::traces::{KEPT_BY_DRILLS, Traces};
use super::upkeep::names;
use super::world::{PATIENCE, Process, Site, World};
use super::writers::WriterWatch;

/// A kill comes so long after the step has begun, at most.
const DELAY_MS_MAX: u64 = 300;

/// So many of all kills of a kind of run are made when not all are asked for.
const KILLS_AT_RANDOM: usize = 4;

/// So many processes have their turn in a re-protect when not all are asked for: a site is lost for each.
const REPROTECTS_AT_RANDOM: usize = 2;

/// The same for failovers of a lost site.
const LOST_SITES_AT_RANDOM: usize = 2;

/// Who is killed, by its part in the run.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Server,
    /// The agent where the shop is written.
    Old,
    /// The agent at the other site.
    New,
    /// PostgreSQL where the shop is written, with no agent.
    OldDatabase,
    /// PostgreSQL at the other site, as far as it runs: what a drill rebuilds, too.
    NewDatabase,
}

const PROCESSES_OF_LEVEE: [Victim; 3] = [Victim::Server, Victim::Old, Victim::New];
const DATABASES: [Victim; 2] = [Victim::OldDatabase, Victim::NewDatabase];
/// At the site that comes home no database runs.
const OF_REPROTECT: [Victim; 4] = [Victim::Server, Victim::Old, Victim::New, Victim::OldDatabase];
/// At a lost site nothing is left to be killed.
const OF_LOST_SITE: [Victim; 3] = [Victim::Server, Victim::New, Victim::NewDatabase];

/// A world in which the shop takes orders, whose processes are killed again and again.
struct Story {
    world: World,
    orders: Orders,
    watch: WriterWatch,
    moments: Moments,
    writer: Site,
}

impl Story {
    fn begin() -> Story {
        let world = World::protected();
        let orders = Orders::start(world.databases());
        let watch = WriterWatch::start(world.databases());
        Story { orders, watch, moments: Moments::new(), writer: Site::East, world }
    }

    /// Carries out one run, with a kill at each of these steps. The shop is protected before and after.
    #[track_caller]
    fn run(&mut self, kind: Kind, kills: &[(Victim, &str)]) {
        self.orders.wait_for_more_at(self.world.database(self.writer), PATIENCE);
        let to = self.writer.other();
        let before_drill = (kind == Kind::Drill).then(|| Traces::of(&self.world, to));
        let run = Begun::new(&self.world, &kind.command(to));
        for (victim, step) in kills {
            run.wait_begun(&self.world, step);
            std::thread::sleep(self.moments.up_to(DELAY_MS_MAX));
            self.kill_victim(*victim, to);
        }
        let ended = match run.wait_ended(&self.world) {
            Ok(ended) => ended,
            // A drill's copy that dies is a drill that has failed, and says so. Nothing of it may be left.
            Err(state)
                if kind == Kind::Drill && kills.iter().any(|(victim, _)| matches!(victim, Victim::NewDatabase)) =>
            {
                assert_eq!(state["state"], "failed", "{state:#}");
                assert_eq!(state["steps"]["clean-up"]["state"], "done", "{state:#}");
                let copies = self.world.shop_folder(to).join("runs").join(&run.id);
                assert!(!copies.exists(), "{} is left", copies.display());
                self.check_nothing_left(to, before_drill.as_ref());
                println!("{kind:?} with {kills:?}: failed");
                return self.world.wait_protected(self.writer);
            }
            Err(state) => panic!("the run ended badly: {state:#}\n{}", self.world.log_tails()),
        };
        self.check_nothing_left(to, before_drill.as_ref());
        if kind != Kind::Drill {
            self.writer = to;
        }
        self.start_database();
        self.orders.check_all_in(self.world.database(self.writer));
        self.world.wait_protected(self.writer);
        println!(
            "{kind:?} to {} with {kills:?}: done {:.1} s after the last, {} retries",
            to.name(),
            ended.took.as_secs_f64(),
            ended.retries
        );
    }

    /// Loses the site where the shop is written, brings the shop back at the other one, and lets the lost site come home.
    /// In the re-protect that this takes, one process is killed at each step. Returns the steps.
    #[track_caller]
    fn lose_and_reprotect(&mut self, victim: Victim) -> Vec<String> {
        self.orders.wait_for_more_at(self.world.database(self.writer), PATIENCE);
        let lost = self.writer;
        let agent_first = self.moments.coin();
        self.world.lose(lost, agent_first);
        self.writer = lost.other();
        self.world.expect(&["failover", "shop", "--to", self.writer.name(), "--old-site-is-down"]);
        let set_aside_before = set_aside(&self.world, lost);

        // The writer's agent gives the returned site its copies by itself: it sleeps until the run has begun, so that
        // everything is still to be done.
        self.world.running(Process::Agent(self.writer)).signal(Signal::STOP);
        self.world.start(Process::Agent(lost));
        self.world.wait_connected(lost, true);
        let begun = Begun::try_new(&self.world, &Kind::Reprotect.command(lost));
        self.world.running(Process::Agent(self.writer)).signal(Signal::CONT);
        let run = begun.unwrap_or_else(|refusal| {
            // Where the machine has much else to do, the sleeper counts as away already.
            println!("the re-protect is begun later: {}", refusal.trim());
            self.world.wait_connected(self.writer, true);
            Begun::new(&self.world, &Kind::Reprotect.command(lost))
        });
        let steps = run.steps(&self.world);
        for step in &steps {
            run.wait_begun(&self.world, step);
            std::thread::sleep(self.moments.up_to(DELAY_MS_MAX));
            self.kill_victim(victim, lost);
            // The copies are made from it: nothing goes on without it.
            self.start_database();
        }
        let ended = run.wait_done(&self.world);
        assert_eq!(run.state(&self.world)["plan"]["to"], lost.name());
        self.world.wait_protected(self.writer);
        self.orders.wait_for_more_at(self.world.database(self.writer), PATIENCE);
        self.orders.check_all_in(self.world.database(self.writer));
        // Old data are moved out of the way, and only once.
        assert_eq!(set_aside(&self.world, lost), set_aside_before + 1, "{:?}", names(&self.world.folder(lost)));
        println!(
            "re-protect at {} with {victim:?} killed at {steps:?}: done {:.1} s after the last, {} retries",
            lost.name(),
            ended.took.as_secs_f64(),
            ended.retries
        );
        steps
    }

    /// Loses the site where the shop is written, and brings the shop back at the other one. In this failover one process is
    /// killed at one step: the one of this index, or any. Then the lost site comes home. Returns the failover's steps.
    #[track_caller]
    fn lose_and_fail_over(&mut self, victim: Victim, index: Option<usize>) -> Vec<String> {
        self.orders.wait_for_more_at(self.world.database(self.writer), PATIENCE);
        let (lost, to) = (self.writer, self.writer.other());
        let agent_first = self.moments.coin();
        self.world.lose(lost, agent_first);
        // An agent that still counts as connected would be asked to stop first, and the steps would be others.
        self.world.wait_connected(lost, false);
        let run = Begun::of_lost(&self.world, lost);
        let steps = run.steps(&self.world);
        let index = index.unwrap_or_else(|| self.moments.some_of(0..steps.len(), 1)[0]);
        let step = steps.get(index).unwrap_or_else(|| panic!("there is no step {index} in {steps:?}"));
        run.wait_begun(&self.world, step);
        std::thread::sleep(self.moments.up_to(DELAY_MS_MAX));
        self.kill_victim(victim, to);
        let ended = run.wait_done(&self.world);
        self.writer = to;
        self.start_database();
        // With zero loss the other site had everything that was acknowledged.
        let acknowledged = self.orders.check_all_in(self.world.database(to));

        // Its agent alone comes back: its database must not start.
        self.world.start(Process::Agent(lost));
        self.world.wait_protected(to);
        self.orders.wait_for_more_at(self.world.database(to), PATIENCE);
        self.orders.check_all_in(self.world.database(to));
        println!(
            "{} lost after {acknowledged} orders, with {victim:?} killed at {step}: done {:.1} s after, {} retries",
            lost.name(),
            ended.took.as_secs_f64(),
            ended.retries
        );
        steps
    }

    /// Checks that a drill has left nothing behind, where the run was one.
    #[track_caller]
    fn check_nothing_left(&self, site: Site, before_drill: Option<&Traces>) {
        if let Some(before) = before_drill {
            Traces::check_nothing_left(&self.world, site, before, &KEPT_BY_DRILLS);
        }
    }

    fn kill_victim(&mut self, victim: Victim, to: Site) {
        match victim {
            Victim::Server => self.kill(Process::Server),
            Victim::Old => self.kill(Process::Agent(self.writer)),
            Victim::New => self.kill(Process::Agent(to)),
            Victim::OldDatabase => self.world.kill_databases(self.writer),
            Victim::NewDatabase => self.world.kill_databases(to),
        }
    }

    fn kill(&mut self, process: Process) {
        self.world.kill(process);
        self.world.start(process);
    }

    /// What an operator does for a database that was killed where the shop is written.
    #[track_caller]
    fn start_database(&self) {
        if Session::open(self.world.database(self.writer), "shop", "shop").is_err() {
            let output = self.world.start_database(self.writer);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    #[track_caller]
    fn end(self) {
        self.orders.wait_for_more_at(self.world.database(self.writer), PATIENCE);
        let acknowledged = self.orders.check_all_in(self.world.database(self.writer));
        self.watch.check();
        println!("{acknowledged} orders acknowledged, 0 lost, never two writers");
    }
}

/// How many data directories lie set aside at a site.
fn set_aside(world: &World, site: Site) -> usize {
    names(&world.folder(site)).iter().filter(|name| name.starts_with("postgres.") && name.contains("aside")).count()
}

#[test]
fn a_failover_survives_a_server_that_is_killed_at_every_step() {
    let mut story = Story::begin();
    let steps = Kind::Failover.steps(&story.world, Site::West);
    assert!(steps.len() >= 8, "{steps:?}");
    let kills: Vec<(Victim, &str)> = steps.iter().map(|step| (Victim::Server, step.as_str())).collect();
    story.run(Kind::Failover, &kills);
    story.end();
}

#[test]
fn runs_survive_agents_that_are_killed_in_them() {
    let mut story = Story::begin();
    story.run(Kind::Failover, &[(Victim::Old, "stop"), (Victim::New, "rebuild-orders"), (Victim::New, "start-orders")]);
    // At its last step the new writer's log is on its way to the old site already.
    story.run(Kind::Switchover, &[(Victim::Old, "stop"), (Victim::New, "catch-up-orders"), (Victim::Old, "switch")]);
    story.end();
}

#[test]
fn a_database_that_dies_at_either_site_holds_no_run_up() {
    let mut story = Story::begin();
    // What was started at the new site dies before it is asked anything.
    story.run(Kind::Failover, &[(Victim::NewDatabase, "probe-orders")]);
    // What is about to be stopped at the old one is dead already: it recovers, so that nothing is lost.
    story.run(Kind::Switchover, &[(Victim::OldDatabase, "stop"), (Victim::NewDatabase, "probe-orders")]);
    story.end();
}

/// Kills each of these at each step, in a run of its own each. All of it takes ten minutes, so without `LEVEE_E2E_ALL=1`
/// it is some of it, other each time.
fn kill_each_at_each_step(victims: &[Victim], kind: Kind) {
    let mut story = Story::begin();
    let steps = kind.steps(&story.world, story.writer.other());
    let all = steps.iter().flat_map(|step| victims.iter().map(|victim| (*victim, step.as_str())));
    let kills: Vec<_> = match std::env::var_os("LEVEE_E2E_ALL") {
        Some(_) => all.collect(),
        None => story.moments.some_of(all, KILLS_AT_RANDOM),
    };
    for kill in kills {
        story.run(kind, &[kill]);
    }
    story.end();
}

/// The old site's agent has no part in a drill, which is why it must not disturb one either.
#[test]
fn each_process_can_be_killed_at_each_step_of_a_drill() {
    kill_each_at_each_step(&PROCESSES_OF_LEVEE, Kind::Drill);
}

#[test]
fn each_process_can_be_killed_at_each_step_of_a_failover() {
    kill_each_at_each_step(&PROCESSES_OF_LEVEE, Kind::Failover);
}

#[test]
fn each_process_can_be_killed_at_each_step_of_a_switchover() {
    kill_each_at_each_step(&PROCESSES_OF_LEVEE, Kind::Switchover);
}

#[test]
fn each_process_can_be_killed_at_each_step_of_a_reprotect() {
    let all = std::env::var_os("LEVEE_E2E_ALL").is_some();
    let mut story = Story::begin();
    let victims = match all {
        true => OF_REPROTECT.to_vec(),
        false => story.moments.some_of(OF_REPROTECT.into_iter(), REPROTECTS_AT_RANDOM),
    };
    for (round, victim) in victims.into_iter().enumerate() {
        // A site that comes home with copies of an earlier time has set its old data aside by then: the step is there only
        // where the site never was the recovery site.
        if all && round > 0 {
            story.end();
            story = Story::begin();
        }
        let steps = story.lose_and_reprotect(victim);
        assert!(!all || steps.len() == 2, "{steps:?}");
    }
    story.end();
}

#[test]
fn each_process_can_be_killed_at_each_step_of_a_failover_of_a_lost_site() {
    let mut story = Story::begin();
    if std::env::var_os("LEVEE_E2E_ALL").is_none() {
        for victim in story.moments.some_of(OF_LOST_SITE.into_iter(), LOST_SITES_AT_RANDOM) {
            story.lose_and_fail_over(victim, None);
        }
        return story.end();
    }
    for (round, victim) in OF_LOST_SITE.into_iter().enumerate() {
        // What a site sets aside when it comes home stays there: a new story frees the disk.
        if round > 0 {
            story.end();
            story = Story::begin();
        }
        // Which steps there are is known only when a site is lost.
        let steps = story.lose_and_fail_over(victim, Some(0));
        for index in 1..steps.len() {
            story.lose_and_fail_over(victim, Some(index));
        }
    }
    story.end();
}

#[test]
fn each_database_can_be_killed_at_each_step_of_a_drill() {
    kill_each_at_each_step(&DATABASES, Kind::Drill);
}

#[test]
fn each_database_can_be_killed_at_each_step_of_a_failover() {
    kill_each_at_each_step(&DATABASES, Kind::Failover);
}

#[test]
fn each_database_can_be_killed_at_each_step_of_a_switchover() {
    kill_each_at_each_step(&DATABASES, Kind::Switchover);
}
