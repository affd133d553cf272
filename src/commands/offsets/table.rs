//! A table for a terminal: columns as wide as their widest cell, two spaces between them.

/// Cells that hold nothing.
pub(super) const NOTHING: &str = "-";

/// Lays out rows below a header. Numbers stand to the right, like digits; the last column is not
/// padded.
pub(super) fn lay_out<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let numeric: [bool; N] = std::array::from_fn(|column| {
        rows.iter().all(|row| row[column] == NOTHING || row[column].parse::<i64>().is_ok())
    });
    let line = |cells: [&str; N]| {
        let padded: Vec<String> = std::iter::zip(cells, widths)
            .zip(numeric)
            .map(|((cell, width), numeric)| match numeric {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let body = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    [line(header)].into_iter().chain(body).collect::<Vec<_>>().join("\n")
}

/// What there is, or a dash.
pub(super) fn cell<T: ToString>(value: Option<T>) -> String {
    value.map_or(NOTHING.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let rows = [
            ["long-name".to_owned(), "5".to_owned(), cell::<i64>(None)],
            ["n".to_owned(), cell(Some(1234)), "7".to_owned()],
        ];
        let expected = "TOPIC       LAG  END\nlong-name     5    -\nn          1234    7";
        assert_eq!(lay_out(["TOPIC", "LAG", "END"], &rows), expected);
    }
}
