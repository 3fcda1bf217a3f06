use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use levee_api::{PlanRequest, TokenAccess};
use levee_model::SiteName;
use levee_model::protection::ProtectionFile;
use levee_plan::{PlanKind, Run, RunState};
use levee_server::{Caller, Control, Listening, Server, ServerOptions};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const PATIENCE: Duration = Duration::from_secs(30);

pub const SHOP: &str = r#"
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
name = "shop.example.test"
at.east.address = "127.0.0.2"
at.west.address = "127.0.0.3"
"#;

pub fn shop() -> ProtectionFile {
    ProtectionFile::parse(SHOP).unwrap()
}

pub fn options(folder: &Path) -> ServerOptions {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    ServerOptions {
        folder: folder.join("server"),
        api_listen: any,
        // While the server is away its agents call there: from a port of the kernel's range for outgoing connections
        // one would reach itself some day, and hold the port.
        wire_listen: SocketAddr::new(any.ip(), levee_testing::ports::free_port()),
        dns_listen: Some(any),
        advertise: Vec::new(),
    }
}

/// A server in this process.
pub struct TestServer {
    pub control: Control,
    pub caller: Caller,
    pub listening: Listening,
    stop: oneshot::Sender<()>,
    task: JoinHandle<levee_server::Result<()>>,
}

impl TestServer {
    pub async fn start(options: ServerOptions) -> Self {
        let server = Server::start(options).await.unwrap();
        let (control, listening) = (server.control(), server.listening());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(server.serve(async move {
            let _ = stopped.await;
        }));
        Self { caller: control.local_caller(), control, listening, stop, task }
    }

    pub async fn stop(self) {
        drop(self.control);
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    pub async fn join_token(&self, site: &str) -> String {
        let site: SiteName = site.parse().unwrap();
        let (_, text) = self.control.join_token_create(&self.caller, Some(site), None).await.unwrap();
        text.to_string()
    }

    pub fn request(&self, kind: PlanKind, to: Option<&str>, old_site_is_down: bool) -> PlanRequest {
        PlanRequest { kind, app: "shop".parse().unwrap(), to: to.map(|to| to.parse().unwrap()), old_site_is_down }
    }

    /// Waits until the run is in a state that passes the test.
    pub async fn until(&self, run: &Run, test: impl Fn(&Run) -> bool) -> Run {
        let mut changes = self.control.run_watch(&run.id).await.unwrap();
        let reached = tokio::time::timeout(PATIENCE, changes.wait_for(|run| test(run))).await;
        if let Ok(Ok(run)) = &reached {
            return Run::clone(run);
        }
        drop(reached);
        panic!("it stands at {:#?}", changes.borrow().steps)
    }

    pub async fn ended(&self, run: &Run) -> Run {
        self.until(run, |run| run.state.has_ended()).await
    }

    pub async fn done(&self, run: &Run) -> Run {
        let run = self.ended(run).await;
        assert_eq!(run.state, RunState::Done, "{:#?}", run.steps);
        run
    }

    pub fn reader(&self) -> Caller {
        Caller { token: "r".into(), name: "reader".into(), access: TokenAccess::Read }
    }
}

/// Waits until a question is answered with yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let begun = Timestamp::now();
    while !ask().await {
        assert!(Timestamp::now().duration_since(begun).as_secs() < PATIENCE.as_secs() as i64, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
