//! An agent that joins for real and does nothing but remember what it was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use levee_model::control::{
    Action, AgentStatus, Answer, AssetPoint, AssetState, AssetStatus, Command, Desired, Done, Failure, KnownApp,
    RecoveryPoint, Role, VerifiedBackup,
};
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use levee_model::{AgentId, AppName, AssetName, Epoch, LogPosition, Position, SiteName, VaultName};
use levee_wire::{AgentKey, Credentials, FromAgent, FromServer, JoinToken, ServerClient};
use tokio::task::JoinHandle;

/// What the tests look at and meddle with.
#[derive(Default)]
pub struct Memory {
    pub desired: Desired,
    /// What is wanted is not taken over while this is set.
    pub slow: bool,
    /// What came meanwhile.
    unread: Option<Desired>,
    pub commands: Vec<Command>,
    /// Actions (by their name) that fail, and whether it may pass.
    pub failing: BTreeMap<&'static str, bool>,
    /// Actions that are never answered.
    pub hanging: BTreeSet<&'static str>,
    /// Assets that are kept replaying.
    pub staged: BTreeSet<AssetName>,
    /// Nothing is protected while this is set.
    pub waiting: bool,
    pub clock_ahead_s: i64,
    /// How old the newest point is.
    pub behind: SignedDuration,
    /// A copy a minute older than the newest point was read back and checked.
    pub verified: bool,
    /// How old the newest copy in each further vault is.
    pub vaults: BTreeMap<VaultName, SignedDuration>,
    /// What is worth knowing of each asset that is kept here, and no problem.
    pub notes: Vec<String>,
    /// What the agent says that it holds durably.
    pub known: BTreeMap<AppName, KnownApp>,
    stopped: BTreeMap<String, u64>,
    entries: BTreeMap<String, Epoch>,
}

#[derive(Clone)]
pub struct Agent {
    pub id: AgentId,
    pub site: SiteName,
    pub memory: Arc<Mutex<Memory>>,
    credentials: Credentials,
    server: String,
}

pub fn name_of(action: &Action) -> &'static str {
    match action {
        Action::Stop { .. } => "stop",
        Action::Seal => "seal",
        Action::Await { .. } => "await",
        Action::ChoosePoint => "choose",
        Action::Rebuild { .. } => "rebuild",
        Action::Stage { .. } => "stage",
        Action::CatchUp { .. } => "catch-up",
        Action::Start { .. } => "start",
        Action::Probe { .. } => "probe",
        Action::SwitchEntry { .. } => "switch",
        Action::CleanUp => "clean-up",
        Action::SetAside => "set-aside",
    }
}

fn position(asset: &str) -> Position {
    match asset {
        "orders" => Position::Log(LogPosition {
            system_identifier: SystemIdentifier(7),
            timeline: TimelineId(1),
            lsn: Lsn(1000),
        }),
        _ => Position::Snapshot { id: "a".repeat(64), taken_at: Timestamp::now() },
    }
}

impl Agent {
    pub async fn join(token: &str, id: &str, site: &str) -> levee_wire::Result<Agent> {
        let token = JoinToken::parse(token).unwrap();
        let (id, site): (AgentId, SiteName) = (id.parse().unwrap(), site.parse().unwrap());
        let key = AgentKey::generate()?;
        let (identity, answer) = levee_wire::join(&token, &id, &site, &key).await?;
        let authority = answer.issued.chain.last().unwrap().clone();
        let credentials = Credentials::new(authority, identity, answer.grant_key)?;
        Ok(Agent { id, site, memory: Arc::default(), credentials, server: token.servers[0].clone() })
    }

