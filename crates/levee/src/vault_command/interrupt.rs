//! Locks go when a command is interrupted: others must not wait half an hour for them to grow stale. So does what a
//! command has to undo.

use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use levee_vault::Vault;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a shell reports for a command that Ctrl-C has ended; restic ends so too.
const INTERRUPTED: i32 = 130;

/// The vaults that this process has open. Signals come to the process as a whole, hence this is one, too.
static OPEN: Mutex<Vec<Vault>> = Mutex::new(Vec::new());

/// What has to be done before a signal ends the process; whoever takes it out does it.
static BEFORE_THE_END: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

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
                    // The guard must be gone while it is done: the command looks there, too.
                    let act = BEFORE_THE_END.lock().unwrap_or_else(PoisonError::into_inner).take();
                    if let Some(act) = act {
                        act();
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

/// Something that a signal makes happen before it ends the process, unless it is taken back.
#[must_use]
pub struct BeforeTheEnd(());

/// Says what has to be done if a signal ends the process, once its vaults' locks are gone.
pub fn before_the_end(act: impl FnOnce() + Send + 'static) -> BeforeTheEnd {
    *BEFORE_THE_END.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(act));
    BeforeTheEnd(())
}

impl BeforeTheEnd {
    /// `false` when a signal has come first, and it is being done.
    pub fn take_back(self) -> bool {
        BEFORE_THE_END.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

/// Waits until the thread of the signals ends the process.
pub fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}
