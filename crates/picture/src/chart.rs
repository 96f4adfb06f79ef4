//! Lines over an axis of doublings: how something grows with a length.
//!
//! ```text
//!  title
//!  y axis
//!   300 |- - - - - - - - - - -
//!   200 |- - - -o- - -o- - - -    -o-  first line
//!   100 |- -o- - - - - - - - -    - o  second line
//!     0 +----------------------
//!          128   512  2048
//!              x axis
//! ```
//!
//! The horizontal axis is logarithmic, so that each doubling is as wide as every other; the vertical one begins at 0.
//! Lines differ in colour, lightness and dashes. Each point has a tooltip with its value.

use std::fmt::Write;

use crate::text::{BOLD, escape, number, width};
use crate::{Color, Error, Result};

const FONT: f64 = 12.0;
const TITLE_FONT: f64 = 15.0;
const INK: &str = "#24292f";
const MARGIN: f64 = 16.0;
const PLOT_WIDTH: f64 = 520.0;
const PLOT_HEIGHT: f64 = 260.0;
/// Distance of a label from what it belongs to.
const LABEL: f64 = 7.0;
/// What a line of text needs across its baseline.
const LINE: f64 = FONT * 1.5;
/// Free plot beside the first and the last point.
const INSET: f64 = 24.0;
/// Length of a line's sample in the legend.
const SAMPLE: f64 = 28.0;
/// One after the other, for lines that a reader tells apart without colours.
const DASHES: [&str; 4] = ["none", "7 4", "2 3", "9 3 2 3"];
/// Shares of the colour ramp, all dark enough on white.
const COLOURS: [f64; 2] = [0.1, 0.75];

/// A chart to be drawn.
///
/// ```
/// let svg = attentia_picture::Chart::new(&[128.0, 512.0, 2048.0])?
///     .title("forward")
///     .x_axis("tokens")
///     .y_axis("GFLOP/s")
///     .line("kernel", &[110.0, 160.0, 170.0])?
///     .to_svg();
/// assert!(svg.starts_with("<svg") && svg.contains("2048"));
/// # Ok::<(), attentia_picture::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    title: String,
    x_axis: String,
    y_axis: String,
    points: Vec<f64>,
    lines: Vec<(String, Vec<f64>)>,
}

impl Chart {
    /// A chart without lines. `points` are the places along the horizontal axis.
    ///
    /// # Errors
    ///
    /// [`Error::ChartAxis`] unless there is a point, and each is positive, finite and greater than the one before.
    pub fn new(points: &[f64]) -> Result<Self> {
        let rising = points.windows(2).all(|pair| pair[0] < pair[1]);
        if points.is_empty() || !rising || points.iter().any(|point| !point.is_finite() || *point <= 0.0) {
            return Err(Error::ChartAxis { points: points.to_vec() });
        }
        let (title, x_axis, y_axis, lines) = Default::default();
        Ok(Self { title, x_axis, y_axis, points: points.to_vec(), lines })
    }

    /// A line of text above the picture.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// What the points are, written under them.
    pub fn x_axis(mut self, name: impl Into<String>) -> Self {
        self.x_axis = name.into();
        self
    }

    /// What the values are, written above them.
    pub fn y_axis(mut self, name: impl Into<String>) -> Self {
        self.y_axis = name.into();
        self
    }

    /// Adds a line: a value per point.
    ///
    /// # Errors
    ///
    /// [`Error::ChartLine`] for another number of values, [`Error::ChartValue`] for one that is negative or not finite.
    pub fn line(mut self, name: impl Into<String>, values: &[f64]) -> Result<Self> {
        let name = name.into();
        if values.len() != self.points.len() {
            return Err(Error::ChartLine { name, values: values.len(), points: self.points.len() });
        }
        if let Some(&value) = values.iter().find(|value| !value.is_finite() || **value < 0.0) {
            return Err(Error::ChartValue { name, value });
        }
        self.lines.push((name, values.to_vec()));
        Ok(self)
    }

