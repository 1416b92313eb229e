//! Tables, ages and JSON.

use std::io::{self, Write};

use serde::Serialize;

/// Blanks between two columns.
const GAP: usize = 2;

/// Writes rows under a heading, each column as wide as its widest cell.
pub fn table<const N: usize>(
    out: &mut impl Write,
    heading: [&str; N],
    rows: &[[String; N]],
) -> io::Result<()> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut line = |cells: [&str; N]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            text.push_str(&format!("{cell:<width$}", width = width + GAP));
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(heading)?;
    rows.iter()
        .try_for_each(|row| line(row.each_ref().map(String::as_str)))
}

/// Writes one JSON document.
pub fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// An age in its largest unit: 7s, 5m, 3h, 2d.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut out = Vec::new();
        let rows = [["a".into(), "1".into()], ["longer".into(), String::new()]];
        table(&mut out, ["ID", "N"], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "ID      N\na       1\nlonger\n");
    }

    #[test]
    fn ages_have_one_unit() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7199, "1h"), (200_000, "2d")] {
            assert_eq!(age(seconds), text);
        }
    }
}
