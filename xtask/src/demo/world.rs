//! The demo's two sites, its server and its shop: folders, addresses, and the processes that run there.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use levee_testing::levee::{AgentPlace, Binary, ServerPlace};
use levee_testing::ports::free_port_on;
use levee_testing::postgres::{Binaries, Cluster, Pgbench};
use levee_testing::{Child, TempSite};

use super::Size;
use super::control::Operator;
use super::dns::Resolver;
use super::protection::{self, Places, Site};

/// Pairs of addresses for the two sites. All of 127.0.0.0/8 leads to this machine.
const ADDRESSES: [[&str; 2]; 3] = [["127.0.0.2", "127.0.0.3"], ["127.0.7.2", "127.0.7.3"], ["127.7.7.2", "127.7.7.3"]];

/// pgbench transactions per second that the shop is kept busy with.
const LOAD_PER_S: u32 = 100;

/// Ports, the same at both sites.
#[derive(Clone, Copy)]
pub struct Ports {
    pub wire: u16,
    pub store: u16,
    pub dns: u16,
    pub database: u16,
}

/// Everything that the demo has started. Dropping it ends and removes all of it.
pub struct World {
    // In the order in which they are ended.
    load: Option<Child>,
    pub east_agent: Option<Child>,
    pub west_agent: Option<Child>,
    pub server: Option<Child>,
    pub cluster: Option<Cluster>,
    pub operator: Operator,
    pub addresses: [IpAddr; 2],
    pub ports: Ports,
    pub entry_name: String,
    pub postgres: Option<Binaries>,
    binary: Binary,
    server_place: ServerPlace,
    size: Size,
    root: TempSite,
}