    /// The picture as an SVG document. It uses no script, no style sheet and no id, so it can stand in an HTML page
    /// beside others.
    pub fn to_svg(&self) -> String {
        let at = Layout::new(self);
        let [w, h] = [at.width.ceil(), at.height.ceil()];
        let mut svg = String::new();
        let label = escape(if self.title.is_empty() { "chart" } else { &self.title });
        push(
            &mut svg,
            format_args!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
                 role=\"img\" aria-label=\"{label}\" font-family=\"DejaVu Sans, Verdana, Arial, sans-serif\" \
                 font-size=\"{FONT}\" fill=\"{INK}\">\n<rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n"
            ),
        );
        self.draw_axes(&mut svg, &at);
        for (index, (name, values)) in self.lines.iter().enumerate() {
            self.draw_line(&mut svg, &at, index, name, values);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_axes(&self, svg: &mut String, at: &Layout) {
        if !self.title.is_empty() {
            let (y, title) = (MARGIN + TITLE_FONT * 0.8, escape(&self.title));
            push(
                svg,
                format_args!(
                    "<text x=\"{MARGIN}\" y=\"{y:.1}\" font-size=\"{TITLE_FONT}\" font-weight=\"bold\">{title}</text>\n"
                ),
            );
        }
        let (left, right) = (at.left, at.left + PLOT_WIDTH);
        let y = at.top - LINE * 0.6;
        push(svg, format_args!("<text x=\"{left:.1}\" y=\"{y:.1}\" opacity=\"0.7\">{}</text>\n", escape(&self.y_axis)));
        for &tick in &at.ticks {
            let (y, x) = (at.y(tick), left - LABEL);
            let colour = if tick == 0.0 { "#8c959f" } else { "#d8dee4" };
            push(
                svg,
                format_args!(
                    "<path d=\"M{left:.1} {y:.1}H{right:.1}\" stroke=\"{colour}\"/>\
                     <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
                    y + 0.36 * FONT,
                    number(tick)
                ),
            );
        }
        let (foot, mut free) = (at.top + PLOT_HEIGHT, f64::NEG_INFINITY);
        for &point in &self.points {
            let (x, text) = (at.x(point), number(point));
            let half = width(&text) * FONT / 2.0;
            push(svg, format_args!("<path d=\"M{x:.1} {foot:.1}v4\" stroke=\"#8c959f\"/>\n"));
            // A label that would touch the one before is left out; its tooltips stay.
            if x - half > free {
                let y = foot + LABEL + FONT;
                push(svg, format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{text}</text>\n"));
                free = x + half + LABEL;
            }
        }
        let (x, y) = (left + PLOT_WIDTH / 2.0, foot + LABEL + FONT + LINE);
        let name = escape(&self.x_axis);
        push(
            svg,
            format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" opacity=\"0.7\">{name}</text>\n"),
        );
    }

    fn draw_line(&self, svg: &mut String, at: &Layout, index: usize, name: &str, values: &[f64]) {
        let share = index as f64 / self.lines.len().saturating_sub(1).max(1) as f64;
        let colour = Color::of(COLOURS[0] + (COLOURS[1] - COLOURS[0]) * share).hex();
        let (dashes, name) = (DASHES[index % DASHES.len()], escape(name));
        let stroke = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\"");
        let places = || self.points.iter().zip(values).map(|(point, value)| (at.x(*point), at.y(*value)));
        let path: Vec<String> = places().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        push(svg, format_args!("<path d=\"M{}\" {stroke}/>\n", path.join("L")));
        for ((x, y), (point, value)) in places().zip(self.points.iter().zip(values)) {
            push(
                svg,
                format_args!(
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\">\
                     <title>{name}, {}: {}</title></circle>\n",
                    number(*point),
                    number(*value)
                ),
            );
        }
        let (x, y) = (at.legend, at.top + FONT + index as f64 * LINE);
        push(
            svg,
            format_args!(
                "<path d=\"M{x:.1} {y:.1}h{SAMPLE}\" {stroke}/><text x=\"{:.1}\" y=\"{:.1}\">{name}</text>\n",
                x + SAMPLE + LABEL,
                y + 0.36 * FONT
            ),
        );
    }
}

/// Where everything stands, in pixels. Label widths are upper bounds (see `text`), so the sums below are too.
struct Layout {
    width: f64,
    height: f64,
    /// Left edge of the plot.
    left: f64,
    /// Upper edge of the plot.
    top: f64,
    /// Left edge of the legend.
    legend: f64,
    /// Values that have a line across the plot, from 0.
    ticks: Vec<f64>,
    /// Binary logarithms of the first point and the last.
    ends: [f64; 2],
}

