//! Two sites, their agents and a server, in virtual time and with everything that can fail failing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use levee_model::control::{Action, Answer, Command, Done, Failure, Place};
use levee_model::{Epoch, SiteName};
use levee_plan::{Effect, Event, Outcome, Plan, Run, RunState, StepId, StepState, Work};
use levee_testing::random::Random;

use crate::fixture::{ASSETS, site, start};
use crate::runs::{good, point};

/// An agent by the rules that real agents keep.
#[derive(Default)]
pub struct Agent {
    /// Durable: the highest epoch known, whether the app was stopped at it, answers given.
    pub epoch: u64,
    pub stopped: bool,
    pub is_writer: bool,
    answers: BTreeMap<String, Answer>,
    drill_leftovers: BTreeSet<String>,
    rebuilt: BTreeSet<String>,
    /// Not durable.
    pub connected: bool,
    inbox: VecDeque<Command>,
    at_work: Vec<Command>,
    /// Databases run on when the agent dies, until the site does.
    pub running: BTreeMap<String, u64>,
    /// The site is gone for good.
    pub dead: bool,
}

pub struct World {
    pub random: Random,
    pub seed: u64,
    pub now: Timestamp,
    pub agents: BTreeMap<SiteName, Agent>,
    /// Durable at the server.
    pub epoch: Epoch,
    pub writer: SiteName,
    kept: String,
    /// In the server's memory.
    run: Run,
    in_flight: BTreeMap<String, (SiteName, Command)>,
    served: Vec<(StepId, u32, Work)>,
    wake: Option<Timestamp>,
    answers: Vec<Answer>,
    pub log: Vec<String>,
    /// How likely each kind of trouble is, in percent.
    pub trouble: u64,
    stopped_at: Option<u64>,
    pub recorded: bool,
    pub switched: bool,
}

impl World {
    pub fn new(seed: u64, plan: Plan, trouble: u64) -> Self {
        let run = Run::new("run-1".parse().unwrap(), plan, "ops", start()).unwrap();
        let agent = |is_writer: bool| Agent {
            epoch: 3,
            is_writer,
            connected: true,
            running: if is_writer {
                ASSETS.iter().map(|name| (name.to_string(), 3)).collect()
            } else {
                BTreeMap::new()
            },
            ..Agent::default()
        };
        let mut world = Self {
            random: Random::new(seed),
            seed,
            now: start(),
            agents: BTreeMap::from([(site("east"), agent(true)), (site("west"), agent(false))]),
            epoch: Epoch(3),
            writer: site("east"),
            kept: serde_json::to_string(&run).unwrap(),
            run,
            in_flight: BTreeMap::new(),
            served: Vec::new(),
            wake: None,
            answers: Vec::new(),
            log: Vec::new(),
            trouble,
            stopped_at: None,
            recorded: false,
            switched: false,
        };
        world.event(Event::Begin);
        world
    }

    pub fn run(&self) -> &Run {
        &self.run
    }

    fn note(&mut self, what: impl std::fmt::Display) {
        self.log.push(format!("{} {what}", self.now.duration_since(start()).as_millis()));
    }

