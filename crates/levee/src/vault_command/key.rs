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
    /// Open the vault and read the new password, but only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// What the key file will say about itself.
struct Note {
    host: String,
    user: String,
}

impl Note {
    fn would_add(&self) -> String {
        format!("would add a key and note it as that of {} at {}", self.user, self.host)
    }
}

impl NewKey {
    fn note(&self) -> Note {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let user = || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
        Note { host: self.host.clone().unwrap_or_else(host), user: self.user.clone().unwrap_or_else(user) }
    }
}

pub fn run(place: &Place, verb: KeyVerb, output: Output) -> anyhow::Result<Exit> {
    let vault = open(place)?;
    match verb {
        KeyVerb::List => list(&vault, output)?,
        KeyVerb::Add(new) => add(&vault, &new, output)?,
        KeyVerb::Remove { id, dry_run } => {
            let id = find(&vault, &id)?;
            let (removed, words) = match dry_run {
                true => (vault.require_other_key(&id), "would remove key"),
                false => (vault.remove_key(&id), "removed key"),
            };
            removed.map_err(ended)?;
            let change = Change { id: Some(id.to_hex()), ..Change::new("key_removed", dry_run) };
            output.result(&change, |_| format!("{words} {}", id.short()))?;
        }
        KeyVerb::Passwd(new) => passwd(place, &vault, &new, output)?,
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

/// What was changed, or would be.
#[derive(Serialize)]
struct Change {
    message_type: &'static str,
    dry_run: bool,
    /// Of the key that is added or removed. One that would be added has none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_name: Option<String>,
    /// The key that a new one takes the place of.
    #[serde(skip_serializing_if = "Option::is_none")]
    removed_id: Option<String>,
}

impl Change {
    fn new(message_type: &'static str, dry_run: bool) -> Self {
        Self { message_type, dry_run, id: None, host_name: None, user_name: None, removed_id: None }
    }

    fn adding(note: &Note, dry_run: bool) -> Self {
        let (host_name, user_name) = (Some(note.host.clone()), Some(note.user.clone()));
        Self { host_name, user_name, ..Self::new("key_added", dry_run) }
    }
}

fn add(vault: &Vault, new: &NewKey, output: Output) -> anyhow::Result<()> {
    let password = password::further(new.new_password_file.as_deref())?;
    let note = new.note();
    let mut change = Change::adding(&note, new.dry_run);
    if new.dry_run {
        return output.result(&change, |_| note.would_add());
    }
    let id = vault.add_key(&password, &note.host, &note.user).map_err(ended)?;
    change.id = Some(id.to_hex());
    output.result(&change, |_| format!("added key {}", id.short()))
}

/// Adds the new key, opens the vault with it, and only then removes the old one.
fn passwd(place: &Place, vault: &Vault, new: &NewKey, output: Output) -> anyhow::Result<()> {
    let password = password::further(new.new_password_file.as_deref())?;
    let note = new.note();
    let old = vault.keys().map_err(ended)?.into_iter().find(|key| key.current).map(|key| key.id);
    let removed_id = old.as_ref().map(Id::to_hex);
    let mut change = Change { removed_id, ..Change::adding(&note, new.dry_run) };
    if new.dry_run {
        return output.result(&change, |_| {
            let removed = old.map_or_else(String::new, |old| format!(", and remove key {}", old.short()));
            note.would_add() + &removed
        });
    }
    let id = vault.add_key(&password, &note.host, &note.user).map_err(ended)?;
    // By its name: a list may lack it yet.
    let reopened = Vault::open_with_key_file(place.store()?, &id, &password).map_err(ended)?;
    if let Some(old) = old {
        reopened.remove_key(&old).map_err(ended)?;
    }
    change.id = Some(id.to_hex());
    output.result(&change, |_| format!("the password was changed; the new key is {}", id.short()))
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
