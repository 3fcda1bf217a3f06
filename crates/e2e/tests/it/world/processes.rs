//! Starting, killing and losing what runs, and what it has printed.

use std::path::PathBuf;
use std::process::Output;

use levee_testing::Child;
use levee_testing::process::{kill_all_under, output, tail};

use super::{Process, Site, World};

const LOG_LINES_ON_FAILURE: usize = 40;

impl World {
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
            self.kill_source();
        }
        kill_all_under(&self.folder(site));
        // What is left of it is reaped.
        self.agents[site as usize] = None;
    }

    /// Kills the source's database and nothing else.
    pub fn stop_source(&mut self) {
        self.kill_source();
        kill_all_under(&self.folder(Site::East).join("postgres"));
    }

    /// Kills what of the source is a child of this process, and reaps it.
    fn kill_source(&mut self) {
        if let Some(mut source) = self.source.take() {
            source.kill();
        }
        if let Some(mut cluster) = self.cluster.take() {
            cluster.kill();
        }
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
