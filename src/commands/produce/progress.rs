//! Shows how far a long task is: a bar on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(5);

/// A bar on standard error. Its length is the number of records; 0 is unknown.
pub fn bar(records: u64, what: &'static str) -> ProgressBar {
    let (bar, template) = match records {
        0 => (
            ProgressBar::new_spinner(),
            "{prefix:9} {spinner} {human_pos} records  {per_sec}  {elapsed}  {msg}",
        ),
        _ => (
            ProgressBar::new(records),
            "{prefix:9} {wide_bar} {human_pos}/{human_len}  {per_sec}  {eta}  {msg}",
        ),
    };
    // The templates above are known to be good; the default would do as well.
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_prefix(what)
}

/// Decides when to print a line: only when standard error is no terminal, and not too often.
#[derive(Debug)]
pub struct Lines {
    next: Option<Instant>,
}

impl Lines {
    /// Starts now.
    pub fn new() -> Self {
        let silent = stderr().is_terminal();
        Self { next: (!silent).then(|| Instant::now() + LINE_EVERY) }
    }

    /// Prints the line if it is time to.
    pub fn maybe(&mut self, line: impl FnOnce() -> String) {
        if self.next.is_some_and(|next| Instant::now() >= next) {
            eprintln!("{}", line());
            self.next = Some(Instant::now() + LINE_EVERY);
        }
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}
