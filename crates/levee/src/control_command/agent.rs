use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use levee_agent::{
    Agent, AgentFolder, AgentOptions, DEFAULT_COPIES_AT_ONCE, DEFAULT_DNS_PORT, DEFAULT_STORE_PORT, DEFAULT_WIRE_PORT,
};
use levee_agent::{JoinAs, Listen, Secrets};
use levee_api::AgentSummary;
use levee_model::control::Role;
use levee_model::{AgentId, AssetId, SiteName};
use levee_wire::JoinToken;
use serde_json::json;
use zeroize::Zeroizing;

use super::connection::{Connection, read};
use super::service::serve;
use super::text::{ago, moment, or_dash, table};
use crate::exit::Exit;
use crate::output::Output;

const TOKEN_BYTES_MAX: u64 = 16 << 10;

#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Make this machine an agent of a site, with a join token
    Join(JoinArguments),
    /// Run the agent
    Run(RunArguments),
    /// Start a protected database by hand, through the start gate: after a restart of its machine, or maintenance
    StartDatabase(StartDatabaseArguments),
    /// Passwords that the protection file names
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Show what this machine's agent is and does, without the server
    Status {
        #[command(flatten)]
        folder: Folder,
    },
    /// List all agents of the server
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Trust an agent's certificates no more
    Revoke {
        /// The agent's name, as the list has it
        agent: AgentId,
        #[command(flatten)]
        connection: Connection,
    },
}

impl AgentCommand {
    pub fn is_service(&self) -> bool {
        matches!(self, AgentCommand::Run(_))
    }
}

#[derive(Debug, Args)]
pub struct Folder {
    /// Everything that the agent keeps
    #[arg(long, env = "LEVEE_AGENT_FOLDER", value_name = "DIR", default_value = "/var/lib/levee/agent")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct JoinArguments {
    /// The agent's name, unlike every other one's
    #[arg(long)]
    name: AgentId,
    /// The site it stands at; needed when the token is good for any site
    #[arg(long)]
    site: Option<SiteName>,
    /// A file with the join token (`-` or nothing: standard input)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    folder: Folder,
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    listen: IpAddr,
    /// The address under which other agents reach this one (needed when it listens on all addresses)
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<IpAddr>,
    /// The port for calls from other agents
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_WIRE_PORT)]
    wire_port: u16,
    /// The port for repositories
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_STORE_PORT)]
    store_port: u16,
    /// The port for DNS
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_DNS_PORT)]
    dns_port: u16,
    /// Answer no DNS
    #[arg(long, conflicts_with = "dns_port")]
    no_dns: bool,
    /// Where the server is, in this order, instead of what the join token said
    #[arg(long, value_name = "HOST:PORT")]
    server_address: Vec<String>,
    /// How many copies of folders and base backups are taken at once; the others wait in line
    #[arg(long, value_name = "N", default_value_t = DEFAULT_COPIES_AT_ONCE, value_parser = clap::value_parser!(u8).range(1..))]
    copies_at_once: u8,
}

#[derive(Debug, Args)]
pub struct StartDatabaseArguments {
    /// The database, as APP/ASSET
    asset: AssetId,
    /// Start it although the server has not confirmed since this machine's restart that the app is written here: say
    /// so only when no other site has taken it over
    #[arg(long)]
    no_other_writer: bool,
    #[command(flatten)]
    folder: Folder,
}

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Set a secret to what standard input has
    Set {
        /// The name, as `password_secret` has it
        name: String,
        #[command(flatten)]
        folder: Folder,
    },
    /// List the names of the secrets
    List {
        #[command(flatten)]
        folder: Folder,
    },
    /// Remove a secret
    Remove {
        /// The name, as `password_secret` has it
        name: String,
        #[command(flatten)]
        folder: Folder,
    },
}

