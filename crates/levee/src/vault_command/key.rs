use std::path::PathBuf;

use clap::{Args, Subcommand};
use levee_vault::{Id, KeyInfo, Vault};
use serde::Serialize;

use super::place::Place;
use super::snapshots::local_time;
use super::{ended, open, password};
use crate::exit::Exit;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// List the passwords' key files
    List,
    /// Add a further password
    Add(NewKey),
    /// Remove a password
    Remove {
        /// The first digits of its id
        id: String,
        /// Only say which would be removed
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Replace the password that the vault is opened with
    Passwd(NewKey),
}

#[derive(Debug, Args)]
pub struct NewKey {
    /// A file that holds the new password
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// The host name to note with the key instead of this machine's
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// The user name to note with the key
    #[arg(long, value_name = "USER")]
    user: Option<String>,
}

impl NewKey {
    /// What the key file will say about itself: the host and the user.
    fn note(&self) -> (String, String) {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let user = || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
        (self.host.clone().unwrap_or_else(host), self.user.clone().unwrap_or_else(user))
    }
}

pub fn run(place: &Place, verb: KeyVerb, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    match verb {
        KeyVerb::List => list(&vault, output)?,
        KeyVerb::Add(new) => {
            let id = add(&vault, new)?;
            changed(output, "key_added", false, &id, "added key")?;
        }
        KeyVerb::Remove { id, dry_run } => {
            let id = find(&vault, &id)?;
            let (removed, words) = match dry_run {
                true => (vault.require_other_key(&id), "would remove key"),
                false => (vault.remove_key(&id), "removed key"),
            };
            removed.map_err(ended)?;
            changed(output, "key_removed", dry_run, &id, words)?;
        }
        KeyVerb::Passwd(new) => passwd(place, &vault, new, output)?,
    }
    Ok(Exit::DONE)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedKey {
    current: bool,
    id: String,
    user_name: String,
    host_name: String,
    created: String,
}

impl ListedKey {
    fn new(key: KeyInfo) -> Self {
        let created = local_time(key.created);
        Self { current: key.current, id: key.id.to_hex(), user_name: key.username, host_name: key.hostname, created }
    }
}

fn list(vault: &Vault, output: Output) -> anyhow::Result<()> {
    let keys: Vec<_> = vault.keys().map_err(ended)?.into_iter().map(ListedKey::new).collect();
    output.result(&keys, |keys| {
        let mut text = format!(" {:8}  {:12}  {:12}  {}\n", "ID", "User", "Host", "Created");
        for key in keys {
            let mark = if key.current { '*' } else { ' ' };
            let ListedKey { id, user_name, host_name, created, .. } = key;
            text.push_str(&format!("{mark}{:8}  {user_name:12}  {host_name:12}  {created}\n", &id[..8]));
        }
        text
    })
}

#[derive(Serialize)]
struct Changed {
    message_type: &'static str,
    dry_run: bool,
    id: String,
}

fn changed(output: Output, message_type: &'static str, dry_run: bool, id: &Id, words: &str) -> anyhow::Result<()> {
    let line = Changed { message_type, dry_run, id: id.to_hex() };
    output.result(&line, |changed| format!("{words} {}", &changed.id[..8]))
}

fn add(vault: &Vault, new: NewKey) -> anyhow::Result<Id> {
    let password = password::further(new.new_password_file.as_deref())?;
    let (host, user) = new.note();
    vault.add_key(&password, &host, &user).map_err(ended)
}

/// Adds the new key, opens the vault with it, and only then removes the old one.
fn passwd(place: &Place, vault: &Vault, new: NewKey, output: Output) -> anyhow::Result<()> {
    let password = password::further(new.new_password_file.as_deref())?;
    let (host, user) = new.note();
    let old = vault.keys().map_err(ended)?.into_iter().find(|key| key.current);
    let id = vault.add_key(&password, &host, &user).map_err(ended)?;
    let reopened = Vault::open(place.store()?, &password).map_err(ended)?;
    if let Some(old) = old {
        reopened.remove_key(&old.id).map_err(ended)?;
    }
    changed(output, "key_added", false, &id, "the password was changed; the new key is")
}

fn find(vault: &Vault, prefix: &str) -> anyhow::Result<Id> {
    let keys = vault.keys().map_err(ended)?;
    let mut matching = keys.iter().filter(|key| !prefix.is_empty() && key.id.to_hex().starts_with(prefix));
    match (matching.next(), matching.next()) {
        (Some(key), None) => Ok(key.id),
        (Some(_), Some(_)) => anyhow::bail!("more than one key starts with {prefix}; give more digits"),
        (None, _) => anyhow::bail!("there is no key {prefix}; `levee vault key list` shows which there are"),
    }
}
