use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use levee_api::BackupRequest;
use levee_server::{Server, ServerOptions};
use serde::Serialize;
use zeroize::Zeroizing;

use super::adopt::AdoptArguments;
use super::connection::{Connection, read};
use super::context::{Context, Kept};
use super::service::serve;
use crate::exit::Exit;
use crate::output::Output;

pub const API_PORT: u16 = 7600;
pub const WIRE_PORT: u16 = 7601;
const PASSPHRASE_BYTES_MAX: u64 = 4096;

#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Make a server's folder, its CA and its first token
    Init(InitArguments),
    /// Run the server
    Run(RunArguments),
    /// Write state and CA to one encrypted file; `age -d` opens it
    Backup(BackupArguments),
    /// Take over newer epochs from the agents, after a restore from an older backup
    AdoptEpochs(AdoptArguments),
}

impl ServerCommand {
    pub fn is_service(&self) -> bool {
        matches!(self, ServerCommand::Run(_))
    }
}

#[derive(Debug, Args)]
pub struct Folder {
    /// Everything that the server keeps
    #[arg(long, env = "LEVEE_SERVER_FOLDER", value_name = "DIR", default_value = "/var/lib/levee/server")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct InitArguments {
    #[command(flatten)]
    folder: Folder,
    /// Where the API will be reached, for this user's context file
    #[arg(long, value_name = "URL", default_value_t = format!("https://127.0.0.1:{API_PORT}"))]
    url: String,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    folder: Folder,
    /// Where the API listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([127, 0, 0, 1], API_PORT)))]
    api: SocketAddr,
    /// Where agents connect
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], WIRE_PORT)))]
    wire: SocketAddr,
    /// Where the server answers DNS for the entries (not at all when it is not given)
    #[arg(long, value_name = "ADDRESS:PORT")]
    dns: Option<SocketAddr>,
    /// Where agents are told to connect, in this order (this host's name when the server listens on all addresses)
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
}

#[derive(Debug, Args)]
pub struct BackupArguments {
    /// The file to write; it must not exist
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The `age` recipient that can open it (age1…)
    #[arg(long, value_name = "RECIPIENT", required_unless_present = "passphrase_file")]
    recipient: Option<String>,
    /// A file with a passphrase to encrypt it with instead
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(command: ServerCommand, output: Output) -> anyhow::Result<Exit> {
    match command {
        ServerCommand::Init(arguments) => init(arguments, output),
        ServerCommand::Run(arguments) => run_server(arguments, output),
        ServerCommand::Backup(arguments) => backup(arguments, output),
        ServerCommand::AdoptEpochs(arguments) => super::adopt::run(arguments, output),
    }
}

/// Where a server listens and what its operator needs; printed once it is ready.
#[derive(Debug, Serialize)]
pub struct Ready {
    pub event: &'static str,
    pub folder: PathBuf,
    /// `https://HOST:PORT`
    pub api: String,
    pub wire: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<SocketAddr>,
    pub token_file: PathBuf,
    pub ca_file: PathBuf,
}

impl Ready {
    pub fn of(server: &Server, folder: &Path) -> anyhow::Result<Ready> {
        let listening = server.listening();
        let files = Files::of(folder)?;
        Ok(Ready {
            event: "ready",
            folder: folder.into(),
            api: url(listening.api),
            wire: listening.wire,
            dns: listening.dns,
            token_file: files.token,
            ca_file: files.authority,
        })
    }

