//! Plots, as SVG: white behind, so that they can be read on a dark page as well.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;
use std::ops::Range;

type Drawn = Result<String, Box<dyn Error>>;

/// For up to four lines: told apart also without seeing colours, by their lightness.
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 95, 168), RGBColor(224, 123, 32), RGBColor(42, 140, 96), RGBColor(140, 80, 160)];
const INK: RGBColor = RGBColor(40, 44, 52);
const PALE: RGBColor = RGBColor(226, 229, 233);
const GREY: RGBColor = RGBColor(150, 158, 168);
const FONT: &str = "sans-serif";
/// Height of the strip with the names of the lines.
const LEGEND: u32 = 28;

/// Lines over a cause, on logarithmic axes unless it says otherwise.
pub struct Chart<'a> {
    pub x: &'a str,
    pub y: &'a str,
    pub lines: Vec<Line<'a>>,
    /// Upwards the axis is linear, from nought.
    pub from_nought: bool,
    /// What to show at the axis for a value.
    pub unit: fn(f64) -> String,
    /// A dashed line along which cost is in proportion to its cause.
    pub proportion: bool,
    /// Vertical lines: where, and what is there.
    pub marks: Vec<(f64, String)>,
}

pub struct Line<'a> {
    pub label: &'a str,
    pub points: Vec<Point>,
}

#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub min: f64,
    pub max: f64,
}

/// Draws a chart.
pub fn chart(chart: &Chart) -> Drawn {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let x = span(points().map(|point| point.x));
    let y = span(points().flat_map(|point| [point.min, point.max]));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (760, 400)).into_drawing_area();
        area.fill(&WHITE)?;
        let (strip, below) = area.split_vertically(LEGEND);
        legend(&strip, chart)?;
        let mut builder = ChartBuilder::on(&below);
        builder.margin(10).margin_right(26).x_label_area_size(48).y_label_area_size(76);
        let across = (x.start / 1.3..x.end * 1.3).log_scale();
        // Two types of axis, one way to draw on them.
        macro_rules! draw {
            ($upwards:expr, $range:expr) => {{
                let mut plane = builder.build_cartesian_2d(across, $upwards)?;
                plane
                    .configure_mesh()
                    .x_desc(chart.x)
                    .y_desc(chart.y)
                    .x_label_formatter(&|x| short(*x))
                    .y_label_formatter(&|y| (chart.unit)(*y))
                    .label_style((FONT, 13).into_font().color(&INK))
                    .axis_desc_style((FONT, 14).into_font().color(&INK))
                    .axis_style(GREY)
                    .bold_line_style(PALE)
                    .light_line_style(TRANSPARENT)
                    .draw()?;
                let range: Range<f64> = $range;
                let label = |at: Pos| (FONT, 12).into_font().color(&INK).pos(at);
                for (at, text) in chart.marks.iter().filter(|(at, _)| x.contains(at)) {
                    plane.draw_series(DashedLineSeries::new(
                        [(*at, range.start), (*at, range.end)],
                        4,
                        4,
                        GREY.into(),
                    ))?;
                    let above = label(Pos::new(HPos::Right, VPos::Top));
                    // A little to the left of the line, whatever the scale.
                    let text = Text::new(text.clone(), (*at * 0.94, range.end), above);
                    plane.draw_series([text])?;
                }
                if chart.proportion
                    && let Some(last) = chart.lines.first().and_then(|line| line.points.last())
                {
                    let start = x.start.max(last.x * range.start / last.y);
                    plane.draw_series(DashedLineSeries::new(
                        [(start, last.y * start / last.x), (last.x, last.y)],
                        6,
                        5,
                        GREY.into(),
                    ))?;
                }
                for (line, colour) in chart.lines.iter().zip(COLOURS) {
                    let stroke = colour.stroke_width(2);
                    let spreads = line.points.iter().map(|point| {
                        PathElement::new([(point.x, point.min), (point.x, point.max)], colour)
                    });
                    plane.draw_series(spreads)?;
                    let along = line.points.iter().map(|point| (point.x, point.y));
                    plane.draw_series(LineSeries::new(along, stroke))?;
                    let dots = line.points.iter();
                    plane.draw_series(
                        dots.map(|point| Circle::new((point.x, point.y), 4, colour.filled())),
                    )?;
                }
            }};
        }
        if chart.from_nought {
            let range = 0.0..y.end * 1.15;
            draw!(range.clone(), range);
        } else {
            let range = y.start / 1.5..y.end * 2.0;
            draw!(range.clone().log_scale(), range);
        }
        area.present()?;
    }
    Ok(svg)
}

