//! Locks go when a command is interrupted: others must not wait half an hour for them to grow stale.

use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use levee_vault::Vault;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a shell reports for a command that Ctrl-C has ended; restic ends so too.
const INTERRUPTED: i32 = 130;

/// The vaults that this process has open. Signals come to the process as a whole, hence this is one, too.
static OPEN: Mutex<Vec<Vault>> = Mutex::new(Vec::new());

/// From now on a signal to end removes the vault's locks first. A second one ends at once.
pub fn release_locks_of(vault: &Vault) -> anyhow::Result<()> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.push(vault.clone());
    if open.len() > 1 {
        return Ok(());
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot wait for signals")?;
    let wait = move || {
        let mut is_first = true;
        for _ in signals.forever() {
            let release = || {
                std::thread::spawn(|| {
                    for vault in OPEN.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                        vault.release_locks();
                    }
                    std::process::exit(INTERRUPTED)
                })
            };
            if !std::mem::take(&mut is_first) {
                std::process::exit(INTERRUPTED);
            }
            release();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}
