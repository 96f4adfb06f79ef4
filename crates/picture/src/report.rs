//! Measurements as one HTML file: what was measured, charts, and every number in a table.
//!
//! The file asks for nothing: no font, no library, no network, no script. Its content security policy allows the one
//! style in it, by its SHA-256, and denies the rest. `report.html` is the frame, `report.css` the looks.

use crate::document::{fill, policy, unix_lines};
use crate::text::escape;
use crate::{Chart, Error, Result};

const FRAME: &str = include_str!("report/report.html");
const STYLE: &str = include_str!("report/report.css");

/// A report to be written as a page. It shows its parts in the order of the methods below.
///
/// ```
/// use attentia_picture::{Chart, Report};
///
/// let chart = Chart::new(&[128.0, 512.0])?.y_axis("GFLOP/s").line("forward", &[110.0, 160.0])?;
/// let html = Report::new("attention")
///     .fact("threads", "2")
///     .chart(chart)
///     .table(&["tokens", "GFLOP/s"], &[vec!["128".into(), "110".into()], vec!["512".into(), "160".into()]])?
///     .to_html();
/// assert!(html.starts_with("<!doctype html>") && html.contains("<svg"));
/// # Ok::<(), attentia_picture::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    title: String,
    facts: Vec<(String, String)>,
    charts: Vec<Chart>,
    notes: Vec<String>,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Report {
    /// A report of nothing yet.
    pub fn new(title: impl Into<String>) -> Self {
        let (facts, charts, notes, head, rows) = Default::default();
        Self { title: title.into(), facts, charts, notes, head, rows }
    }

    /// Adds what holds for all numbers.
    pub fn fact(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.push((name.into(), value.into()));
        self
    }

    /// Adds a chart.
    pub fn chart(mut self, chart: Chart) -> Self {
        self.charts.push(chart);
        self
    }

    /// Adds a paragraph under the charts.
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// The table: names of the columns, and rows with a cell for each. Columns of nothing but numbers and empty
    /// cells stand to the right.
    ///
    /// # Errors
    ///
    /// [`Error::TableRow`] for a row with another number of cells.
    pub fn table(mut self, head: &[&str], rows: &[Vec<String>]) -> Result<Self> {
        if let Some((row, cells)) = rows.iter().enumerate().find(|(_, cells)| cells.len() != head.len()) {
            return Err(Error::TableRow { row, cells: cells.len(), columns: head.len() });
        }
        self.head = head.iter().map(|&name| name.to_owned()).collect();
        self.rows = rows.to_vec();
        Ok(self)
    }

    /// The page as one HTML document.
    pub fn to_html(&self) -> String {
        let style = unix_lines(STYLE);
        let facts = self.facts.iter();
        let facts = facts.map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
        let is_number = |column: usize| {
            self.rows.iter().all(|cells| cells[column].is_empty() || cells[column].parse::<f64>().is_ok())
        };
        let classes: Vec<&str> =
            (0..self.head.len()).map(|column| if is_number(column) { " class=\"number\"" } else { "" }).collect();
        let row = |tag: &str, cells: &[String]| {
            let cells = cells.iter().zip(&classes);
            let cells = cells.map(|(cell, class)| format!("<{tag}{class}>{}</{tag}>", escape(cell)));
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let fields = [
            ("policy", policy(&style, None)),
            ("title", escape(&self.title)),
            ("facts", facts.collect()),
            ("charts", self.charts.iter().map(|chart| format!("<figure>{}</figure>\n", chart.to_svg())).collect()),
            ("notes", self.notes.iter().map(|note| format!("<p>{}</p>\n", escape(note))).collect()),
            ("head", row("th", &self.head)),
            ("rows", self.rows.iter().map(|cells| row("td", cells)).collect()),
            ("style", style),
        ];
        fill(&unix_lines(FRAME), &fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_there_escaped_and_nothing_is_asked_for() {
        let evil = "</td><script src=x>&{{title}}";
        let chart = Chart::new(&[1.0]).unwrap().title(evil).line(evil, &[1.0]).unwrap();
        let html = Report::new(evil)
            .fact(evil, evil)
            .chart(chart)
            .note(evil)
            .table(&["a", evil], &[vec!["1.5".into(), evil.into()]])
            .unwrap()
            .to_html();
        assert!(!html.contains("<script") && html.contains("<td class=\"number\">1.5</td>"), "{html}");
        assert!(html.contains("default-src 'none'; style-src 'sha256-"), "{html}");
        assert_eq!(html.matches("&lt;/td&gt;&lt;script src=x&gt;&amp;{{title}}").count(), 11, "{html}");
        assert!(!html.replace("http://www.w3.org/2000/svg", "").contains("//"), "{html}");
    }

    #[test]
    fn a_row_of_another_width_is_an_error() {
        let table = Report::new("r").table(&["a", "b"], &[vec!["1".into(), "2".into()], vec!["1".into()]]);
        assert!(matches!(table, Err(Error::TableRow { row: 1, cells: 1, columns: 2 })));
    }
}