/// Names the lines, side by side, if there is more than one.
fn legend(area: &DrawingArea<SVGBackend, Shift>, chart: &Chart) -> Result<(), Box<dyn Error>> {
    if chart.lines.len() < 2 && !chart.proportion {
        return Ok(());
    }
    let lines = chart.lines.iter().zip(COLOURS).map(|(line, colour)| (line.label, colour));
    let dashed = chart.proportion.then_some(("in proportion", GREY));
    let (mut x, y) = (90, LEGEND as i32 / 2 + 2);
    for (label, colour) in lines.chain(dashed) {
        if chart.proportion && colour == GREY {
            for dash in [x, x + 10] {
                area.draw(&PathElement::new([(dash, y), (dash + 6, y)], GREY))?;
            }
        } else {
            area.draw(&PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)))?;
            area.draw(&Circle::new((x + 8, y), 4, colour.filled()))?;
        }
        words(area, label, (x + 22, y), HPos::Left)?;
        // What a letter takes, generously, as the font is the reader's.
        x += 52 + 7 * label.len() as i32;
    }
    Ok(())
}

/// From the least to the greatest.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let span = values
        .filter(|value| value.is_finite() && *value > 0.0)
        .fold(f64::INFINITY..0.0, |span, value| span.start.min(value)..span.end.max(value));
    if span.end > 0.0 { span } else { 1.0..10.0 }
}

/// One bar of a plot.
pub struct Bar<'a> {
    pub label: &'a str,
    pub value: f64,
    pub text: String,
    pub kind: Kind,
}

pub enum Kind {
    /// What this is about.
    Own,
    Other,
    /// What nobody can do better.
    Bound,
}

const ROW: i32 = 22;
const LABELS: i32 = 180;
const BARS: i32 = 460;
const WIDTH: i32 = 760;
const MARGIN: i32 = 10;

/// Draws bars, from nought, the first at the top.
pub fn bars(bars: &[Bar], unit: &str) -> Drawn {
    let rows = bars.len() as i32;
    let size = (WIDTH as u32, (2 * MARGIN + ROW * (rows + 1)) as u32);
    let greatest = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        for (row, bar) in (0..).zip(bars) {
            let top = MARGIN + row * ROW;
            let length = (f64::from(BARS) * bar.value / greatest).max(1.0) as i32;
            let corners = [(LABELS, top + 3), (LABELS + length, top + ROW - 3)];
            match bar.kind {
                Kind::Own => area.draw(&Rectangle::new(corners, COLOURS[0].filled()))?,
                Kind::Other => area.draw(&Rectangle::new(corners, GREY.filled()))?,
                Kind::Bound => area.draw(&Rectangle::new(corners, GREY))?,
            }
            words(&area, bar.label, (LABELS - 8, top + ROW / 2), HPos::Right)?;
            words(&area, &bar.text, (LABELS + length + 6, top + ROW / 2), HPos::Left)?;
        }
        words(&area, unit, (LABELS, MARGIN + rows * ROW + ROW / 2), HPos::Left)?;
        area.present()?;
    }
    Ok(svg)
}

fn words(
    area: &DrawingArea<SVGBackend, Shift>,
    text: &str,
    at: (i32, i32),
    side: HPos,
) -> Result<(), Box<dyn Error>> {
    let style = (FONT, 13).into_font().color(&INK).pos(Pos::new(side, VPos::Center));
    Ok(area.draw(&Text::new(text, at, style))?)
}

/// A number at an axis: 1, 10, 100, 1k, 1M.
pub fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{}M", round(value / 1e6)),
        1e3.. => format!("{}k", round(value / 1e3)),
        _ => round(value),
    }
}

/// Nanoseconds at an axis.
pub fn duration(ns: f64) -> String {
    match ns {
        1e9.. => format!("{} s", round(ns / 1e9)),
        1e6.. => format!("{} ms", round(ns / 1e6)),
        1e3.. => format!("{} µs", round(ns / 1e3)),
        _ => format!("{} ns", round(ns)),
    }
}

/// Without decimals that say nothing.
fn round(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
