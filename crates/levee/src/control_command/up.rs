//! A server and one agent in one process, for someone who wants to use Levee rather than watch it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use levee_agent::DEFAULT_COPIES_AT_ONCE;
use levee_agent::{Agent, AgentFolder, AgentOptions, DEFAULT_DNS_PORT, DEFAULT_STORE_PORT, DEFAULT_WIRE_PORT};
use levee_agent::{JoinAs, Listen, LocalAddresses};
use levee_model::{AgentId, SiteName};
use levee_server::{Control, Server, ServerOptions};
use levee_wire::JoinToken;
use serde_json::json;

use super::server::{API_PORT, Ready, WIRE_PORT, say_kept};
use super::service::{Shutdown, serve};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct UpArguments {
    /// Everything that the server and the agent keep
    #[arg(long, env = "LEVEE_FOLDER", value_name = "DIR", default_value = "/var/lib/levee")]
    folder: PathBuf,
    /// The site that this machine stands at (counts at the first start only)
    #[arg(long, default_value = "here")]
    site: SiteName,
    /// The address where everything listens: for a second site, one that it can reach
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    address: IpAddr,
    /// The port of the API
    #[arg(long, value_name = "PORT", default_value_t = API_PORT)]
    api_port: u16,
    /// The port where other agents connect to the server
    #[arg(long, value_name = "PORT", default_value_t = WIRE_PORT)]
    server_port: u16,
    /// The port for calls from other agents
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_WIRE_PORT)]
    wire_port: u16,
    /// The port for repositories
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_STORE_PORT)]
    store_port: u16,
    /// The port for DNS
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_DNS_PORT)]
    dns_port: u16,
}

pub fn run(arguments: UpArguments, output: Output) -> anyhow::Result<Exit> {
    serve(|shutdown| up(arguments, output, shutdown))?;
    Ok(Exit::DONE)
}

async fn up(arguments: UpArguments, output: Output, shutdown: Shutdown) -> anyhow::Result<()> {
    let at = |port| SocketAddr::new(arguments.address, port);
    let server_folder = arguments.folder.join("server");
    let server = Server::start(ServerOptions {
        folder: server_folder.clone(),
        api_listen: at(arguments.api_port),
        wire_listen: at(arguments.server_port),
        dns_listen: None,
        advertise: Vec::new(),
    })
    .await?;
    let ready = Ready::of(&server, &server_folder)?;
    let options = AgentOptions {
        folder: arguments.folder.join("agent"),
        servers: vec![ready.wire.to_string()],
        listen: Listen {
            address: arguments.address,
            wire_port: arguments.wire_port,
            store_port: arguments.store_port,
            dns_port: Some(arguments.dns_port),
        },
        advertise: None,
        program: None,
        copies_at_once: DEFAULT_COPIES_AT_ONCE,
    };
    let control = server.control();
    let serving = server.serve(shutdown.clone().asked());
    let working = async {
        let is_new = join_once(&control, &ready, &options, &arguments.site).await?;
        let agent = Agent::start(&options).await?;
        say_kept(&ready.context().keep()?, output);
        announce(&ready, agent.addresses(), is_new, output)?;
        anyhow::Ok(agent.run(shutdown.clone().asked()).await?)
    };
    let mut serving = std::pin::pin!(serving);
    let mut working = std::pin::pin!(working);
    // Whichever ends first by itself has failed, and the other is of no use alone.
    tokio::select! {
        served = &mut serving => {
            served?;
            working.await
        }
        worked = &mut working => {
            worked?;
            Ok(serving.await?)
        }
    }
}

/// Joins at the first start, with a token that the server makes for it. Says whether it was the first.
async fn join_once(control: &Control, ready: &Ready, options: &AgentOptions, site: &SiteName) -> anyhow::Result<bool> {
    if AgentFolder::new(&options.folder).read_membership()?.is_some() {
        return Ok(false);
    }
    let admin_token = std::fs::read_to_string(&ready.token_file)
        .with_context(|| format!("cannot read the first token from {}", ready.token_file.display()))?;
    let caller = control.authenticate(Some(admin_token.trim())).await?;
    let (_, text) = control.join_token_create(&caller, Some(site.clone()), None).await?;
    let token = JoinToken::parse(&text)?;
    let join_as = JoinAs { agent: AgentId::new(format!("{site}-1"))?, site: Some(site.clone()) };
    levee_agent::join(options, &join_as, &token).await?;
    Ok(true)
}

fn announce(ready: &Ready, agent: LocalAddresses, is_new: bool, output: Output) -> anyhow::Result<()> {
    let value = json!({
        "event": "ready", "folder": ready.folder, "api": ready.api, "token_file": ready.token_file,
        "ca_file": ready.ca_file, "server": ready.wire,
        "agent": { "wire": agent.wire, "store": agent.store, "dns": agent.dns },
    });
    output.result(&value, |_| {
        let mut text = format!("levee is up: the API is at {}, agents connect to {}\n", ready.api, ready.wire);
        if is_new {
            text.push_str(
                "next:\n  \
                 1. a second site: `levee token create --site NAME` here; on a machine there `levee agent join`, then `levee agent run`\n  \
                 2. say what to protect: write a protection file (see examples/) and `levee apply -f FILE`\n  \
                 3. see how it stands: `levee status`\n",
            );
        }
        text
    })
}
