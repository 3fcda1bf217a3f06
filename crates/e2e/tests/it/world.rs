//! Two sites, a server and a small shop with zero loss, all as processes of their own.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use levee_testing::disk::SmallDisk;
use levee_testing::levee::{AgentPlace, Binary, ServerPlace};
use levee_testing::netns::Net;
use levee_testing::ports::free_port_on;
use levee_testing::postgres::{Cluster, Version};
use levee_testing::process::{kill_all_under, output, tail};
use levee_testing::wait::{poll, wait_until};
use levee_testing::{Child, TempSite, tools};
use serde_json::Value;

use super::secrets;

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

/// What a world is to be like, where it is not like every other.
pub struct Setup {
    pub zero_loss: bool,
    /// How much log the replication slot may hold back, as the protection file has it.
    pub slot_bound: &'static str,
    /// Levee's role must give this password, which the agents keep as a secret.
    pub password: Option<&'static str>,
    /// Lines of the source's postgresql.conf.
    pub settings: Vec<(&'static str, &'static str)>,
    /// The sites `east` and `west` of this network; the server stays outside.
    pub net: Option<Net>,
    /// How far the clock of the source is off, as libfaketime has it (`+3600s`). The agent's is another matter.
    pub source_clock: Option<&'static str>,
    /// The folder of a process is a disk of this size, in MiB.
    pub small_disk: Option<(Process, u32)>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            zero_loss: true,
            slot_bound: "1GiB",
            password: None,
            settings: Vec::new(),
            net: None,
            source_clock: None,
            small_disk: None,
        }
    }
}

/// Everything that runs. Dropping it ends and removes all of it, and panics where a secret stands in a log.
pub struct World {
    // In the order in which they are ended.
    agents: [Option<Child>; 2],
    server: Option<Child>,
    /// The source's server, where it runs in a network of its own and not in this one.
    source: Option<Child>,
    cluster: Option<Cluster>,
    setup: Setup,
    binary: Binary,
    /// The same program, as it is run at each site.
    site_binaries: [Binary; 2],
    server_place: ServerPlace,
    agent_places: [AgentPlace; 2],
    database_port: u16,
    /// Where a process keeps everything, when that is to be full before long.
    disk: Option<SmallDisk>,
    root: TempSite,
}

impl World {
    /// Starts everything and waits until the shop, which lives at east, is protected at west.
    #[track_caller]
    pub fn protected() -> World {
        World::protected_with(Setup::default())
    }

    /// The same, otherwise set up.
    #[track_caller]
    pub fn protected_with(setup: Setup) -> World {
        let world = World::set_up(setup);
        world.apply(&world.protection_file());
        world.wait_protected(Site::East);
        world
    }

    /// Starts everything; nothing is protected yet.
    #[track_caller]
    pub fn set_up(setup: Setup) -> World {
        let loopback: [IpAddr; 2] = [[127, 0, 0, 2], [127, 0, 0, 3]].map(IpAddr::from);
        let addresses = match &setup.net {
            None => loopback,
            Some(net) => [Site::East, Site::West].map(|site| net.address(site.name()).into()),
        };
        let server_address = setup.net.as_ref().map_or(IpAddr::from([127, 0, 0, 1]), |net| net.host_address().into());
        let port = || free_port_on(&loopback);
        let (wire_port, store_port, dns_port, database_port) = (port(), port(), port(), port());
        let root = TempSite::new("e2e");
        root.folder("client");
        let server_place = ServerPlace::at(root.folder("server"), server_address);
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
        let disk = setup.small_disk.map(|(process, mebibytes)| {
            let folder = match process {
                Process::Server => &server_place.folder,
                Process::Agent(site) => &agent_places[site as usize].folder,
            };
            fs::create_dir_all(folder).expect("our own folder");
            SmallDisk::mount(folder, mebibytes)
        });
        let binary = Binary::find();
        let site_binaries = [Site::East, Site::West].map(|site| match &setup.net {
            None => binary.clone(),
            Some(net) => binary_inside(net, site, &binary, &root.folder("client")),
        });
        let mut world = World {
            agents: [None, None],
            server: None,
            source: None,
            cluster: None,
            setup,
            binary,
            site_binaries,
            server_place,
            agent_places,
            database_port,
            disk,
            root,
        };
        world.create_shop();
        world.start(Process::Server);
        for site in [Site::East, Site::West] {
            world.binary.join(&world.server_place, &world.agent_places[site as usize]);
            world.start(Process::Agent(site));
        }
        world
    }

