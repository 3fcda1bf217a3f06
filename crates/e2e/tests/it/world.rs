//! Two sites, a server and a small shop with zero loss, all as processes of their own.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use levee_testing::levee::{AgentPlace, Binary, ServerPlace};
use levee_testing::ports::free_port_on;
use levee_testing::postgres::{Cluster, Version};
use levee_testing::process::{kill_all_under, output, tail};
use levee_testing::wait::{poll, wait_until};
use levee_testing::{Child, TempSite};
use serde_json::Value;

/// How long anything may take on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The name of the synchronous standby that Levee is for the shop's orders.
const STANDBY: &str = "levee_shop_orders";
const FILES: usize = 50;
const LOG_LINES_ON_FAILURE: usize = 40;

/// One of the two sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    East,
    West,
}

impl Site {
    pub fn name(self) -> &'static str {
        match self {
            Site::East => "east",
            Site::West => "west",
        }
    }

    pub fn other(self) -> Site {
        match self {
            Site::East => Site::West,
            Site::West => Site::East,
        }
    }
}

/// A process of Levee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Server,
    Agent(Site),
}

/// Everything that runs. Dropping it ends and removes all of it.
pub struct World {
    // In the order in which they are ended.
    agents: [Option<Child>; 2],
    server: Option<Child>,
    cluster: Option<Cluster>,
    binary: Binary,
    server_place: ServerPlace,
    agent_places: [AgentPlace; 2],
    database_port: u16,
    root: TempSite,
}

impl World {
    /// Starts everything and waits until the shop, which lives at east, is protected at west.
    pub fn protected() -> World {
        let addresses: [IpAddr; 2] = [[127, 0, 0, 2], [127, 0, 0, 3]].map(IpAddr::from);
        let port = || free_port_on(&addresses);
        let (wire_port, store_port, dns_port, database_port) = (port(), port(), port(), port());
        let root = TempSite::new("e2e");
        root.folder("client");
        let server_place = ServerPlace::at(root.folder("server"), IpAddr::from([127, 0, 0, 1]));
        let agent_place = |site: Site| AgentPlace {
            name: format!("{}-1", site.name()),
            site: site.name().into(),
            folder: root.folder(site.name()).join("agent"),
            address: addresses[site as usize],
            wire_port,
            store_port,
            dns_port,
        };
        let agent_places = [Site::East, Site::West].map(agent_place);
        let mut world = World {
            agents: [None, None],
            server: None,
            cluster: None,
            binary: Binary::find(),
            server_place,
            agent_places,
            database_port,
            root,
        };
        world.create_shop();
        world.start(Process::Server);
        for site in [Site::East, Site::West] {
            world.binary.join(&world.server_place, &world.agent_places[site as usize]);
            world.start(Process::Agent(site));
        }
        let file = world.root.path().join("client/shop.toml");
        fs::write(&file, world.protection_file()).expect("our own folder");
        world.expect(&["apply", "-f", &file.to_string_lossy()]);
        world.wait_protected(Site::East);
        world
    }

    /// The shop as it was before Levee came.
    fn create_shop(&mut self) {
        let documents = self.folder(Site::East).join("documents");
        fs::create_dir_all(&documents).expect("our own folder");
        for number in 0..FILES {
            let content = format!("document {number}\n").repeat(number * 20 + 1);
            fs::write(documents.join(format!("{number}.txt")), content).expect("our own folder");
        }
        let cluster = Cluster::builder()
            .version(Version::V15)
            .below(self.folder(Site::East))
            .data_directory(self.folder(Site::East).join("postgres"))
            .address(self.database(Site::East).ip())
            .port(self.database_port)
            .setting("shared_buffers", "16MB")
            .start();
        cluster.psql("create role levee login replication");
        cluster.psql("grant pg_monitor, pg_read_all_data to levee");
        cluster.psql("create role shop login");
        cluster.psql("create database shop owner shop");
        cluster.psql_in("shop", "set role shop; create table orders (number bigint primary key)");
        cluster.set("synchronous_standby_names", &format!("FIRST 1 ({STANDBY})"));
        self.cluster = Some(cluster);
    }

    fn protection_file(&self) -> String {
        let at = |site: Site| {
            let (name, folder, database) = (site.name(), self.folder(site), self.database(site));
            format!(
                "[app.shop.postgres.orders.at.{name}]\ndata_directory = {postgres:?}\naddress = \"{address}\"\n\
                 port = {port}\nos_user = \"{user}\"\n[app.shop.files.documents.at.{name}]\npath = {documents:?}\n\
                 [app.shop.entry.shop.at.{name}]\naddress = \"{address}\"\n",
                postgres = folder.join("postgres"),
                documents = folder.join("documents"),
                address = database.ip(),
                port = database.port(),
                user = Version::V15.binaries().user().map_or_else(own_user, |user| user.name.clone()),
            )
        };
        format!(
            "[app.shop]\nhome = \"east\"\nrecovery = \"west\"\n\
             [app.shop.postgres.orders]\nzero_loss = true\n\
             probe = [{{ database = \"shop\", sql = \"select count(*) >= 0 from orders\", expect = \"t\" }}]\n\
             [app.shop.files.documents]\nevery = \"2s\"\nprobe = [\"1.txt\"]\n\
             [app.shop.entry.shop]\nname = \"shop.example.test\"\nttl = \"1s\"\n{}{}",
            at(Site::East),
            at(Site::West)
        )
    }

