//! What runs until it is told to stop.

use std::future::Future;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a service on a runtime of its own. `serve` is given a future that is over when the process is
/// asked to end (SIGTERM, SIGINT).
pub fn serve<F: Future<Output = anyhow::Result<()>>>(serve: impl FnOnce(Shutdown) -> F) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::listen()?;
        serve(shutdown).await
    });
    // Threads that are in the middle of something durable finish it; those that wait for a peer do not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    result
}

/// The wish to end, which several parts can wait for.
#[derive(Clone)]
pub struct Shutdown {
    asked: tokio::sync::watch::Receiver<bool>,
}

impl Shutdown {
    fn listen() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let (ask, asked) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("ending on SIGTERM"),
                _ = interrupt.recv() => tracing::info!("ending on SIGINT"),
            }
            // Nobody is left to hear it when the service has ended by itself.
            let _ = ask.send(true);
        });
        Ok(Self { asked })
    }

    /// Over when the process is asked to end.
    pub async fn asked(mut self) {
        // The sender lives as long as the runtime.
        let _ = self.asked.wait_for(|asked| *asked).await;
    }
}
