//! Two sites, a server and a small shop with zero loss, all as processes of their own.

mod operator;
mod processes;
mod programs;
mod shop;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use levee_testing::disk::SmallDisk;
use levee_testing::levee::{AgentPlace, Binary, ServerPlace};
use levee_testing::netns::Net;
use levee_testing::ports::free_port_on;
use levee_testing::postgres::Cluster;
use levee_testing::{Child, TempSite};

use super::secrets;

/// How long anything may take on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(180);

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
            Some(net) => programs::inside(net, site, &binary, &root.folder("client")),
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

    /// The source as it was before Levee came.
    #[track_caller]
    pub fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("the source was not lost")
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
