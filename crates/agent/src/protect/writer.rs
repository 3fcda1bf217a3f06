//! The writer side: one loop for each asset that copies it to the other site.

mod files;
mod postgres;

use std::sync::Arc;

use levee_database::StopSignal;
use levee_model::AssetName;

use super::app::App;

pub use files::copy_once;

pub fn run(app: &Arc<App>, asset: &AssetName, stop: &StopSignal) {
    let assignment = app.assignment();
    if let Some(spec) = assignment.spec.postgres.get(asset) {
        postgres::run(app, &assignment, asset, spec, stop);
    } else if let Some(spec) = assignment.spec.files.get(asset) {
        files::run(app, &assignment, asset, spec, stop);
    }
}