    /// Connects again and again until the task is aborted.
    pub fn run(&self) -> JoinHandle<()> {
        let agent = self.clone();
        tokio::spawn(async move {
            loop {
                let _ = agent.session().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    pub async fn session(&self) -> levee_wire::Result<()> {
        let mut client = ServerClient::connect(&self.credentials, &self.server).await?;
        let mut link = client.open().await?;
        let outgoing = link.outgoing.clone();
        let speaker = self.clone();
        let speaking = async move {
            while outgoing.send(FromAgent::Status(speaker.status())).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let listening = async {
            loop {
                match link.receive().await {
                    Ok(FromServer::Desired(desired)) => {
                        self.memory.lock().unwrap().unread = Some(desired);
                        self.take_over();
                    }
                    Ok(FromServer::Command(command)) => {
                        if let Some(answer) = self.answer(command) {
                            let _ = link.outgoing.send(FromAgent::Answer(answer)).await;
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        tokio::select! {
            ended = listening => ended,
            () = speaking => Ok(()),
        }
    }

    /// Takes over what is wanted, unless it is slow.
    pub fn take_over(&self) {
        let mut memory = self.memory.lock().unwrap();
        if !memory.slow
            && let Some(desired) = memory.unread.take()
        {
            memory.desired = desired;
        }
    }

    fn answer(&self, command: Command) -> Option<Answer> {
        let mut memory = self.memory.lock().unwrap();
        memory.commands.push(command.clone());
        let name = name_of(&command.action);
        if memory.hanging.contains(name) {
            return None;
        }
        let known = memory.desired.assignments.iter().find(|a| a.app == command.app).map(|a| a.epoch);
        if !matches!(command.action, Action::SwitchEntry { .. }) {
            assert!(known.is_some_and(|known| known >= command.epoch), "{name} came before its epoch was known");
        }
        let result = match memory.failing.get(name) {
            _ if command.revision > memory.desired.revision => {
                Err(Failure { message: "not taken over yet".into(), transient: true })
            }
            Some(transient) => Err(Failure { message: format!("{name} fails here"), transient: *transient }),
            None => Ok(self.act(&mut memory, &command)),
        };
        Some(Answer { command: command.id, result, seconds: 0.01 })
    }

    fn act(&self, memory: &mut Memory, command: &Command) -> Done {
        match &command.action {
            Action::Stop { .. } => {
                memory.stopped.insert(command.app.to_string(), command.epoch.0);
                Done::Stopped { point: point(), left: Default::default() }
            }
            Action::Seal | Action::Await { .. } | Action::ChoosePoint => Done::Point { point: point() },
            Action::Rebuild { .. } => Done::Rebuilt { bytes: 10, copy_s: 0.01, passed_over: None },
            Action::Stage { asset } => {
                memory.staged.insert(asset.clone());
                Done::Nothing
            }
            Action::Start { .. } => Done::Started { timeline: Some(2), replay_s: 0.01 },
            Action::Probe { .. } => Done::Probed { passed: true, detail: "t".into() },
            Action::SwitchEntry { record } => {
                memory.entries.insert(record.name.clone(), record.epoch);
                Done::Nothing
            }
            _ => Done::Nothing,
        }
    }

    fn status(&self) -> AgentStatus {
        let memory = self.memory.lock().unwrap();
        let now = Timestamp::now().checked_add(SignedDuration::from_secs(memory.clock_ahead_s)).unwrap();
        let mut assets = Vec::new();
        for assignment in &memory.desired.assignments {
            for asset in assignment.spec.asset_names() {
                let state = match assignment.role {
                    _ if memory.waiting => AssetState::Waiting,
                    Role::Recovery if memory.staged.contains(asset) => AssetState::Staged,
                    Role::Recovery => AssetState::Protected,
                    Role::Writer => AssetState::Unprotected,
                };
                assets.push(AssetStatus {
                    app: assignment.app.clone(),
                    asset: asset.clone(),
                    role: assignment.role,
                    epoch: assignment.epoch,
                    state,
                    point: (!memory.waiting)
                        .then(|| AssetPoint { position: position(asset.as_str()), as_of: now - memory.behind }),
                    source_lsn: (asset.as_str() == "orders").then_some(Lsn(1200)),
                    problem: None,
                    notes: match assignment.role {
                        Role::Writer => Vec::new(),
                        Role::Recovery => memory.notes.clone(),
                    },
                    verified: (memory.verified && assignment.role == Role::Recovery).then(|| VerifiedBackup {
                        point: AssetPoint {
                            position: position(asset.as_str()),
                            as_of: now - memory.behind - SignedDuration::from_mins(1),
                        },
                        at: now,
                    }),
                    waiting: None,
                    warned_since: None,
                    gaps: Vec::new(),
                    vaults: match assignment.role {
                        Role::Writer => BTreeMap::new(),
                        Role::Recovery => memory
                            .vaults
                            .iter()
                            .map(|(vault, age)| {
                                let point = AssetPoint { position: position(asset.as_str()), as_of: now - *age };
                                (vault.clone(), point)
                            })
                            .collect(),
                    },
                });
            }
        }
        AgentStatus {
            agent: self.id.clone(),
            site: self.site.clone(),
            wire: "127.0.0.1:1".parse().unwrap(),
            store: "127.0.0.1:2".parse().unwrap(),
            dns: Some("127.0.0.1:3".parse().unwrap()),
            version: "test".into(),
            now,
            revision: memory.desired.revision,
            assets,
            entries: memory.entries.clone(),
            known: memory.known.clone(),
            released: memory.desired.removed.iter().map(|removed| (removed.app.clone(), removed.epoch)).collect(),
        }
    }

    pub fn asked(&self) -> Vec<String> {
        let memory = self.memory.lock().unwrap();
        memory.commands.iter().map(|command| format!("{} e{}", name_of(&command.action), command.epoch)).collect()
    }

    pub fn has_grants(&self, app: &str, role: Role, epoch: u64) -> bool {
        let memory = self.memory.lock().unwrap();
        memory.desired.assignments.iter().any(|assignment| {
            let grant = self.credentials.grants().verify_grant(&assignment.grant).unwrap();
            assert_eq!((grant.role, grant.epoch), (assignment.role, assignment.epoch));
            grant.agent == self.id && grant.app.as_str() == app && grant.role == role && grant.epoch.0 == epoch
        })
    }
}

pub fn point() -> RecoveryPoint {
    let assets = ["orders", "documents"]
        .map(|name| (name.parse().unwrap(), AssetPoint { position: position(name), as_of: Timestamp::now() }));
    RecoveryPoint { assets: assets.into() }
}