    /// The shell's three promises: handle, keep, then carry out.
    pub fn event(&mut self, event: Event) {
        let mut changed = self.run.clone();
        let described = format!("{event:?}");
        let Ok(effects) = changed.handle(event, self.now) else { return };
        self.note(format!("event {described}"));
        if self.random.chance(self.trouble / 4) {
            // Killed before the change was durable.
            return self.restart_server();
        }
        self.kept = serde_json::to_string(&changed).unwrap();
        self.run = changed;
        if self.random.chance(self.trouble / 4) {
            // Killed before the effects were carried out.
            return self.restart_server();
        }
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Act { site, command, .. } => {
                    self.in_flight.insert(command.id.clone(), (site.clone(), (*command).clone()));
                    let agent = self.agents.get_mut(&site).unwrap();
                    if agent.connected && !agent.dead {
                        agent.inbox.push_back(*command);
                    } else if agent.dead {
                        self.event(Event::AgentGone { site });
                    }
                }
                Effect::Serve { step, attempt, work } => self.served.push((step, attempt, work)),
                Effect::Wake { at } => self.wake = Some(self.wake.map_or(at, |wake| wake.min(at))),
            }
        }
        let run = &self.run;
        self.in_flight.retain(|id, _| {
            run.parse_command_id(id)
                .is_some_and(|(step, attempt)| run.steps[&step].state == StepState::Running { attempt })
        });
    }

    fn restart_server(&mut self) {
        self.note("server restarts");
        self.run = serde_json::from_str(&self.kept).unwrap();
        self.in_flight.clear();
        self.served.clear();
        self.wake = None;
        self.answers.clear();
        // Every connection is new: what was not taken in is lost, and sent again.
        self.agents.values_mut().for_each(|agent| agent.inbox.clear());
        let again = self.run.resume();
        self.carry_out(again);
        self.event(Event::Tick);
    }

    fn restart_agent(&mut self, name: &SiteName) {
        self.note(format!("agent {name} restarts"));
        let in_flight: Vec<Command> =
            self.in_flight.values().filter(|(site, _)| site == name).map(|(_, command)| command.clone()).collect();
        let agent = self.agents.get_mut(name).unwrap();
        agent.at_work.clear();
        agent.inbox = in_flight.into();
        agent.connected = true;
    }

    /// Everything at a site dies, and does not come back.
    pub fn kill_site(&mut self, name: &SiteName) {
        self.note(format!("site {name} dies"));
        let agent = self.agents.get_mut(name).unwrap();
        agent.dead = true;
        agent.connected = false;
        agent.running.clear();
        agent.at_work.clear();
        agent.inbox.clear();
        self.event(Event::AgentGone { site: name.clone() });
    }

    /// One random thing happens.
    pub fn happen(&mut self) {
        self.now = self.now.checked_add(SignedDuration::from_millis(1 + self.random.index(400) as i64)).unwrap();
        if self.random.chance(self.trouble) {
            match self.random.index(4) {
                0 => self.restart_server(),
                1 | 2 => {
                    let name = if self.random.chance(50) { site("east") } else { site("west") };
                    if !self.agents[&name].dead {
                        self.restart_agent(&name);
                    }
                }
                _ => self.operator(),
            }
        }
        let names: Vec<SiteName> = self.agents.keys().cloned().collect();
        match self.random.index(5) {
            0 => {
                let name = &names[self.random.index(names.len())];
                let agent = self.agents.get_mut(name).unwrap();
                if let Some(command) = agent.inbox.pop_front() {
                    match agent.answers.get(&command.id) {
                        Some(answer) => self.answers.push(answer.clone()),
                        None if agent.at_work.iter().any(|other| other.id == command.id) => {}
                        None => agent.at_work.push(command),
                    }
                }
            }
            1 => {
                let name = names[self.random.index(names.len())].clone();
                let count = self.agents[&name].at_work.len();
                if count > 0 {
                    let index = self.random.index(count);
                    let command = self.agents.get_mut(&name).unwrap().at_work.remove(index);
                    self.execute(&name, command);
                }
            }
            2 => {
                if !self.answers.is_empty() {
                    let index = self.random.index(self.answers.len());
                    let answer = self.answers[index].clone();
                    if !self.random.chance(self.trouble) {
                        self.answers.remove(index);
                    }
                    let (step, attempt) = self.run.parse_command_id(&answer.command).unwrap();
                    let result = answer.result.map(Outcome::of);
                    self.event(Event::Ended { step, attempt, result, seconds: answer.seconds });
                }
            }
            3 => {
                if !self.served.is_empty() {
                    let index = self.random.index(self.served.len());
                    let (step, attempt, work) = self.served.remove(index);
                    self.serve(step, attempt, work);
                }
            }
            _ => {
                if self.wake.is_some_and(|at| at <= self.now) {
                    self.wake = None;
                    self.event(Event::Tick);
                }
            }
        }
        self.check();
    }

    /// Someone who retries what has failed, and now and then what he should not.
    fn operator(&mut self) {
        let failed: Vec<StepId> = self
            .run
            .steps
            .iter()
            .filter(|(_, record)| matches!(record.state, StepState::Failed { .. }))
            .map(|(id, _)| id.clone())
            .collect();
        for step in failed {
            self.event(Event::Retry { step });
        }
        if self.random.chance(5) {
            self.event(Event::Abort { by: "ops".into() });
        }
    }

    fn execute(&mut self, name: &SiteName, command: Command) {
        let id = command.id.clone();
        let fails = self.random.chance(self.trouble);
        let result = if fails && self.random.chance(50) {
            Err(Failure { message: "trouble".into(), transient: self.random.chance(80) })
        } else {
            self.act(name, &command)
        };
        self.note(format!("{name} {id} {:?} -> {}", command.action, result.is_ok()));
        let result = match result {
            // Done, but the answer says otherwise: a crash between the two.
            Ok(_) if fails => Err(Failure { message: "unsure".into(), transient: true }),
            result => result,
        };
        let answer = Answer { command: id.clone(), result, seconds: 0.1 };
        let agent = self.agents.get_mut(name).unwrap();
        if !matches!(&answer.result, Err(failure) if failure.transient) {
            agent.answers.insert(id, answer.clone());
        }
        if !self.random.chance(self.trouble) {
            self.answers.push(answer);
        } else if let Some((_, command)) = self.in_flight.get(&answer.command) {
            // The answer is lost with its connection, which brings the command again.
            agent.inbox.push_back(command.clone());
        }
    }

    fn act(&mut self, name: &SiteName, command: &Command) -> Result<Done, Failure> {
        let refuse = |message: &str| Err(Failure { message: message.into(), transient: false });
        let epoch = command.epoch.0;
        let agent = self.agents.get_mut(name).unwrap();
        if epoch < agent.epoch || (epoch > agent.epoch && command.action != Action::Seal) {
            return refuse("another epoch is known");
        }
        match &command.action {
            Action::Stop { .. } => {
                agent.stopped = true;
                agent.running.clear();
                self.stopped_at = Some(1500);
                return Ok(Done::Stopped { point: point(1500), left: Default::default() });
            }
            Action::Seal => {
                assert!(!agent.is_writer, "a writer was told to seal");
                agent.epoch = epoch;
            }
            Action::Rebuild { asset, place: Place::Live, .. } => {
                agent.rebuilt.insert(asset.to_string());
            }
            Action::Rebuild { asset, place: Place::Drill, .. } | Action::Start { asset, place: Place::Drill, .. } => {
                agent.drill_leftovers.insert(asset.to_string());
            }
            Action::Start { asset, place: Place::Live, .. } => {
                if !agent.is_writer && self.writer != *name {
                    return refuse("another site writes");
                }
                agent.running.insert(asset.to_string(), epoch);
                if agent.is_writer {
                    agent.stopped = false;
                }
            }
            Action::CleanUp => agent.drill_leftovers.clear(),
            Action::CatchUp { position, .. } => {
                let wanted = point(self.stopped_at.unwrap_or(1000));
                assert!(wanted.assets.values().any(|asset| asset.position == *position), "a wrong position");
            }
            Action::Await { .. }
            | Action::ChoosePoint
            | Action::Stage { .. }
            | Action::Probe { .. }
            | Action::SwitchEntry { .. }
            | Action::SetAside => {}
        }
        let (step, _) = self.run.parse_command_id(&command.id).unwrap();
        Ok(self.run.step(&step).map_or(Done::Nothing, |(step, _)| good(&step.work).done))
    }

    fn serve(&mut self, step: StepId, attempt: u32, work: Work) {
        let mut result = Ok(Outcome::of(Done::Nothing));
        match &work {
            Work::AdvanceEpoch { to, writer } => {
                if self.epoch.next() == *to {
                    self.check_fence();
                    self.epoch = *to;
                    self.writer = writer.clone();
                    self.note(format!("epoch {to} for {writer}"));
                } else if (self.epoch, &self.writer) != (*to, writer) {
                    result = Err(Failure { message: "not from here".into(), transient: false });
                }
            }
            Work::SwitchEntry { .. } => {
                let west = &self.agents[&site("west")];
                let switched_early = ASSETS.iter().any(|name| !west.running.contains_key(*name));
                assert!(!switched_early || self.epoch.0 == 3, "seed {}: users were sent to nothing", self.seed);
                self.switched = true;
            }
            Work::RecordProof => self.recorded = true,
            _ => {}
        }
        if self.random.chance(self.trouble / 2) {
            // Killed after the deed, before anyone heard of it.
            return self.restart_server();
        }
        if self.random.chance(self.trouble / 2) {
            result = Err(Failure { message: "disk full".into(), transient: true });
        }
        self.event(Event::Ended { step, attempt, result, seconds: 0.1 });
    }

    /// At the moment of the cut-over the old site can write no more.
    fn check_fence(&self) {
        let east = &self.agents[&site("east")];
        let fenced = east.dead || (east.stopped && east.running.is_empty());
        assert!(fenced, "seed {}: cut over without a fence\n{}", self.seed, self.log.join("\n"));
    }

    fn check(&self) {
        let writers = self.agents.values().filter(|agent| !agent.running.is_empty()).count();
        assert!(writers <= 1, "seed {}: two writers\n{}", self.seed, self.log.join("\n"));
        if self.run.plan.kind == levee_plan::PlanKind::Drill {
            assert!(!self.agents[&site("east")].stopped && self.epoch.0 == 3 && !self.switched);
        }
        if self.run.state == RunState::Done {
            assert!(self.run.steps.values().all(|record| record.state.counts_as_done()), "seed {}", self.seed);
        }
    }

    pub fn leftovers(&self) -> usize {
        self.agents.values().map(|agent| agent.drill_leftovers.len()).sum()
    }
}
