use jiff::{SignedDuration, Timestamp};
use levee_model::control::{AgentStatus, AssetPoint, AssetState, AssetStatus, Role};
use levee_model::postgres::{Lsn, SystemIdentifier, TimelineId};
use levee_model::protection::{AppSpec, ProtectionFile};
use levee_model::{AppName, Epoch, LogPosition, Position, SiteName};
use levee_plan::{AgentView, Assertion, Inputs, Measurements, Parent, StepId};

const SHOP: &str = r#"
[app.shop]
home = "east"
recovery = "west"

[app.shop.postgres.orders.at]
east = { data_directory = "/srv/east/pg", address = "127.0.0.2", port = 5433 }
west = { data_directory = "/srv/west/pg", address = "127.0.0.3", port = 5433 }

[app.shop.files.documents]
every = "5s"
at.east.path = "/srv/east/documents"
at.west.path = "/srv/west/documents"

[app.shop.entry.web]
name = "Shop.example.test"
ttl = "1500ms"
at.east.address = "127.0.0.2"
at.west.address = "127.0.0.3"
"#;

pub const ASSETS: [&str; 2] = ["orders", "documents"];

pub fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub fn after_s(seconds: i64) -> Timestamp {
    start().checked_add(SignedDuration::from_secs(seconds)).unwrap()
}

pub fn site(name: &str) -> SiteName {
    name.parse().unwrap()
}

pub fn app() -> AppName {
    "shop".parse().unwrap()
}

pub fn step(id: &str) -> StepId {
    StepId(id.into())
}

pub fn position(asset: &str, lsn: u64) -> Position {
    match asset {
        "orders" => Position::Log(LogPosition {
            system_identifier: SystemIdentifier(7),
            timeline: TimelineId(1),
            lsn: Lsn(lsn),
        }),
        _ => Position::Snapshot { id: format!("{lsn:064x}"), taken_at: start() },
    }
}

/// Everything that plans are made from, to be changed by a test before it makes one.
pub struct Fixture {
    pub app: AppName,
    pub spec: AppSpec,
    pub parent: Parent,
    pub agents: Vec<AgentView>,
    pub measurements: Measurements,
    pub assertion: Option<Assertion>,
    pub now: Timestamp,
}

impl Fixture {
    /// `east` writes at epoch 3, `west` is in `state`, 2 s behind.
    pub fn new(state: AssetState) -> Self {
        let (east, west) = (site("east"), site("west"));
        let file = ProtectionFile::parse(SHOP).unwrap();
        let agent = |site: &SiteName, role: Role, state: AssetState, source: u64| {
            let assets = ASSETS.iter().map(|name| AssetStatus {
                app: app(),
                asset: name.parse().unwrap(),
                role,
                epoch: Epoch(3),
                state,
                point: Some(AssetPoint { position: position(name, 1000), as_of: start() }),
                source_lsn: (*name == "orders").then_some(Lsn(source)),
                problem: None,
                notes: Vec::new(),
                verified: None,
                waiting: None,
                warned_since: None,
                gaps: Vec::new(),
                vaults: Default::default(),
            });
            AgentView {
                agent: format!("{site}-1").parse().unwrap(),
                site: site.clone(),
                connected: true,
                clock_ahead_ms: 0,
                heard_at: Some(start()),
                status: Some(AgentStatus {
                    agent: format!("{site}-1").parse().unwrap(),
                    site: site.clone(),
                    wire: "127.0.0.1:1".parse().unwrap(),
                    store: "127.0.0.1:2".parse().unwrap(),
                    dns: None,
                    version: "test".into(),
                    now: start(),
                    revision: 1,
                    assets: assets.collect(),
                    entries: Default::default(),
                    known: Default::default(),
                    released: Default::default(),
                }),
            }
        };
        Self {
            app: app(),
            spec: file.app.into_values().next().unwrap(),
            parent: Parent { revision: 10, epoch: Epoch(3), writer: east.clone() },
            agents: vec![
                agent(&east, Role::Writer, AssetState::Protected, 1500),
                agent(&west, Role::Recovery, state, 1400),
            ],
            measurements: Measurements::default(),
            assertion: None,
            now: after_s(2),
        }
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            app: &self.app,
            spec: &self.spec,
            parent: self.parent.clone(),
            agents: &self.agents,
            measurements: &self.measurements,
            assertion: self.assertion.clone(),
            now: self.now,
        }
    }

    pub fn disconnect(mut self, name: &str) -> Self {
        self.agents.iter_mut().filter(|view| view.site.as_str() == name).for_each(|view| view.connected = false);
        self
    }

    pub fn assert_down(mut self) -> Self {
        self.assertion = Some(Assertion::old_site_is_down("ops", self.now));
        self
    }
}
