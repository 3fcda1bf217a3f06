use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use levee_store::FileType;
use levee_vault::{Error, Id, KeyInfo, Password, Vault};
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
    match verb {
        KeyVerb::List => list(&open(place)?, output)?,
        KeyVerb::Add(new) => add(&open(place)?, &new, output)?,
        KeyVerb::Remove { id, dry_run } => remove(&open(place)?, &id, dry_run, output)?,
        KeyVerb::Passwd(new) => passwd(place, &new, output)?,
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
    /// Others of the same password.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also_removed_ids: Vec<String>,
}

impl Change {
    fn new(message_type: &'static str, dry_run: bool) -> Self {
        let (id, host_name, user_name, removed_id, also_removed_ids) = (None, None, None, None, Vec::new());
        Self { message_type, dry_run, id, host_name, user_name, removed_id, also_removed_ids }
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

fn remove(vault: &Vault, prefix: &str, dry_run: bool, output: Output) -> anyhow::Result<()> {
    let id = find(vault, prefix)?;
    let (removed, words) = match dry_run {
        true => (vault.require_other_key(&id), "would remove key"),
        false => (vault.remove_key(&id), "removed key"),
    };
    removed.map_err(ended)?;
    let change = Change { id: Some(id.to_hex()), ..Change::new("key_removed", dry_run) };
    output.result(&change, |_| format!("{words} {}", id.short()))
}

/// Adds the new key, opens the vault with it, and only then removes the old one, and whatever else the old password opens
/// the vault with: a change that was cut short leaves two keys of one password.
fn passwd(place: &Place, new: &NewKey, output: Output) -> anyhow::Result<()> {
    let (vault, old_password) = open_with_its_password(place)?;
    let password = password::further(new.new_password_file.as_deref())?;
    let note = new.note();
    // By the name that it was opened by: a list may lack it.
    let old = vault.key_id();
    let mut others = vault.keys_of(&old_password).map_err(ended)?;
    others.retain(|id| Some(*id) != old);
    let removed_id = old.as_ref().map(Id::to_hex);
    let also_removed_ids = others.iter().map(Id::to_hex).collect();
    let mut change = Change { removed_id, also_removed_ids, ..Change::adding(&note, new.dry_run) };
    let removed = || old.iter().chain(&others);
    if new.dry_run {
        return output.result(&change, |_| {
            let removed = removed().map(|id| format!(", and remove key {}", id.short()));
            note.would_add() + &removed.collect::<String>()
        });
    }
    let id = vault.add_key(&password, &note.host, &note.user).map_err(ended)?;
    // By its name: a list may lack it yet.
    let reopened = Vault::open_with_key_file(place.store()?, &id, &password).map_err(ended)?;
    for old in removed() {
        match reopened.remove_key(old) {
            // Somebody else was faster.
            Ok(()) | Err(Error::Store(levee_store::Error::NotFound { .. })) => {}
            Err(error) => {
                return Err(ended(error)).with_context(|| {
                    let old = old.short();
                    format!("the new password opens the vault, and the old one still does: remove key {old} with `levee vault key remove {old}`")
                });
            }
        }
    }
    change.id = Some(id.to_hex());
    output.result(&change, |_| {
        let also = match others.len() {
            0 => String::new(),
            count => format!("; {count} more of the old password were removed"),
        };
        format!("the password was changed; the new key is {}{also}", id.short())
    })
}

/// Opens the vault, and keeps the password: it may open more than one key file.
fn open_with_its_password(place: &Place) -> anyhow::Result<(Vault, Password)> {
    let store = place.store()?;
    // Before a person is asked for the password of a vault that isn't there.
    if let Err(levee_store::Error::NotFound { .. }) = store.size_bytes(FileType::Config, "") {
        return Err(ended(Error::NoRepository { location: store.location() }));
    }
    let password = password::current(place.password_file.as_deref())?;
    Ok((Vault::open(store, &password).map_err(ended)?, password))
}

fn find(vault: &Vault, prefix: &str) -> anyhow::Result<Id> {
    match vault.find_keys(prefix).map_err(ended)?.as_slice() {
        [id] => Ok(*id),
        [] => anyhow::bail!("there is no key {prefix}; `levee vault key list` shows which there are"),
        _ => anyhow::bail!("more than one key starts with {prefix}; give more digits"),
    }
}
