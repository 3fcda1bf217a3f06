use levee_vault::Vault;
use serde::Serialize;

use super::place::Place;
use super::{ended, password};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Serialize)]
struct Initialized {
    message_type: &'static str,
    id: String,
    repository: String,
}

pub fn run(place: &Place, output: Output) -> anyhow::Result<Exit> {
    let store = place.store()?;
    let password = password::first(place.password_file.as_deref())?;
    let vault = Vault::init(store, &password).map_err(ended)?;
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
