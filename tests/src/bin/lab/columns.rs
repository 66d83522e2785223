//! Columns of text.

/// Rows below each other, each column as wide as its widest cell, with a rule below the first row. Columns that `is_text` names are flush
/// left, the others, numbers, flush right.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]], is_text: impl Fn(usize) -> bool) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    });
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match is_text(column) {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("   ").trim_end();
        text.push('\n');
        if number == 0 {
            text += &widths.map(|width| "─".repeat(width)).join("   ");
            text.push('\n');
        }
    }
    text
}