    /// Applies a protection file that must be accepted.
    #[track_caller]
    pub fn apply(&self, file: &str) {
        let output = self.try_apply(file);
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), self.log_tails());
    }

    /// Applies a protection file, whatever comes of it.
    pub fn try_apply(&self, file: &str) -> Output {
        let path = self.root.path().join("client/shop.toml");
        fs::write(&path, file).expect("our own folder");
        self.operator(&["apply", "-f", &path.to_string_lossy()])
    }

    /// Where everything lies.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A command of Levee at a site, with nothing said about the server.
    pub fn command_at(&self, site: Site) -> Command {
        self.site_binaries[site as usize].command()
    }

    pub fn agent_place(&self, site: Site) -> &AgentPlace {
        &self.agent_places[site as usize]
    }

    pub fn server_place(&self) -> &ServerPlace {
        &self.server_place
    }

    /// The network that the sites are in.
    #[track_caller]
    pub fn net(&self) -> &Net {
        self.setup.net.as_ref().expect("this world was set up with a network")
    }

    /// The small disk.
    #[track_caller]
    pub fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("this world was set up with a small disk")
    }

    /// From its next start on, a site's agent runs behind these words (`env NAME=VALUE`, …).
    pub fn run_behind(&mut self, site: Site, words: &[&str]) {
        let words = words.iter().map(|word| word.to_string()).chain([self.binary.path().display().to_string()]);
        self.site_binaries[site as usize] = script(&self.root.path().join("client"), site, words);
    }

    /// From its next start on, a site's agent sees a clock that is off.
    pub fn set_clock(&mut self, site: Site, off: &str) {
        let set = clock_environment(off).map(|(name, value)| format!("{name}={value}"));
        self.run_behind(site, &["env", &set[0], &set[1], &set[2]]);
    }

    /// The source as it was before Levee came.
    #[track_caller]
    pub fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("the source was not lost")
    }

    /// The shop as it was before Levee came.
    fn create_shop(&mut self) {
        let documents = self.folder(Site::East).join("documents");
        fs::create_dir_all(&documents).expect("our own folder");
        for number in 0..FILES {
            let content = format!("document {number}\n").repeat(number * 20 + 1);
            fs::write(documents.join(format!("{number}.txt")), content).expect("our own folder");
        }
        let mut builder = Cluster::builder()
            .version(Version::V15)
            .below(self.folder(Site::East))
            .data_directory(self.folder(Site::East).join("postgres"))
            .address(self.database(Site::East).ip())
            .port(self.database_port)
            .setting("shared_buffers", "16MB");
        for (name, value) in &self.setup.settings {
            builder = builder.setting(name, *value);
        }
        for (name, value) in self.setup.source_clock.map(clock_environment).into_iter().flatten() {
            builder = builder.environment(name, &value);
        }
        if self.setup.password.is_some() {
            for what in ["all", "replication"] {
                builder = builder.hba(&format!("host {what} levee all scram-sha-256"));
            }
        }
        let cluster = match &self.setup.net {
            None => builder.start(),
            Some(net) => {
                let cluster = builder.create();
                self.source = Some(start_inside(net, Site::East, &cluster));
                cluster
            }
        };
        let password = self.setup.password.map(|password| format!(" password '{password}'")).unwrap_or_default();
        cluster.psql(&format!("create role levee login replication{password}"));
        cluster.psql("grant pg_monitor, pg_read_all_data to levee");
        cluster.psql("create role shop login");
        cluster.psql("create database shop owner shop");
        cluster.psql_in("shop", "set role shop; create table orders (number bigint primary key)");
        if self.setup.zero_loss {
            cluster.set("synchronous_standby_names", &format!("FIRST 1 ({STANDBY})"));
        }
        self.cluster = Some(cluster);
    }

    pub fn protection_file(&self) -> String {
        let secret = self.setup.password.map_or("", |_| "password_secret = \"orders-password\"\n");
        let at = |site: Site| {
            let (name, folder, database) = (site.name(), self.folder(site), self.database(site));
            format!(
                "[app.shop.postgres.orders.at.{name}]\ndata_directory = {postgres:?}\naddress = \"{address}\"\n\
                 port = {port}\nos_user = \"{user}\"\n{secret}[app.shop.files.documents.at.{name}]\npath = {documents:?}\n\
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
             [app.shop.postgres.orders]\nzero_loss = {}\nslot_bound = \"{}\"\n\
             probe = [{{ database = \"shop\", sql = \"select count(*) >= 0 from orders\", expect = \"t\" }},\
             {{ database = \"shop\", sql = \"select 'newest order ' || coalesce(max(number), 0) from orders\" }}]\n\
             [app.shop.files.documents]\nevery = \"2s\"\nprobe = [\"1.txt\"]\n\
             [app.shop.entry.shop]\nname = \"shop.example.test\"\nttl = \"1s\"\n{}{}",
            self.setup.zero_loss,
            self.setup.slot_bound,
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
                let agent = self.site_binaries[site as usize].start_agent(&self.agent_places[site as usize], &log);
                self.agents[site as usize] = Some(agent);
            }
        }
    }

    /// Starts an agent that may well not come up.
    pub fn try_start(&mut self, site: Site) {
        let (place, log) = (&self.agent_places[site as usize], self.log(Process::Agent(site)));
        self.agents[site as usize] = Some(self.site_binaries[site as usize].spawn_agent(place, &log));
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
        if site == Site::East {
            if let Some(mut source) = self.source.take() {
                source.kill();
            }
            if let Some(mut cluster) = self.cluster.take() {
                cluster.kill();
            }
        }
        kill_all_under(&self.folder(site));
        // What is left of it is reaped.
        self.agents[site as usize] = None;
    }

    /// Kills the source's database and nothing else.
    pub fn stop_source(&mut self) {
        if let Some(mut source) = self.source.take() {
            source.kill();
        }
        if let Some(mut cluster) = self.cluster.take() {
            cluster.kill();
        }
        kill_all_under(&self.folder(Site::East).join("postgres"));
    }

    /// Kills every server process of PostgreSQL at a site, and nothing else.
    pub fn kill_databases(&mut self, site: Site) {
        // The source is a child of this process: one that nobody waits for keeps its number, and so its lock file.
        if let Some(cluster) = self.cluster.as_mut().filter(|_| site == Site::East) {
            cluster.kill();
        }
        kill_all_under(&self.folder(site).join("postgres"));
        kill_all_under(&self.shop_folder(site));
    }

    /// Starts the shop's database at a site as its operator does after a crash, whatever comes of it.
    pub fn start_database(&self, site: Site) -> Output {
        let mut command = self.command_at(site);
        command.args(["agent", "start-database", "shop/orders", "--folder"]);
        output(command.arg(&self.agent_place(site).folder))
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
        let tails = paths
            .iter()
            .map(|path| format!("--- the end of {}\n{}\n", path.display(), tail(path, LOG_LINES_ON_FAILURE)));
        tails.collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Before their logs are read: what they print at their end counts, too.
        self.agents = [None, None];
        self.server = None;
        // A test that has failed says why itself, and a second panic would end all tests of the program.
        if !std::thread::panicking() {
            secrets::check_shown_nowhere(self);
        }
    }
}