impl Layout {
    fn new(chart: &Chart) -> Layout {
        let greatest = chart.lines.iter().flat_map(|(_, values)| values).fold(0.0, |most: f64, value| most.max(*value));
        let ticks = ticks(greatest);
        let widest = |texts: &mut dyn Iterator<Item = f64>| texts.fold(0.0, f64::max) * FONT;
        let left = MARGIN + widest(&mut ticks.iter().map(|tick| width(&number(*tick)))) + LABEL;
        let title = if chart.title.is_empty() { 0.0 } else { TITLE_FONT * 1.5 };
        let top = MARGIN + title + LINE;
        let legend = left + PLOT_WIDTH + MARGIN;
        let names = widest(&mut chart.lines.iter().map(|(name, _)| width(name)));
        let heading = MARGIN + width(&chart.title) * TITLE_FONT * BOLD;
        let beside = FONT + chart.lines.len() as f64 * LINE;
        let ends = [chart.points[0], chart.points[chart.points.len() - 1]].map(f64::log2);
        Layout {
            width: (legend + SAMPLE + LABEL + names).max(heading) + MARGIN,
            height: top + (PLOT_HEIGHT + LABEL + FONT + LINE).max(beside) + MARGIN,
            left,
            top,
            legend,
            ticks,
            ends,
        }
    }

    fn x(&self, point: f64) -> f64 {
        let [first, last] = self.ends;
        // A single point stands in the middle.
        let share = if first < last { (point.log2() - first) / (last - first) } else { 0.5 };
        self.left + INSET + (PLOT_WIDTH - 2.0 * INSET) * share
    }

    fn y(&self, value: f64) -> f64 {
        let greatest = self.ticks[self.ticks.len() - 1];
        self.top + PLOT_HEIGHT * (1.0 - value / greatest)
    }
}

/// 0 and up to six multiples of 1, 2 or 5 times a power of ten, the last of them not below `greatest`.
fn ticks(greatest: f64) -> Vec<f64> {
    let greatest = if greatest > 0.0 { greatest } else { 1.0 };
    let power = 10f64.powf((greatest / 6.0).log10().floor());
    let fits = |step: &f64| (greatest / step).ceil() <= 6.0;
    let step = [1.0, 2.0, 5.0].map(|factor| factor * power).into_iter().find(fits).unwrap_or(10.0 * power);
    (0..=(greatest / step).ceil() as usize).map(|n| n as f64 * step).collect()
}

fn push(svg: &mut String, text: std::fmt::Arguments<'_>) {
    // A String takes everything: its `write_fmt` has no way to fail.
    let _ = svg.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_place_is_an_error() {
        for points in [&[][..], &[0.0], &[2.0, 1.0], &[1.0, 1.0], &[f64::NAN], &[1.0, f64::INFINITY]] {
            assert!(matches!(Chart::new(points), Err(Error::ChartAxis { .. })), "{points:?}");
        }
        let chart = || Chart::new(&[1.0, 2.0]).unwrap();
        let short = chart().line("a", &[1.0]);
        assert!(matches!(short, Err(Error::ChartLine { values: 1, points: 2, .. })));
        for value in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(chart().line("a", &[1.0, value]), Err(Error::ChartValue { .. })));
        }
    }

    #[test]
    fn ticks_are_round_few_and_reach_the_top() {
        for greatest in [0.0, 1e-7, 0.31, 1.0, 6.0, 6.1, 59.0, 61.0, 100.0, 273.4, 9.9e9] {
            let ticks = ticks(greatest);
            assert!((2..=7).contains(&ticks.len()) && ticks[0] == 0.0, "{ticks:?}");
            assert!(ticks[ticks.len() - 1] >= greatest && ticks[ticks.len() - 1] <= greatest.max(1e-9) * 2.0 + 1.0);
        }
        assert_eq!(ticks(273.4), [0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0]);
    }

    #[test]
    fn points_stand_where_they_belong() {
        let chart = Chart::new(&[128.0, 256.0, 512.0]).unwrap().line("<a>", &[0.0, 50.0, 100.0]).unwrap();
        let at = Layout::new(&chart);
        assert_eq!((at.y(0.0), at.y(100.0)), (at.top + PLOT_HEIGHT, at.top));
        assert_eq!(at.x(256.0), at.left + PLOT_WIDTH / 2.0);
        let svg = chart.to_svg();
        assert!(svg.contains("<title>&lt;a&gt;, 256: 50</title>") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3);
        let alone = Chart::new(&[7.0]).unwrap().line("a", &[0.0]).unwrap().to_svg();
        assert!(alone.contains("<circle") && !alone.contains("NaN") && !alone.contains("inf"), "{alone}");
    }

    #[test]
    fn labels_that_would_touch_are_left_out() {
        let points: Vec<f64> = (0..200).map(|n| 10_000.0 + f64::from(n)).collect();
        let svg = Chart::new(&points).unwrap().line("a", &vec![1.0; 200]).unwrap().to_svg();
        let labels = svg.matches("text-anchor=\"middle\">1").count();
        assert!((2..20).contains(&labels), "{labels}");
        assert_eq!(svg.matches("<circle").count(), 200);
    }
}
