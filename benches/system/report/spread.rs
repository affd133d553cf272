//! The median of several runs, and how far they were apart.

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => at(middle),
            _ => f64::midpoint(at(middle.wrapping_sub(1)), at(middle)),
        };
        Self { median, least: at(0), greatest: at(values.len().wrapping_sub(1)) }
    }

    pub(crate) fn whole(self) -> String {
        self.show(0)
    }

    pub(crate) fn tenths(self) -> String {
        self.show(1)
    }

    fn show(self, digits: usize) -> String {
        let Self { median, least, greatest } = self;
        if least == greatest {
            return grouped(median, digits);
        }
        format!(
            "{} ({} to {})",
            grouped(median, digits),
            grouped(least, digits),
            grouped(greatest, digits)
        )
    }
}

/// With commas between thousands.
pub(crate) fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && digit.is_ascii_digit() {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}
