//! How text is laid out and coloured: to a width, with modest colour where a terminal shows it.

use std::io::IsTerminal;

/// Where a page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Columns.
    pub width: usize,
    /// Whether colours are shown.
    pub colour: bool,
}

/// Pages are no wider, however wide the terminal: longer lines are hard to read.
pub const WIDEST: usize = 100;
/// Nor narrower: below this a terminal wraps by itself.
pub const NARROWEST: usize = 60;

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// All is well.
    Good,
    /// Users are affected.
    Bad,
    /// Somebody should look.
    Warn,
    /// Wanted so.
    Wanted,
    /// A title.
    Title,
    /// Of less weight.
    Faint,
}

impl Look {
    /// As standard output is: a terminal's width and colours (unless `NO_COLOR` is set), or plain.
    pub fn of_stdout() -> Look {
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        let width =
            rustix::termios::tcgetwinsize(&stdout).map_or(0, |size| usize::from(size.ws_col));
        Look {
            width: match width {
                0 => WIDEST,
                width => width.clamp(NARROWEST, WIDEST),
            },
            colour: terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
        }
    }

    /// The text in this ink, where colours are shown.
    pub fn ink(self, ink: Ink, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match ink {
            Ink::Good => "1;32",
            Ink::Bad => "1;31",
            Ink::Warn => "33",
            Ink::Wanted => "36",
            Ink::Title => "1",
            Ink::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// How many lines the terminal has, where standard output is one.
pub fn lines_of_stdout() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_row)).filter(|lines| *lines > 1)
}

/// Breaks `text` between words into lines of at most `width` columns, the first one starting
/// `indent` columns in already, later ones indented by as much.
pub fn wrap(text: &str, width: usize, indent: usize) -> String {
    let room = width.saturating_sub(indent).max(20);
    let mut wrapped = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        let long = word.chars().count();
        if used > 0 && used + 1 + long > room {
            wrapped.push('\n');
            wrapped.extend(std::iter::repeat_n(' ', indent));
            used = 0;
        } else if used > 0 {
            wrapped.push(' ');
            used += 1;
        }
        wrapped += word;
        used += long;
    }
    wrapped
}

/// `text` cut to `width` columns, with an ellipsis where something is missing.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// `text` without what could steer a terminal: what members sent ends up on pages.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '·' } else { c })
        .collect()
}

/// Rows in columns: each as wide as its widest cell, numbers to the right, cut at `width`.
#[derive(Debug)]
pub struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Columns by their titles; a title that starts with `>` is of numbers.
    pub fn new(titles: &[&str]) -> Table {
        Table {
            right: titles.iter().map(|title| title.starts_with('>')).collect(),
            rows: vec![
                titles
                    .iter()
                    .map(|title| title.trim_start_matches('>').to_owned())
                    .collect(),
            ],
        }
    }

    /// Adds a row, one cell for each title.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Lays it out, `indent` columns in. Only the last column is cut, to fit `look`.
    pub fn lay_out(&self, look: Look, indent: usize) -> String {
        let wide = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(wide).collect();
        let mut page = String::new();
        for (i, row) in self.rows.iter().enumerate() {
            let mut line = " ".repeat(indent);
            for (column, cell) in row.iter().enumerate() {
                let gap = widths[column].saturating_sub(cell.chars().count());
                if self.right[column] {
                    line += &" ".repeat(gap);
                    line += cell;
                } else {
                    line += cell;
                    line += &" ".repeat(gap);
                }
                line += "  ";
            }
            let line = cut(line.trim_end(), look.width);
            page += &if i == 0 {
                look.ink(Ink::Faint, &line)
            } else {
                line
            };
            page.push('\n');
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_broken_between_words_and_indented() {
        assert_eq!(
            wrap("one two three four five six seven", 30, 10),
            "one two three four\n          five six seven"
        );
    }

    #[test]
    fn what_is_too_wide_is_cut_with_an_ellipsis() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
    }

    #[test]
    fn what_members_sent_cannot_steer_a_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\rc"), "a·[2Jb·c");
    }

    #[test]
    fn without_colour_nothing_is_added() {
        let plain = Look {
            width: 80,
            colour: false,
        };
        assert_eq!(plain.ink(Ink::Bad, "x"), "x");
        let shown = Look {
            width: 80,
            colour: true,
        };
        assert_eq!(shown.ink(Ink::Bad, "x"), "\x1b[1;31mx\x1b[0m");
    }
}