    /// Where everything of a site lies.
    pub fn folder(&self, site: Site) -> PathBuf {
        self.root.path().join(site.name())
    }

    /// The folder of a site's agent for the shop.
    pub fn shop_folder(&self, site: Site) -> PathBuf {
        self.agent_places[site as usize].folder.join("apps/shop")
    }

    pub fn database(&self, site: Site) -> SocketAddr {
        SocketAddr::new(self.agent_places[site as usize].address, self.database_port)
    }

    pub fn databases(&self) -> [SocketAddr; 2] {
        [Site::East, Site::West].map(|site| self.database(site))
    }

    /// Starts a process that does not run, and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self, process: Process) {
        let log = self.log(process);
        match process {
            Process::Server => self.server = Some(self.binary.start_server(&self.server_place, &log)),
            Process::Agent(site) => {
                let agent = self.binary.start_agent(&self.agent_places[site as usize], &log);
                self.agents[site as usize] = Some(agent);
            }
        }
    }

    fn child(&mut self, process: Process) -> &mut Option<Child> {
        match process {
            Process::Server => &mut self.server,
            Process::Agent(site) => &mut self.agents[site as usize],
        }
    }

    /// The running process.
    #[track_caller]
    pub fn running(&mut self, process: Process) -> &mut Child {
        self.child(process).as_mut().unwrap_or_else(|| panic!("{process:?} does not run"))
    }

    /// Kills one process with SIGKILL, with its group and nothing else.
    #[track_caller]
    pub fn kill(&mut self, process: Process) {
        self.running(process).kill();
        *self.child(process) = None;
    }

    /// Kills everything at a site with SIGKILL, as its loss would: the agent first or the database first.
    #[track_caller]
    pub fn lose(&mut self, site: Site, agent_first: bool) {
        if agent_first {
            self.kill(Process::Agent(site));
        }
        if site == Site::East
            && let Some(mut cluster) = self.cluster.take()
        {
            cluster.kill();
        }
        kill_all_under(&self.folder(site));
        // What is left of it is reaped.
        self.agents[site as usize] = None;
    }

    /// Runs a command line of the operator, whatever comes of it.
    pub fn operator(&self, arguments: &[&str]) -> Output {
        output(self.binary.operator(&self.server_place).args(arguments))
    }

    /// Runs a command line of the operator that must succeed, and returns the last value that it prints.
    #[track_caller]
    pub fn expect(&self, arguments: &[&str]) -> Value {
        let output = self.operator(&[arguments, &["--json"]].concat());
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            panic!("levee {} failed ({}): {said}\n{}", arguments.join(" "), output.status, self.log_tails());
        }
        last_value(&output).unwrap_or_default()
    }

    /// How the shop stands; `None` when the server does not answer.
    pub fn status(&self) -> Option<Value> {
        // The exit code says whether all is well; here only the figures are wanted.
        let value = last_value(&self.operator(&["status", "--json"]))?;
        value["apps"].as_array()?.iter().find(|app| app["app"] == "shop").cloned()
    }

    /// Waits until the shop is written at a site and protected at the other.
    #[track_caller]
    pub fn wait_protected(&self, writer: Site) {
        let mut last = None;
        let protected = poll(PATIENCE, || {
            let status = self.status()?;
            let assets = status["assets"].as_array()?;
            let all = status["writer"] == writer.name() && assets.iter().all(|asset| asset["protected"] == true);
            last = Some(status);
            all.then_some(())
        });
        if protected.is_none() {
            panic!("not protected in time: {}\n{}", last.unwrap_or_default(), self.log_tails());
        }
    }

    /// Waits until the server knows whether a site's agent is connected.
    #[track_caller]
    pub fn wait_connected(&self, site: Site, connected: bool) {
        let name = &self.agent_places[site as usize].name;
        let what = format!("{name} to be {}", if connected { "connected" } else { "away" });
        wait_until(&what, PATIENCE, || {
            let status = last_value(&self.operator(&["status", "--json"])).unwrap_or_default();
            let mut agents = status["agents"].as_array().into_iter().flatten();
            agents.any(|agent| agent["agent"] == **name && agent["connected"] == connected)
        });
    }

    pub fn log(&self, process: Process) -> PathBuf {
        let name = match process {
            Process::Server => "server",
            Process::Agent(site) => site.name(),
        };
        self.root.path().join(format!("client/{name}.log"))
    }

    /// The ends of all logs, for when something went wrong.
    pub fn log_tails(&self) -> String {
        let processes = [Process::Server, Process::Agent(Site::East), Process::Agent(Site::West)];
        let mut paths: Vec<PathBuf> = processes.map(|process| self.log(process)).to_vec();
        // What the databases print that the agents have started.
        paths.extend([Site::East, Site::West].map(|site| self.shop_folder(site).join("server/orders/postgresql.log")));
        let tails =
            paths.iter().map(|path| format!("--- the end of {}\n{}\n", path.display(), tail(path, LOG_LINES_ON_FAILURE)));
        tails.collect()
    }
}

fn own_user() -> String {
    std::env::var("USER").unwrap_or_else(|_| "postgres".into())
}

fn last_value(output: &Output) -> Option<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().rfind(|line| !line.trim().is_empty())?).ok()
}
