//! Levee's own processes, as a user starts them.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Child;
use crate::ports::free_port_on;
use crate::process::run;
use crate::wait::poll;

/// The built `levee` program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    path: PathBuf,
}

impl Binary {
    pub fn at(path: impl Into<PathBuf>) -> Binary {
        Binary { path: path.into() }
    }

    /// The program that cargo names to the running test, or the one beside the test's own program.
    #[track_caller]
    pub fn find() -> Binary {
        let named = ["LEVEE_BINARY", "CARGO_BIN_EXE_levee", "NEXTEST_BIN_EXE_levee"]
            .iter()
            .find_map(std::env::var_os)
            .map(PathBuf::from);
        let path = named.or_else(beside_this_test).unwrap_or_else(|| {
            panic!("there is no built levee beside this test: run `cargo build -p levee` first, or set LEVEE_BINARY")
        });
        Binary { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command with nothing of the caller's own LEVEE_* settings.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("LEVEE_")) {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Where a server of a test runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlace {
    pub folder: PathBuf,
    pub api: SocketAddr,
    /// Where agents connect.
    pub wire: SocketAddr,
    pub dns: SocketAddr,
}

impl ServerPlace {
    /// A server at an address, on free ports.
    pub fn at(folder: impl Into<PathBuf>, address: IpAddr) -> ServerPlace {
        let free = || SocketAddr::new(address, free_port_on(&[address]));
        ServerPlace { folder: folder.into(), api: free(), wire: free(), dns: free() }
    }
}

/// Where an agent of a test runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPlace {
    pub name: String,
    pub site: String,
    pub folder: PathBuf,
    pub address: IpAddr,
    pub wire_port: u16,
    pub store_port: u16,
    pub dns_port: u16,
}

impl Binary {
    /// A command line that talks to a server, as its administrator. What it would keep for its user is
    /// kept in the server's folder.
    pub fn operator(&self, server: &ServerPlace) -> Command {
        let mut command = self.command();
        command
            .current_dir(&server.folder)
            .env("HOME", &server.folder)
            .env_remove("XDG_CONFIG_HOME")
            .env("LEVEE_SERVER", format!("https://{}", server.api))
            .env("LEVEE_TOKEN_FILE", server.folder.join("admin-token"))
            .env("LEVEE_CA_FILE", server.folder.join("ca/ca.pem"));
        command
    }

    /// Starts a server and waits until it serves. Its folder is made when it is not there.
    #[track_caller]
    pub fn start_server(&self, place: &ServerPlace, log: &Path) -> Child {
        std::fs::create_dir_all(&place.folder)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", place.folder.display()));
        let mut command = self.operator(place);
        command
            .args(["server", "run", "--json", "--folder"])
            .arg(&place.folder)
            .args(["--api", &place.api.to_string(), "--wire", &place.wire.to_string()])
            .args(["--dns", &place.dns.to_string()]);
        start_service("server", &mut command, log)
    }

    /// Makes an agent join with a token of its own, good once.
    #[track_caller]
    pub fn join(&self, server: &ServerPlace, agent: &AgentPlace) {
        let token = run(self.operator(server).args(["token", "create", "--site", &agent.site, "--quiet"]));
        // The agent's folder is made by the agent, as it is for its users.
        let mut token_file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        token_file.write_all(token.as_bytes()).expect("a small file can be written");
        let mut command = self.command();
        command.args(["agent", "join", "--name", &agent.name, "--folder"]).arg(&agent.folder);
        run(command.arg("--token-file").arg(token_file.path()));
    }

    /// Starts an agent that has joined, and waits until it listens.
    #[track_caller]
    pub fn start_agent(&self, place: &AgentPlace, log: &Path) -> Child {
        start_service(&format!("agent {}", place.name), &mut self.agent_command(place), log)
    }

    /// Starts an agent, and does not wait for anything: it may well not come up.
    #[track_caller]
    pub fn spawn_agent(&self, place: &AgentPlace, log: &Path) -> Child {
        Child::spawn(&format!("agent {}", place.name), &mut self.agent_command(place), log)
    }

    /// Serves the repositories below a folder at a port of this machine, and waits until it does.
    #[track_caller]
    pub fn serve_vaults(&self, folder: &Path, port: u16, arguments: &[&str], log: &Path) -> Child {
        let mut command = self.command();
        command.args(["vault", "serve", "--listen", &format!("127.0.0.1:{port}"), "--path"]).arg(folder);
        let serving = |log: &Path| std::fs::read_to_string(log).unwrap_or_default().matches("serving").count();
        // A log goes on from an earlier start.
        let before = serving(log);
        let child = Child::spawn("levee vault serve", command.args(arguments), log);
        if poll(READY_MAX, || (serving(log) > before).then_some(())).is_none() {
            panic!("levee vault serve did not come up:\n{}", child.log_tail(30));
        }
        child
    }

    fn agent_command(&self, place: &AgentPlace) -> Command {
        let port = |port: u16| port.to_string();
        let mut command = self.command();
        command
            .current_dir(&place.folder)
            .args(["agent", "run", "--json", "--folder"])
            .arg(&place.folder)
            .args(["--listen", &place.address.to_string()])
            .args(["--wire-port", &port(place.wire_port), "--store-port", &port(place.store_port)])
            .args(["--dns-port", &port(place.dns_port)]);
        command
    }
}

/// How long a process of Levee may take to come up.
const READY_MAX: Duration = Duration::from_secs(30);

#[track_caller]
fn start_service(name: &str, command: &mut Command, log: &Path) -> Child {
    let ready_lines = |log: &Path| {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        text.lines().filter(|line| line.contains(r#""event":"ready""#)).count()
    };
    // A log goes on from an earlier start.
    let before = ready_lines(log);
    let mut child = Child::spawn(name, command, log);
    let is_ready = poll(READY_MAX, || match ready_lines(log) > before {
        true => Some(true),
        false => (!child.is_running()).then_some(false),
    });
    if is_ready != Some(true) {
        panic!("{name} did not come up:\n{}", child.log_tail(30));
    }
    child
}

/// Tests are built to `target/PROFILE/deps/`, programs to `target/PROFILE/`.
fn beside_this_test() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    test.ancestors().skip(1).take(3).map(|folder| folder.join("levee")).find(|path| path.is_file())
}
