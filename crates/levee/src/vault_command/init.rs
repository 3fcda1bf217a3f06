use anyhow::bail;
use clap::Args;
use levee_vault::Vault;
use serde::Serialize;

use super::place::Place;
use super::source::SourceArguments;
use super::{ended, password};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Serialize)]
struct Initialized {
    message_type: &'static str,
    id: String,
    repository: String,
}

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    source: SourceArguments,
    /// Have restic cut files as in the vault of --from-repo, so that copies between the two hold the same pieces
    #[arg(long, requires = "from_repo")]
    copy_chunker_params: bool,
}

pub fn run(place: &Place, arguments: &Arguments, output: Output) -> anyhow::Result<Exit> {
    if arguments.source.is_given() && !arguments.copy_chunker_params {
        bail!("another vault says nothing to a new one without --copy-chunker-params; nothing was made");
    }
    let like = arguments.copy_chunker_params.then(|| arguments.source.open(place)).transpose()?;
    let store = if like.is_some() { place.one_of_several().store()? } else { place.store()? };
    let password = password::first(place.password_file.as_deref())?;
    let vault = match &like {
        Some(like) => Vault::init_like(store, &password, like),
        None => Vault::init(store, &password),
    };
    let vault = vault.map_err(ended)?;
    let made = Initialized { message_type: "initialized", id: vault.id().to_hex(), repository: vault.location() };
    output.result(&made, |made| {
        format!(
            "made vault {} at {}\nWithout the password nothing in it can be read again: keep it in a second place.",
            &made.id[..10],
            made.repository
        )
    })?;
    Ok(Exit::DONE)
}
