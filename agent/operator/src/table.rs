//! Columns of text: padded by what is seen, coloured afterwards.

use crate::paint::{Paint, harmless};

/// How a cell is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// A title.
    Bold,
    /// Less important.
    Dim,
    /// All is well.
    Good,
    /// To look at.
    Warn,
    /// Wrong.
    Bad,
}

/// A cell; what it holds comes from a pillar, so it is made harmless.
pub struct Cell {
    text: String,
    tone: Tone,
}

/// A cell.
pub fn cell(text: impl AsRef<str>, tone: Tone) -> Cell {
    Cell { text: harmless(text.as_ref()), tone }
}

/// Lines of equal columns, the first one being titles. The last column is not padded, and a column that is empty in every
/// line but the first is left out.
pub fn lines(titles: &[&str], rows: Vec<Vec<Cell>>, paint: Paint) -> String {
    let title = titles.iter().map(|title| cell(title, Tone::Dim)).collect();
    let rows: Vec<Vec<Cell>> = std::iter::once(title).chain(rows).collect();
    let used: Vec<usize> = (0..titles.len())
        .filter(|column| rows.iter().skip(1).any(|row| row.get(*column).is_some_and(|c| !c.text.is_empty())))
        .collect();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|c| c.text.chars().count())
            .max()
            .unwrap_or_default()
    };
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        let mut owed = 0;
        for column in &used {
            let Some(cell) = row.get(*column) else { continue };
            if !cell.text.is_empty() {
                line.push_str(&" ".repeat(owed));
                line.push_str(&cell.painted(paint));
                owed = 0;
            }
            owed += width(*column) - cell.text.chars().count() + 2;
        }
        out.push_str(&line);
        out.push('\n');
    }
    out
}

impl Cell {
    fn painted(&self, paint: Paint) -> String {
        match self.tone {
            Tone::Plain => self.text.clone(),
            Tone::Bold => paint.bold(&self.text),
            Tone::Dim => paint.dim(&self.text),
            Tone::Good => paint.good(&self.text),
            Tone::Warn => paint.warn(&self.text),
            Tone::Bad => paint.bad(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_their_colours() {
        let rows = || {
            vec![
                vec![
                    cell("p1", Tone::Bold),
                    cell("up", Tone::Good),
                    cell("", Tone::Plain),
                    cell("", Tone::Plain),
                ],
                vec![
                    cell("pillar-7", Tone::Bold),
                    cell("down", Tone::Bad),
                    cell("", Tone::Plain),
                    cell("no\x1b[2J", Tone::Plain),
                ],
            ]
        };
        let titles = ["pillar", "state", "never", "reason"];
        let want = "pillar    state  reason\np1        up\npillar-7  down   no\u{fffd}[2J\n";
        assert_eq!(lines(&titles, rows(), Paint::PLAIN), want);
        let rich = lines(&titles, rows(), Paint::RICH);
        assert!(rich.contains("\x1b[1mp1\x1b[0m        \x1b[32mup\x1b[0m\n"), "{rich:?}");
    }
}
