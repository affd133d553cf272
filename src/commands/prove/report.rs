//! What was proven, for people and for machines.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

use super::check::Outcomes;
use super::faults::Fired;

/// How a proof ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything holds, and every fault fired.
    Proven,
    /// Something is lost, doubled or wrong.
    Failed,
    /// Nothing is known to be wrong, but not everything was tried.
    Inconclusive,
}

impl Verdict {
    /// 0, 1 or 3.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Proven => 0,
            Self::Failed => 1,
            Self::Inconclusive => 3,
        })
    }
}

/// The account of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Repeats the schedule of faults.
    pub seed: u64,
    /// The verdict.
    pub verdict: Verdict,
    /// Seconds from the first record to the last.
    pub seconds: f64,
    /// Records the broker acknowledged.
    pub produced: usize,
    /// What became of them.
    pub outcomes: Outcomes,
    /// Records in aborted transactions; none of them may be seen.
    pub aborted: u64,
    /// Every fault, with evidence.
    pub faults: Vec<Fired>,
    /// Seconds from the end of the last fault until everything written by then was applied.
    pub recovered_after: Option<f64>,
    /// The most memory any worker had, in KiB; 0 where the system does not tell.
    pub peak_memory_kib: u64,
    /// All that is wrong.
    pub wrong: Vec<String>,
    /// All that was not tried.
    pub untried: Vec<String>,
}

impl Report {
    /// Draws the conclusion.
    pub fn conclude(mut self) -> Self {
        let unfired = self.faults.iter().filter(|fault| !fault.fired);
        self.untried.extend(unfired.map(|f| format!("{} did not fire: {}", f.kind, f.evidence)));
        if self.produced == 0 {
            self.untried.push("nothing was produced".to_owned());
        }
        self.verdict = match (self.wrong.is_empty(), self.untried.is_empty()) {
            (false, _) => Verdict::Failed,
            (true, false) => Verdict::Inconclusive,
            (true, true) => Verdict::Proven,
        };
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcomes { applied, stale, duplicate, dead_letter } = self.outcomes;
        writeln!(f, "{:<16}{:>12}  in {:.1} s", "produced", self.produced, self.seconds)?;
        for (what, records) in [
            ("= applied", applied),
            ("+ stale", stale),
            ("+ duplicates", duplicate),
            ("+ dead letters", dead_letter),
        ] {
            writeln!(f, "{what:<16}{records:>12}")?;
        }
        writeln!(f, "{:<16}{:>12}  in transactions, never seen", "aborted", self.aborted)?;
        writeln!(f, "\n{:<11} {:>7} {:>7}  evidence", "fault", "at", "took")?;
        for Fired { kind, began_at, took, fired, evidence, .. } in &self.faults {
            let not = if *fired { "" } else { "DID NOT FIRE: " };
            writeln!(f, "{kind:<11} {began_at:>6.1}s {took:>6.1}s  {not}{evidence}")?;
        }
        if let Some(after) = self.recovered_after {
            writeln!(f, "\ncaught up {after:.1} s after the last fault")?;
        }
        let mebibytes = self.peak_memory_kib as f64 / 1024.0;
        writeln!(f, "most memory of a worker: {mebibytes:.1} MiB")?;
        self.wrong.iter().try_for_each(|wrong| writeln!(f, "WRONG: {wrong}"))?;
        self.untried.iter().try_for_each(|untried| writeln!(f, "UNTRIED: {untried}"))?;
        if self.verdict != Verdict::Proven {
            writeln!(f, "(--keep leaves topic, schema and the workers' logs to look into)")?;
        }
        let seed = self.seed;
        match self.verdict {
            Verdict::Proven => write!(
                f,
                "\nPROVEN (seed {seed}): nothing lost, nothing doubled, all in order, and every fault fired"
            ),
            Verdict::Failed => write!(f, "\nFAILED (seed {seed}): the guarantees do not hold"),
            Verdict::Inconclusive => {
                write!(f, "\nINCONCLUSIVE (seed {seed}): nothing is wrong, not all was tried")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::prove::schedule::FaultKind;

    fn report(fired: bool, wrong: &[&str]) -> Report {
        let fault = Fired {
            kind: FaultKind::Kill,
            planned_at: 2.0,
            began_at: 2.5,
            took: 0.5,
            fired,
            evidence: "signal 9".to_owned(),
        };
        let report = Report {
            seed: 7,
            verdict: Verdict::Inconclusive,
            seconds: 1.0,
            produced: 1,
            outcomes: Outcomes::default(),
            aborted: 1,
            faults: vec![fault],
            recovered_after: Some(0.1),
            peak_memory_kib: 2048,
            wrong: wrong.iter().map(|wrong| (*wrong).to_owned()).collect(),
            untried: Vec::new(),
        };
        report.conclude()
    }

    #[test]
    fn a_fault_that_did_not_fire_proves_nothing() {
        let unfired = report(false, &[]);
        assert_eq!(unfired.verdict, Verdict::Inconclusive);
        let told = unfired.to_string();
        assert!(told.contains("DID NOT FIRE") && told.contains("INCONCLUSIVE (seed 7)"), "{told}");
        let nothing = Report { produced: 0, untried: Vec::new(), ..report(true, &[]) }.conclude();
        assert_eq!(nothing.verdict, Verdict::Inconclusive);
    }

    #[test]
    fn what_is_wrong_outweighs_what_was_not_tried() {
        assert_eq!(report(true, &[]).verdict, Verdict::Proven);
        assert_eq!(report(true, &["lost"]).verdict, Verdict::Failed);
        assert_eq!(report(false, &["lost"]).verdict, Verdict::Failed);
    }
}