/// The program as it is run inside a site of a network.
fn binary_inside(net: &Net, site: Site, binary: &Binary, folder: &Path) -> Binary {
    let inside = net.command(site.name(), binary.path());
    let words = std::iter::once(inside.get_program()).chain(inside.get_args());
    script(folder, site, words.map(|word| word.to_string_lossy().into_owned()))
}

/// A program that is these words, followed by its own arguments.
fn script(folder: &Path, site: Site, words: impl Iterator<Item = String>) -> Binary {
    let words: Vec<String> = words.map(|word| format!("'{word}'")).collect();
    let path = folder.join(format!("levee-{}", site.name()));
    fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).expect("our own folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    Binary::at(path)
}

/// Starts a cluster inside a site of a network, and waits until it answers.
fn start_inside(net: &Net, site: Site, cluster: &Cluster) -> Child {
    let user = cluster.binaries().user().expect("networks of this kind need root, which has a user for databases");
    let mut command = net.command(site.name(), "setpriv");
    command
        .args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid), "--clear-groups".into()])
        .arg(cluster.binaries().folder().join("postgres"))
        .arg("-D")
        .arg(cluster.data_directory())
        .current_dir("/");
    let server = Child::spawn("postgres", &mut command, &cluster.log());
    wait_until("the source", PATIENCE, || cluster.try_psql("select 1").is_ok());
    server
}

/// What a program sees another time by. Waiting goes on by the true clock, as where only the time of day is wrong.
fn clock_environment(off: &str) -> [(&'static str, String); 3] {
    [
        ("LD_PRELOAD", tools::faketime().display().to_string()),
        ("FAKETIME", off.to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_string()),
    ]
}

fn own_user() -> String {
    std::env::var("USER").unwrap_or_else(|_| "postgres".into())
}

fn last_value(output: &Output) -> Option<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().rfind(|line| !line.trim().is_empty())?).ok()
}
