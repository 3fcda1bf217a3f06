use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::cluster::Place;
use super::{Binaries, Cluster, Version};
use crate::process::run;
use crate::{TempSite, free_port};

/// How a cluster is made. See `Cluster::builder`.
#[derive(Debug)]
pub struct Builder {
    pub(super) binaries: Option<Binaries>,
    version: Version,
    address: IpAddr,
    port: Option<u16>,
    data_directory: Option<PathBuf>,
    parent: Option<PathBuf>,
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    superuser_password: Option<String>,
    checksums: bool,
    environment: Vec<(String, String)>,
}

/// What every cluster of the tests starts with. Later settings of the same name win.
const SETTINGS: [(&str, &str); 9] = [
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    ("hot_standby", "on"),
    ("shared_buffers", "64MB"),
    ("fsync", "off"),
    ("autovacuum_naptime", "10s"),
    ("log_min_messages", "info"),
    // Tests kill servers, and a postmaster that is killed removes none of its shared memory. As files of the data
    // directory it goes with them, also where PostgreSQL 17 runs in its own root.
    ("dynamic_shared_memory_type", "mmap"),
];

impl Builder {
    pub(super) fn new() -> Builder {
        Builder {
            binaries: None,
            version: Version::V15,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            data_directory: None,
            parent: None,
            settings: Vec::new(),
            hba: Vec::new(),
            superuser_password: None,
            checksums: true,
            environment: Vec::new(),
        }
    }

    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// These programs, instead of those of a version.
    pub fn binaries(mut self, binaries: Binaries) -> Self {
        self.binaries = Some(binaries);
        self
    }

    /// The address to listen at; 127.0.0.1 when it is not given.
    pub fn address(mut self, address: IpAddr) -> Self {
        self.address = address;
        self
    }

    /// The port to listen at; a free one when it is not given.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Where the data go; below a temporary folder when it is not given. The cluster is left there
    /// when the value is dropped, but stopped.
    pub fn data_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_directory = Some(path.into());
        self
    }

    /// The folder below which the socket, the log and, when nothing else is said, the data go; the
    /// system's folder for temporary files when it is not given.
    pub fn below(mut self, parent: impl Into<PathBuf>) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// A line of postgresql.conf.
    pub fn setting(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Whether commits wait for the disk; without it they do not, as a test's data may be lost.
    pub fn fsync(self, on: bool) -> Self {
        self.setting("fsync", if on { "on" } else { "off" })
    }

    /// Whether data pages carry checksums; they do when nothing is said.
    pub fn checksums(mut self, on: bool) -> Self {
        self.checksums = on;
        self
    }

    /// A line of pg_hba.conf, before the lines that let everyone of this machine in.
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.into());
        self
    }

    /// Gives the superuser `postgres` a password, and asks every TCP connection for one (SCRAM).
    pub fn superuser_password(mut self, password: &str) -> Self {
        self.superuser_password = Some(password.into());
        self
    }

    /// A variable of the server's environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Makes the cluster with initdb and leaves it stopped.
    #[track_caller]
    pub fn create(self) -> Cluster {
        let binaries = match self.binaries {
            Some(binaries) => binaries,
            None => self.version.binaries(),
        };
        let site = self.parent.as_ref().map_or_else(|| TempSite::new("pg"), |parent| TempSite::below(parent, "pg"));
        let owned = |path: &Path| {
            fs::create_dir_all(path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
            if let Some(user) = binaries.user() {
                user.own(path);
            }
        };
        let data_directory = self.data_directory.unwrap_or_else(|| site.path().join("data"));
        owned(&data_directory);
        let socket_directory = site.database_folder("s");

        let mut initdb = binaries.command("initdb");
        initdb.arg("-D").arg(&data_directory).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
        initdb.arg("--no-sync");
        if self.checksums {
            initdb.arg("--data-checksums");
        }
        let password_file = site.database_folder("secret").join("password");
        if let Some(password) = &self.superuser_password {
            fs::write(&password_file, password).expect("our own folder");
            initdb.arg("--pwfile").arg(&password_file);
        }
        run(&mut initdb);

        let port = self.port.unwrap_or_else(free_port);
        let mut conf = format!(
            "listen_addresses = '{}'\nport = {port}\nunix_socket_directories = '{}'\n",
            self.address,
            socket_directory.display()
        );
        let defaults = SETTINGS.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        for (name, value) in defaults.chain(self.settings) {
            conf.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        append(&data_directory.join("postgresql.conf"), &conf);
        let method = if self.superuser_password.is_some() { "scram-sha-256" } else { "trust" };
        let hba = format!(
            "{}\nlocal all all trust\nlocal replication all trust\nhost all all 0.0.0.0/0 {method}\n\
             host replication all 0.0.0.0/0 {method}\nhost all all ::/0 {method}\n",
            self.hba.join("\n")
        );
        fs::write(data_directory.join("pg_hba.conf"), hba).expect("initdb has made the folder");
        let place = Place { site, data_directory, socket_directory, address: self.address, port };
        Cluster::stopped(binaries, place, self.environment)
    }

    /// Makes the cluster and starts it.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let mut cluster = self.create();
        cluster.start();
        cluster
    }
}

fn append(path: &Path, text: &str) {
    let mut content =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    content.push_str(text);
    fs::write(path, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