pub fn run(command: AgentCommand, output: Output) -> anyhow::Result<Exit> {
    match command {
        AgentCommand::StartDatabase(arguments) => start_database(arguments, output)?,
        AgentCommand::Join(arguments) => join(arguments, output)?,
        AgentCommand::Run(arguments) => run_agent(arguments, output)?,
        AgentCommand::Secret(command) => secret(command, output)?,
        AgentCommand::Status { folder } => status(&folder, output)?,
        AgentCommand::List { connection } => {
            output.result(&connection.client()?.agents()?, |agents| list(agents, Timestamp::now()))?;
        }
        AgentCommand::Revoke { agent, connection } => {
            connection.client()?.revoke_agent(&agent)?;
            output.result(&json!({ "revoked": agent }), |_| format!("agent {agent} is trusted no more"))?;
        }
    }
    Ok(Exit::DONE)
}

fn join(arguments: JoinArguments, output: Output) -> anyhow::Result<()> {
    let JoinArguments { name, site, token_file, folder: Folder { folder } } = arguments;
    let from_file = token_file.filter(|file| file.as_os_str() != "-");
    let text = Zeroizing::new(match &from_file {
        Some(file) => {
            let bytes = read(file, TOKEN_BYTES_MAX).with_context(|| format!("cannot read {}", file.display()))?;
            String::from_utf8(bytes).with_context(|| format!("{} holds no token", file.display()))?
        }
        None => {
            if std::io::stdin().is_terminal() {
                output.note("paste the join token that `levee token create --join` has printed:");
            }
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).context("cannot read the join token")?;
            line
        }
    });
    let token = JoinToken::parse(text.trim())?;
    let options = AgentOptions {
        folder: folder.clone(),
        servers: Vec::new(),
        listen: Listen::at([0, 0, 0, 0].into()),
        advertise: None,
        program: None,
        copies_at_once: DEFAULT_COPIES_AT_ONCE,
    };
    let join_as = JoinAs { agent: name, site };
    let mut joined = None;
    serve(|_| async {
        joined = Some(levee_agent::join(&options, &join_as, &token).await?);
        Ok(())
    })?;
    output.result(&joined, |joined| match joined {
        Some(member) => format!(
            "agent {} has joined at site {}\nnext: levee agent run --folder {} --advertise ADDRESS",
            member.agent,
            member.site,
            folder.display()
        ),
        None => String::new(),
    })
}

fn run_agent(arguments: RunArguments, output: Output) -> anyhow::Result<()> {
    if arguments.listen.is_unspecified() && arguments.advertise.is_none() {
        bail!("say where other agents reach this one: --advertise ADDRESS, or --listen ADDRESS for one address only");
    }
    let options = AgentOptions {
        folder: arguments.folder.folder,
        servers: arguments.server_address,
        listen: Listen {
            address: arguments.listen,
            wire_port: arguments.wire_port,
            store_port: arguments.store_port,
            dns_port: (!arguments.no_dns).then_some(arguments.dns_port),
        },
        advertise: arguments.advertise,
        program: None,
        copies_at_once: arguments.copies_at_once,
    };
    serve(|shutdown| async move {
        let agent = Agent::start(&options).await?;
        let addresses = agent.addresses();
        let ready = json!({
            "event": "ready", "folder": options.folder,
            "wire": addresses.wire, "store": addresses.store, "dns": addresses.dns,
        });
        output.result(&ready, |_| {
            let dns = addresses.dns.map_or_else(String::new, |dns| format!(", DNS at {dns}"));
            format!("the agent listens at {} (repositories at {}{dns})", addresses.wire, addresses.store)
        })?;
        Ok(agent.run(shutdown.asked()).await?)
    })
}

fn start_database(arguments: StartDatabaseArguments, output: Output) -> anyhow::Result<()> {
    let StartDatabaseArguments { asset, no_other_writer, folder: Folder { folder } } = arguments;
    let pid = levee_agent::start_database(&AgentFolder::new(&folder), &asset, no_other_writer)
        .map_err(|failure| anyhow::anyhow!(failure.message))?;
    output.result(&json!({ "asset": asset, "pid": pid }), |_| format!("{asset} runs (process {pid})"))
}

