use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use levee_api::{JoinTokenRequest, JoinTokenView, TokenAccess, TokenRequest, TokenView};
use levee_model::SiteName;
use levee_model::protection::Period;
use serde::Serialize;

use super::connection::Connection;
use super::text::{moment, or_dash, table};
use crate::exit::Exit;
use crate::output::Output;

/// Long enough to carry it to another machine.
const JOIN_TOKEN_GOOD_FOR: Period = Period::from_seconds(3600);

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token: for the API (--name), or for an agent that joins (--join or --site)
    Create(CreateArguments),
    /// List the tokens, without their text
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Refuse a token from now on
    Revoke {
        /// The token's id, as the list has it
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Args)]
pub struct CreateArguments {
    /// A token for the API, for whom or what
    #[arg(long, value_name = "WHO", required_unless_present_any = ["join", "site"], conflicts_with_all = ["join", "site"])]
    name: Option<String>,
    /// It may look, and change nothing
    #[arg(long, requires = "name")]
    read_only: bool,
    /// A token that lets one agent join, once
    #[arg(long)]
    join: bool,
    /// The only site where an agent may join with it
    #[arg(long)]
    site: Option<SiteName>,
    /// How long it is good for, as in 1h or 30d (join tokens: an hour; tokens for the API: for ever)
    #[arg(long, value_name = "PERIOD")]
    expires: Option<Period>,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(command: TokenCommand, output: Output) -> anyhow::Result<Exit> {
    match command {
        TokenCommand::Create(arguments) => create(arguments, output)?,
        TokenCommand::List { connection } => {
            let client = connection.client()?;
            let lists = Lists { tokens: client.tokens()?, join_tokens: client.join_tokens()? };
            output.result(&lists, describe)?;
        }
        TokenCommand::Revoke { id, connection } => {
            let client = connection.client()?;
            match client.revoke_token(&id) {
                Err(error) if error.code() == Some("unknown_token") => client.revoke_join_token(&id)?,
                other => other?,
            }
            output.result(&serde_json::json!({ "revoked": id }), |_| format!("token {id} is refused from now on"))?;
        }
    }
    Ok(Exit::DONE)
}

/// Prints the text of the token alone, so that it can go straight into a file.
fn create(arguments: CreateArguments, output: Output) -> anyhow::Result<()> {
    let client = arguments.connection.client()?;
    let good_for = arguments.expires.or_else(|| arguments.name.is_none().then_some(JOIN_TOKEN_GOOD_FOR));
    let expires_at = match good_for {
        Some(period) => Some(Timestamp::now().checked_add(SignedDuration::try_from(period.duration())?)?),
        None => None,
    };
    match arguments.name {
        Some(name) => {
            let access = if arguments.read_only { TokenAccess::Read } else { TokenAccess::Admin };
            let created = client.create_token(&TokenRequest { name, access, expires_at })?;
            output.result(&created, |created| created.token.0.clone())
        }
        None => {
            let created = client.create_join_token(&JoinTokenRequest { site: arguments.site, expires_at })?;
            output.note(&format!("good once, until {}", moment(created.view.expires_at)));
            output.result(&created, |created| created.token.0.clone())
        }
    }
}

#[derive(Serialize)]
struct Lists {
    tokens: Vec<TokenView>,
    join_tokens: Vec<JoinTokenView>,
}

fn describe(lists: &Lists) -> String {
    let access = |token: &TokenView| match token.access {
        TokenAccess::Admin => "admin",
        TokenAccess::Read => "read only",
    };
    let tokens = lists.tokens.iter().map(|token| {
        vec![
            token.id.clone(),
            access(token).into(),
            token.name.clone(),
            token.expires_at.map_or("never".into(), moment),
            "-".into(),
        ]
    });
    let join_tokens = lists.join_tokens.iter().map(|token| {
        vec![
            token.id.clone(),
            "join".into(),
            token.site.as_ref().map_or("any site".into(), ToString::to_string),
            moment(token.expires_at),
            or_dash(token.used_by.as_ref()),
        ]
    });
    table(&["ID", "FOR", "WHO OR WHERE", "EXPIRES", "USED BY"], &tokens.chain(join_tokens).collect::<Vec<_>>())
}
