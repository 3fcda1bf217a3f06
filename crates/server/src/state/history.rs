use std::collections::BTreeMap;

use jiff::Timestamp;
use levee_model::{AppName, AssetName, RunId};
use levee_plan::{Measurements, Run, StepId, StepState};
use rusqlite::{OptionalExtension, params};

use super::Database;
use crate::control::{Proof, RunSummary, Sample};
use crate::error::{Result, ServerError};

/// How many of a step's last durations make its median: enough to outvote one odd run, few enough to
/// follow data that grow.
const DURATIONS_USED: usize = 7;

/// Runs that have ended, and what was measured.
#[derive(Clone)]
pub struct History {
    database: Database,
}

impl History {
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// Keeps a run that has ended. A run that is there already is replaced.
    pub fn put_run(&self, run: &Run, summary: &RunSummary) -> Result<()> {
        let damaged = |source| ServerError::Damaged { key: format!("run {}", run.id), source };
        let (summary, content) =
            (serde_json::to_string(summary).map_err(damaged)?, serde_json::to_string(run).map_err(damaged)?);
        self.database.transact("keep a run", |transaction| {
            transaction.execute(
                "insert or replace into run (id, app, started_at, summary, content) values (?, ?, ?, ?, ?)",
                params![run.id.as_str(), run.plan.app.as_str(), run.started_at.as_millisecond(), summary, content],
            )?;
            for (step, record) in &run.steps {
                if let (StepState::Done, Some(seconds), Some(ended_at)) =
                    (&record.state, record.seconds, record.ended_at)
                {
                    transaction.execute(
                        "insert or replace into step (run, app, step, ended_at, seconds) values (?, ?, ?, ?, ?)",
                        params![
                            run.id.as_str(),
                            run.plan.app.as_str(),
                            step.as_str(),
                            ended_at.as_millisecond(),
                            seconds
                        ],
                    )?;
                }
            }
            Ok(())
        })
    }

    pub fn run(&self, id: &RunId) -> Result<Option<Run>> {
        let text: Option<String> = self.database.read("read a run", |connection| {
            connection.query_row("select content from run where id = ?", [id.as_str()], |row| row.get(0)).optional()
        })?;
        text.map(|text| parse(&text, || format!("run {id}"))).transpose()
    }

    /// Newest first.
    pub fn runs(&self, app: Option<&AppName>, limit: u32) -> Result<Vec<RunSummary>> {
        let texts: Vec<String> = self.database.read("list runs", |connection| {
            let mut statement = connection.prepare_cached(
                "select summary from run where ?1 is null or app = ?1 order by started_at desc, id limit ?2",
            )?;
            statement.query_map(params![app.map(AppName::as_str), limit], |row| row.get(0))?.collect()
        })?;
        texts.iter().map(|text| parse(text, || "a run's summary".into())).collect()
    }

    /// The median of what each step of an app took lately.
    pub fn measurements(&self, app: &AppName) -> Result<Measurements> {
        let rows: Vec<(String, f64)> = self.database.read("read what steps took", |connection| {
            let mut statement =
                connection.prepare_cached("select step, seconds from step where app = ? order by ended_at desc")?;
            statement.query_map([app.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        let mut by_step: BTreeMap<StepId, Vec<f64>> = BTreeMap::new();
        for (step, seconds) in rows {
            let durations = by_step.entry(StepId(step)).or_default();
            if durations.len() < DURATIONS_USED {
                durations.push(seconds);
            }
        }
        let median = |mut durations: Vec<f64>| {
            durations.sort_by(f64::total_cmp);
            durations[durations.len() / 2]
        };
        Ok(Measurements { seconds: by_step.into_iter().map(|(step, durations)| (step, median(durations))).collect() })
    }

    pub fn put_samples(&self, app: &AppName, samples: &[Sample]) -> Result<()> {
        if samples.is_empty() {
            return Ok(());
        }
        self.database.transact("keep samples", |transaction| {
            for sample in samples {
                transaction
                    .prepare_cached("insert or replace into sample (app, asset, at, age_s) values (?, ?, ?, ?)")?
                    .execute(params![app.as_str(), sample.asset.as_str(), sample.at.as_millisecond(), sample.age_s])?;
            }
            Ok(())
        })
    }

    /// Oldest first.
    pub fn samples(&self, app: &AppName, since: Timestamp) -> Result<Vec<Sample>> {
        let rows: Vec<(i64, String, f64)> = self.database.read("read samples", |connection| {
            let mut statement = connection
                .prepare_cached("select at, asset, age_s from sample where app = ? and at >= ? order by at, asset")?;
            statement
                .query_map(params![app.as_str(), since.as_millisecond()], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?
                .collect()
        })?;
        rows.into_iter()
            .map(|(at, asset, age_s)| {
                let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH);
                Ok(Sample { at, asset: AssetName::new(asset)?, age_s })
            })
            .collect()
    }

    /// Forgets samples from before a moment.
    pub fn trim_samples(&self, before: Timestamp) -> Result<()> {
        self.database.transact("forget old samples", |transaction| {
            transaction.execute("delete from sample where at < ?", [before.as_millisecond()]).map(drop)
        })
    }

    pub fn put_proof(&self, proof: &Proof) -> Result<()> {
        let content = serde_json::to_string(proof)
            .map_err(|source| ServerError::Damaged { key: format!("proof {}", proof.run), source })?;
        self.database.transact("keep a proof", |transaction| {
            transaction
                .execute(
                    "insert or replace into proof (run, app, at, content) values (?, ?, ?, ?)",
                    params![proof.run.as_str(), proof.app.as_str(), proof.at.as_millisecond(), content],
                )
                .map(drop)
        })
    }

    /// Newest first.
    pub fn proofs(&self, app: &AppName, limit: u32) -> Result<Vec<Proof>> {
        let texts: Vec<String> = self.database.read("read proofs", |connection| {
            let mut statement =
                connection.prepare_cached("select content from proof where app = ? order by at desc limit ?")?;
            statement.query_map(params![app.as_str(), limit], |row| row.get(0))?.collect()
        })?;
        texts.iter().map(|text| parse(text, || format!("a proof of {app}"))).collect()
    }
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &str, key: impl FnOnce() -> String) -> Result<T> {
    serde_json::from_str(text).map_err(|source| ServerError::Damaged { key: key(), source })
}