impl World {
    pub fn new(binary: Binary, postgres: Option<Binaries>, size: Size, example: &str) -> Result<World> {
        let addresses = choose_addresses()?;
        let port = || free_port_on(&addresses);
        let ports = Ports { wire: port(), store: port(), dns: port(), database: port() };
        let root = TempSite::new("demo");
        for name in ["server", "east", "west", "client"] {
            root.folder(name);
        }
        let server_place = ServerPlace::at(root.path().join("server"), IpAddr::from([127, 0, 0, 1]));
        let operator = Operator::new(binary.clone(), server_place.clone());
        Ok(World {
            load: None,
            east_agent: None,
            west_agent: None,
            server: None,
            cluster: None,
            operator,
            addresses,
            ports,
            entry_name: protection::entry_name(example)?,
            postgres,
            binary,
            server_place,
            size,
            root,
        })
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn files_max(&self) -> usize {
        self.size.files_max
    }

    pub fn client_folder(&self) -> PathBuf {
        self.root.path().join("client")
    }

    pub fn east(&self) -> Site {
        self.site("east", 0)
    }

    pub fn west(&self) -> Site {
        self.site("west", 1)
    }

    fn site(&self, name: &'static str, index: usize) -> Site {
        Site { name, folder: self.root.path().join(name), address: self.addresses[index] }
    }

    pub fn resolver(&self) -> Resolver {
        let mut servers = self.addresses.map(|address| SocketAddr::new(address, self.ports.dns)).to_vec();
        servers.push(self.server_place.dns);
        Resolver::new(&self.entry_name, servers)
    }

    pub fn database_port(&self) -> Option<u16> {
        self.postgres.as_ref().map(|_| self.ports.database)
    }

    /// Makes the shop's database at east, as one that was there before Levee came.
    pub fn create_database(&mut self) -> Result<()> {
        let Some(binaries) = self.postgres.clone() else { return Ok(()) };
        let east = self.east();
        let cluster = Cluster::builder()
            .binaries(binaries)
            .below(&east.folder)
            .data_directory(east.database())
            .address(east.address)
            .port(self.ports.database)
            .fsync(true)
            .setting("shared_buffers", "256MB")
            .setting("max_wal_size", "4GB")
            .start();
        cluster.psql("create role levee login replication");
        cluster.psql("grant pg_monitor, pg_read_all_data to levee");
        cluster.psql("create role shop login");
        cluster.psql("create database shop owner shop");
        cluster.psql_in(
            "shop",
            "set role shop; \
             create table orders (number bigint primary key, placed_at timestamptz not null); \
             create table document_changes (number bigint primary key, path text not null, hash text not null)",
        );
        self.pgbench(east.address)?.initialize(self.size.pgbench_scale);
        cluster.psql("checkpoint");
        self.cluster = Some(cluster);
        Ok(())
    }

    fn pgbench(&self, address: IpAddr) -> Result<Pgbench> {
        let binaries = self.postgres.clone().context("there is no PostgreSQL to put load on")?;
        Ok(Pgbench::new(binaries, &address.to_string(), self.ports.database, "shop", "shop"))
    }

    /// Keeps the database at an address busy, at a limited rate.
    pub fn start_load(&mut self, address: IpAddr) -> Result<()> {
        if self.postgres.is_none() {
            return Ok(());
        }
        let rate = LOAD_PER_S.to_string();
        let mut command = self.pgbench(address)?.command(&["-n", "-R", &rate, "-c", "4", "-j", "1", "-T", "3600"]);
        self.load = None;
        self.load = Some(Child::spawn("pgbench", &mut command, &self.log("pgbench")));
        Ok(())
    }

    pub fn stop_load(&mut self) {
        self.load = None;
    }

    /// Starts the server and both agents, each in its own process and folder.
    pub fn start_levee(&mut self) {
        self.server = Some(self.binary.start_server(&self.server_place, &self.log("server")));
        for site in [self.east(), self.west()] {
            self.binary.join(&self.server_place, &self.agent_place(&site));
        }
        self.east_agent = Some(self.start_agent(&self.east()));
        self.west_agent = Some(self.start_agent(&self.west()));
    }

    /// Starts the agent of a site; it has joined before.
    pub fn start_agent(&self, site: &Site) -> Child {
        self.binary.start_agent(&self.agent_place(site), &self.log(site.name))
    }

    fn agent_place(&self, site: &Site) -> AgentPlace {
        AgentPlace {
            name: format!("{}-1", site.name),
            site: site.name.into(),
            folder: site.folder.join("agent"),
            address: site.address,
            wire_port: self.ports.wire,
            store_port: self.ports.store,
            dns_port: self.ports.dns,
        }
    }

    /// Writes the protection file for this run.
    pub fn write_protection_file(&self, example: &str) -> Result<PathBuf> {
        let os_user = self.postgres.as_ref().and_then(|binaries| binaries.user()).map(|user| user.name.clone());
        let own_user = std::env::var("USER").unwrap_or_else(|_| "postgres".into());
        let places = Places {
            sites: [self.east(), self.west()],
            database_port: self.database_port(),
            os_user: &os_user.unwrap_or(own_user),
        };
        let path = self.client_folder().join("shop.toml");
        fs::write(&path, protection::render(example, &places)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Kills everything that runs at east, as the loss of the site would.
    pub fn lose_east(&mut self) {
        if let Some(agent) = &mut self.east_agent {
            agent.kill();
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.kill();
        }
        levee_testing::process::kill_all_under(&self.east().folder);
        self.east_agent = None;
        self.cluster = None;
        self.load = None;
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.client_folder().join(format!("{name}.log"))
    }

    /// The ends of all logs, for when something went wrong.
    pub fn log_tails(&self, lines: usize) -> String {
        let mut paths: Vec<PathBuf> = ["server", "east", "west", "pgbench"].iter().map(|name| self.log(name)).collect();
        for site in [self.east(), self.west()] {
            // What the databases print that the agents have started.
            let servers = fs::read_dir(site.folder.join("agent/apps/shop/server")).into_iter().flatten().flatten();
            paths.extend(servers.map(|server| server.path().join("postgresql.log")));
        }
        let mut text = String::new();
        for path in paths {
            let tail = levee_testing::process::tail(&path, lines);
            if !tail.is_empty() {
                text.push_str(&format!("--- the end of {}\n{tail}\n", path.display()));
            }
        }
        text
    }

    /// Ends all processes, and leaves the folder for somebody to look at.
    pub fn keep(mut self) -> PathBuf {
        self.load = None;
        self.east_agent = None;
        self.west_agent = None;
        self.server = None;
        self.cluster = None;
        self.root.keep()
    }
}

/// A pair of addresses on this machine that can stand for two sites.
pub fn choose_addresses() -> Result<[IpAddr; 2]> {
    let parsed = ADDRESSES.iter().filter_map(|[east, west]| Some([east.parse().ok()?, west.parse().ok()?]));
    let mut usable =
        parsed.filter(|pair: &[IpAddr; 2]| pair.iter().all(|address| TcpListener::bind((*address, 0)).is_ok()));
    match usable.next() {
        Some(pair) => Ok(pair),
        None => bail!("this machine gives no second address on its loopback interface, such as {}", ADDRESSES[0][0]),
    }
}
