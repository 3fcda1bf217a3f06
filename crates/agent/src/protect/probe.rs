//! Asking a rebuilt asset the operator's questions.

use std::path::Path;
use std::sync::Arc;

use levee_model::control::{Done, Failure, Place};
use levee_model::{AssetName, Epoch, RunId};

use super::app::App;
use super::state::Phase;
use super::{database, live, rebuild};

pub fn probe(app: &Arc<App>, run: &RunId, epoch: Epoch, asset: &AssetName, place: &Place) -> Result<Done, Failure> {
    let assignment = app.assignment();
    // No other step starts a server that has died since its own start. Through the same gate, so that it is no second
    // writer.
    let is_brought_here = matches!(app.state().phase, Phase::Sealed | Phase::Writer);
    if *place == Place::Live
        && is_brought_here
        && assignment.spec.postgres.contains_key(asset)
        && !database::runs(app, asset)?
    {
        tracing::warn!(app = %app.name, %asset, "its server does not run any more: starting it again before the probe");
        live::start(app, asset, epoch, false)?;
    }
    let outcome = match assignment.spec.postgres.get(asset) {
        Some(spec) => database::probe(app, run, asset, place, &spec.probe)?,
        None => {
            let folder = match place {
                Place::Live => rebuild::own_path(app, asset)?,
                Place::Drill => app.folder.run(run).join(asset.as_str()),
            };
            probe_files(&folder, &rebuild::files_spec(app, asset)?.probe)
        }
    };
    Ok(match outcome {
        Ok(detail) => Done::Probed { passed: true, detail },
        Err(detail) => Done::Probed { passed: false, detail },
    })
}

/// A folder passes when it holds something and every path that was asked for.
fn probe_files(folder: &Path, wanted: &[std::path::PathBuf]) -> Result<String, String> {
    let mut entries =
        std::fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    if entries.next().is_none() {
        return Err(format!("{} is empty", folder.display()));
    }
    if let Some(missing) = wanted.iter().find(|path| !folder.join(path).exists()) {
        return Err(format!("{} is missing", missing.display()));
    }
    Ok(match wanted.len() {
        0 => "the folder is there and not empty".into(),
        count => format!("all {count} path(s) asked for are there"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_must_hold_what_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        assert!(probe_files(&folder.path().join("gone"), &[]).is_err());
        assert!(probe_files(folder.path(), &[]).unwrap_err().contains("empty"));
        std::fs::write(folder.path().join("ledger"), "1").unwrap();
        assert!(probe_files(folder.path(), &["ledger".into()]).is_ok());
        assert!(probe_files(folder.path(), &["ledger".into(), "gone".into()]).unwrap_err().contains("gone is missing"));
    }
}
