//! What was measured, for people and for programs.

pub(crate) mod plot;
mod spread;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::machine::Machine;

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

/// Where tables, figures and plots go.
pub(crate) struct Report {
    dir: PathBuf,
    tables: Vec<String>,
}

impl Report {
    pub(crate) fn new(dir: &Path, machine: &Machine) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let report = Self { dir: dir.to_owned(), tables: vec![format!("{machine}\n")] };
        report.json("machine", machine)?;
        Ok(report)
    }

    /// Keeps a scenario's figures, and says them.
    pub(crate) fn scenario(
        &mut self,
        name: &str,
        result: &impl Serialize,
        table: &Table,
    ) -> Result<()> {
        self.json(name, result)?;
        let plot = format!("\n![{name}]({name}.svg)\n");
        self.table(format!("{table}{plot}"))
    }

    /// Says it, and keeps it in `results.md`: after each, so that a run that fails later was not
    /// in vain.
    pub(crate) fn table(&mut self, text: String) -> Result<()> {
        println!("{text}");
        self.tables.push(text);
        Ok(fs::write(self.dir.join("results.md"), self.tables.join("\n"))?)
    }

    /// The file of a plot.
    pub(crate) fn plot(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.svg"))
    }

    fn json(&self, name: &str, result: &impl Serialize) -> Result<()> {
        let path = self.dir.join(format!("{name}.json"));
        Ok(fs::write(path, serde_json::to_string_pretty(result)?)?)
    }
}
