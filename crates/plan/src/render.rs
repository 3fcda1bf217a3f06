//! A plan as text, for a terminal.

use std::fmt::{self, Write};

use crate::plan::{Plan, When};

/// Agents speak every second.
const HEARD_JUST_NOW_S: f64 = 3.0;

/// Seconds in the unit that reads best.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.id.0.get(..12).unwrap_or(&self.id.0);
        writeln!(
            formatter,
            "{} of {}: {} → {}, epoch {}, plan {id}",
            self.kind, self.app, self.from, self.to, self.epoch
        )?;
        for asset in &self.prediction.assets {
            let mut line = format!("  {}: ", asset.asset);
            match (&asset.position, asset.age_s) {
                (Some(position), Some(age_s)) => write!(line, "{position}, {} old", duration(age_s))?,
                _ => line.push_str("no recovery point is known"),
            }
            if let Some(bytes) = asset.log_behind_bytes {
                write!(line, ", {bytes} bytes of log not at {} yet", self.to)?;
            }
            writeln!(formatter, "{line}")?;
        }
        match self.prediction.source_heard_age_s {
            Some(age_s) if age_s < HEARD_JUST_NOW_S => {}
            Some(age_s) => writeln!(
                formatter,
                "  {} was last heard of {} before this: what it wrote since then comes on top of what is said here",
                self.from,
                duration(age_s)
            )?,
            None => writeln!(
                formatter,
                "  {} has not been heard of since the server was started: what it had written is not known",
                self.from
            )?,
        }
        match self.prediction.recovery_time_s {
            Some(seconds) => writeln!(formatter, "  expected to take {} by earlier runs", duration(seconds))?,
            None => writeln!(formatter, "  how long it takes is not known yet: nothing was measured before")?,
        }
        for warning in &self.warnings {
            writeln!(formatter, "  note: {warning}")?;
        }
        for (index, step) in self.steps.iter().enumerate() {
            let expected = step.expected_s.map_or(String::new(), |seconds| format!(", about {}", duration(seconds)));
            let always = if step.when == When::Ended { ", whatever happens" } else { "" };
            writeln!(formatter, "  {:>2}. {} [{} at {}{expected}{always}]", index + 1, step.title, step.id, step.at)?;
        }
        Ok(())
    }
}