fn secret(command: SecretCommand, output: Output) -> anyhow::Result<()> {
    let secrets = |folder: &Folder| Secrets::new(&AgentFolder::new(&folder.folder));
    match command {
        SecretCommand::Set { name, folder } => {
            if std::io::stdin().is_terminal() {
                bail!("a secret is not typed where it can be seen: use `levee agent secret set {name} < FILE`");
            }
            secrets(&folder).set(&name, std::io::stdin().lock())?;
            output.result(&json!({ "set": name }), |_| format!("the secret {name} is set"))
        }
        SecretCommand::List { folder } => output.result(&secrets(&folder).names()?, |names| names.join("\n")),
        SecretCommand::Remove { name, folder } => {
            secrets(&folder).remove(&name)?;
            output.result(&json!({ "removed": name }), |_| format!("the secret {name} is gone"))
        }
    }
}

fn status(folder: &Folder, output: Output) -> anyhow::Result<()> {
    let files = AgentFolder::new(&folder.folder);
    let Some(member) = files.read_membership()? else {
        bail!("there is no agent in {}: run `levee agent join` with a token first", folder.folder.display());
    };
    let certificate = files.read_credentials()?.facts();
    let desired = files.read_desired()?.unwrap_or_default();
    let apps: Vec<_> = desired
        .assignments
        .iter()
        .map(|assignment| json!({ "app": assignment.app, "role": assignment.role, "epoch": assignment.epoch }))
        .collect();
    let mut gaps = Vec::new();
    for assignment in &desired.assignments {
        for asset in assignment.spec.postgres.keys() {
            let asset = AssetId::new(assignment.app.clone(), asset.clone());
            gaps.extend(levee_agent::read_gaps(&folder.folder, &asset)?.into_iter().map(|gap| (asset.clone(), gap)));
        }
    }
    let listed: Vec<_> = gaps.iter().map(|(asset, gap)| json!({ "asset": asset, "gap": gap })).collect();
    let value = json!({
        "agent": member.agent, "site": member.site, "servers": member.servers,
        "certificate_until": certificate.not_after, "revision": desired.revision, "apps": apps, "gaps": listed,
    });
    output.result(&value, |_| {
        let mut text = format!(
            "agent {} at site {}\n  server: {}\n  certificate until {} (renewed by itself)\n  works by revision {} of what is wanted\n",
            member.agent,
            member.site,
            member.servers.join(", "),
            moment(certificate.not_after),
            desired.revision
        );
        for assignment in &desired.assignments {
            let role = match assignment.role {
                Role::Writer => "is written here",
                Role::Recovery => "is kept here for recovery",
            };
            text.push_str(&format!("  {} {role}, epoch {}\n", assignment.app, assignment.epoch));
        }
        for (asset, gap) in &gaps {
            let closed = match gap.closed_at {
                Some(at) => format!("behind it lies the base backup of {}", moment(at)),
                None => "no base backup lies behind it yet".into(),
            };
            text.push_str(&format!("  gap in {asset}, noticed {}: {}; {closed}\n", moment(gap.noticed_at), gap.message));
        }
        text
    })
}

fn list(agents: &[AgentSummary], now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = agents
        .iter()
        .map(|agent| {
            let state = match (agent.revoked, agent.connected) {
                (true, _) => "revoked",
                (false, true) => "connected",
                (false, false) => "away",
            };
            vec![
                agent.agent.to_string(),
                agent.site.to_string(),
                state.into(),
                or_dash(agent.last_seen.map(|seen| ago(seen, now))),
                or_dash(agent.version.as_ref()),
                or_dash(agent.wire),
                agent.problems.join("; "),
            ]
        })
        .collect();
    table(&["AGENT", "SITE", "STATE", "LAST SEEN", "VERSION", "ADDRESS", "PROBLEMS"], &rows)
}
