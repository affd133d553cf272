//! What was measured, for people and for programs.

mod spread;
mod table;

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

pub(crate) use spread::Spread;
pub(crate) use table::Table;

/// Several runs in one setting.
#[derive(Serialize)]
pub(crate) struct Case<S, R> {
    pub(crate) setting: S,
    pub(crate) runs: Vec<R>,
}

impl<S, R> Case<S, R> {
    pub(crate) fn spread(&self, figure: impl Fn(&R) -> f64) -> Spread {
        Spread::of(self.runs.iter().map(figure))
    }

    pub(crate) fn median(&self, figure: impl Fn(&R) -> f64) -> f64 {
        self.spread(figure).median
    }

    /// In tenths; a dash where it could not be measured.
    pub(crate) fn spread_of(&self, figure: impl Fn(&R) -> Option<f64>) -> String {
        let known: Vec<f64> = self.runs.iter().filter_map(figure).collect();
        if known.is_empty() { "-".to_owned() } else { Spread::of(known).tenths() }
    }
}

/// Measures every setting once, then every setting again, and so on: whatever the machine does
/// meanwhile, it does to all of them.
pub(crate) async fn rounds<S: std::fmt::Debug, R>(
    scenario: &str,
    settings: Vec<S>,
    runs: usize,
    mut measure: impl AsyncFnMut(&S) -> Result<R>,
) -> Result<Vec<Case<S, R>>> {
    let mut cases: Vec<Case<S, R>> =
        settings.into_iter().map(|setting| Case { setting, runs: Vec::new() }).collect();
    for run in 1..=runs {
        for case in &mut cases {
            eprintln!("{scenario}, run {run} of {runs}: {:?}", case.setting);
            let measured = measure(&case.setting).await;
            let measured = measured.with_context(|| format!("{scenario}: {:?}", case.setting))?;
            case.runs.push(measured);
        }
    }
    Ok(cases)
}

/// Keeps a scenario's result for programs.
pub(crate) fn save(scenario: &str, result: &impl Serialize) -> Result<()> {
    let dir = Path::new("target/bench");
    std::fs::create_dir_all(dir)?;
    let path = dir.join(format!("{scenario}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(result)?)?;
    eprintln!("saved to {}", path.display());
    Ok(())
}