    pub fn context(&self) -> Context {
        Context { server: self.api.clone(), token_file: self.token_file.clone(), ca_file: self.ca_file.clone() }
    }
}

/// What a client needs out of a server's folder.
struct Files {
    token: PathBuf,
    authority: PathBuf,
}

impl Files {
    fn of(folder: &Path) -> anyhow::Result<Files> {
        let folder = std::fs::canonicalize(folder).with_context(|| format!("cannot find {}", folder.display()))?;
        Ok(Files { token: folder.join("admin-token"), authority: folder.join("ca").join("ca.pem") })
    }
}

/// How the API is reached from this machine.
fn url(api: SocketAddr) -> String {
    let mut reached = api;
    if reached.ip().is_unspecified() {
        reached.set_ip(if api.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    format!("https://{reached}")
}

fn init(arguments: InitArguments, output: Output) -> anyhow::Result<Exit> {
    let folder = arguments.folder.folder;
    if folder.join("state.db").exists() {
        bail!("{} holds a server already: start it with `levee server run`", folder.display());
    }
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = ServerOptions {
        folder: folder.clone(),
        api_listen: nowhere,
        wire_listen: nowhere,
        dns_listen: None,
        advertise: Vec::new(),
    };
    // A server that starts makes its folder; it is not let on to serve.
    serve(|_| async move { Ok(Server::start(options).await.map(drop)?) })
        .with_context(|| format!("cannot make a server in {}", folder.display()))?;
    let files = Files::of(&folder)?;
    let context = Context { server: arguments.url, token_file: files.token, ca_file: files.authority };
    say_kept(&context.keep()?, output);
    output.result(&context, |context| {
        format!(
            "made a server in {}\n  the first token: {}\n  the CA:          {} (its key is beside it: keep it safe)\nnext: levee server run --folder {}",
            folder.display(),
            context.token_file.display(),
            context.ca_file.display(),
            folder.display()
        )
    })?;
    Ok(Exit::DONE)
}

/// Says what commands of this user will talk to.
pub fn say_kept(kept: &Kept, output: Output) {
    match kept {
        Kept::Written(path) | Kept::Unchanged(path) => {
            output.note(&format!("commands of this user use this server: {}", path.display()));
        }
        Kept::OtherServer(path) => output.note(&format!(
            "{} names another server: use --server, --token-file and --ca-file for this one, or remove that file",
            path.display()
        )),
        Kept::Nowhere => output.note("there is no home folder: use --server, --token-file and --ca-file"),
    }
}

fn run_server(arguments: RunArguments, output: Output) -> anyhow::Result<Exit> {
    let RunArguments { folder: Folder { folder }, api, wire, dns, advertise } = arguments;
    let advertise = advertised(advertise, wire);
    let options =
        ServerOptions { folder: folder.clone(), api_listen: api, wire_listen: wire, dns_listen: dns, advertise };
    serve(|shutdown| async move {
        let server = Server::start(options).await?;
        let ready = Ready::of(&server, &folder)?;
        output.result(&ready, |ready| {
            format!(
                "the API is at {}, agents connect to {}; the CA is {}",
                ready.api,
                ready.wire,
                ready.ca_file.display()
            )
        })?;
        Ok(server.serve(shutdown.asked()).await?)
    })?;
    Ok(Exit::DONE)
}

/// A name for what would otherwise be "all addresses", which nobody can connect to.
fn advertised(given: Vec<String>, wire: SocketAddr) -> Vec<String> {
    if !given.is_empty() || !wire.ip().is_unspecified() || wire.port() == 0 {
        return given;
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    vec![format!("{host}:{}", wire.port())]
}

fn backup(arguments: BackupArguments, output: Output) -> anyhow::Result<Exit> {
    let BackupArguments { output: path, recipient, passphrase_file, connection } = arguments;
    let passphrase = match passphrase_file {
        Some(file) => {
            let bytes = Zeroizing::new(
                read(&file, PASSPHRASE_BYTES_MAX).with_context(|| format!("cannot read {}", file.display()))?,
            );
            let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is not text", file.display()))?;
            Some(text.trim_end_matches(['\r', '\n']).to_string())
        }
        None => None,
    };
    // Made before the server is asked, so that nothing is asked in vain.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    let written = connection
        .client()
        .and_then(|client| Ok(client.backup(&BackupRequest { recipient, passphrase })?))
        .and_then(|content| {
            file.write_all(&content).and_then(|()| file.sync_all()).context("cannot write the backup")?;
            Ok(content.len())
        });
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(error) => {
            // Half a backup is none.
            let _ = std::fs::remove_file(&path);
            return Err(error.context(format!("no backup was written to {}", path.display())));
        }
    };
    output.result(&serde_json::json!({ "file": path, "bytes": bytes }), |_| {
        format!("wrote {} ({bytes} bytes); `age -d` opens it", path.display())
    })?;
    Ok(Exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_mean_all_are_not_told_to_anyone() {
        assert_eq!(url("0.0.0.0:7600".parse().unwrap()), "https://127.0.0.1:7600");
        assert_eq!(url("[::]:1".parse().unwrap()), "https://[::1]:1");
        assert_eq!(url("10.1.2.3:7600".parse().unwrap()), "https://10.1.2.3:7600");
        assert!(advertised(Vec::new(), "10.0.0.1:7601".parse().unwrap()).is_empty());
        assert_eq!(advertised(vec!["a:1".into()], "0.0.0.0:7601".parse().unwrap()), ["a:1"]);
        let by_name = advertised(Vec::new(), "0.0.0.0:7601".parse().unwrap());
        assert!(by_name.len() == 1 && by_name[0].ends_with(":7601") && !by_name[0].starts_with("0."), "{by_name:?}");
    }
}
