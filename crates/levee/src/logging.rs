use tracing_subscriber::EnvFilter;

use crate::arguments::Global;

/// Logs to standard error. `LEVEE_LOG` takes filters as in `info,levee_agent=debug`, and wins over the
/// flags. A service says what it does; a single command says only what is wrong.
pub fn start(global: &Global, is_service: bool) {
    let level = match (global.quiet, global.verbose, is_service) {
        (true, _, _) => "error",
        (false, 0, false) => "warn",
        (false, 0, true) => "info,h2=warn,hyper=warn,tonic=warn",
        (false, 1, _) => "info,levee=debug",
        (false, _, _) => "trace",
    };
    let filter = EnvFilter::try_from_env("LEVEE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
