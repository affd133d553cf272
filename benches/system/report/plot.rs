//! Plots, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::spread::{Spread, grouped};

const WIDTH: u32 = 900;
const BAR: u32 = 34;
const MARGIN: i32 = 12;
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const FILL: RGBColor = RGBColor(0x4c, 0x78, 0xa8);
const LINES: [RGBColor; 4] =
    [FILL, RGBColor(0xf5, 0x85, 0x18), RGBColor(0x54, 0xa2, 0x4b), RGBColor(0xe4, 0x57, 0x56)];

/// A bar for each median, with a line from the least to the greatest.
pub(crate) fn bars(path: &Path, title: &str, bars: &[(String, Spread)]) -> Result<()> {
    let count = bars.len();
    let height = 110 + BAR * u32::try_from(count)?;
    let most = bars.iter().map(|(_, spread)| spread.greatest).fold(0.0, f64::max) * 1.12;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    draw(root.fill(&WHITE))?;
    let mut chart = draw(
        ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(MARGIN)
            .x_label_area_size(30)
            .y_label_area_size(330)
            // The first one on top.
            .build_cartesian_2d(0.0..most, (count as f64)..0.0),
    )?;
    let name = |at: &f64| bars.get(*at as usize).map_or(String::new(), |(name, _)| name.clone());
    draw(
        chart
            .configure_mesh()
            .disable_mesh()
            .y_labels(0)
            .x_label_formatter(&|x| grouped(*x, 0))
            .draw(),
    )?;
    let plotting = chart.plotting_area();
    for (index, (_, Spread { median, least, greatest })) in bars.iter().enumerate() {
        let at = index as f64;
        let bar = [(0.0, at + 0.2), (*median, at + 0.8)];
        draw(plotting.draw(&Rectangle::new(bar, FILL.mix(0.8).filled())))?;
        let reach = vec![(*least, at + 0.5), (*greatest, at + 0.5)];
        draw(plotting.draw(&PathElement::new(reach, INK.stroke_width(2))))?;
        let y = plotting.map_coordinate(&(0.0, at + 0.5)).1;
        let style = ("sans-serif", 13).into_font().color(&INK);
        draw(root.draw(&Text::new(name(&at), (MARGIN, y - 7), style)))?;
    }
    draw(root.present())
}

/// One named line.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Latencies: milliseconds on a logarithmic scale over the share of events within them, stretched
/// so that each nine of it has the same room.
pub(crate) fn latencies(path: &Path, title: &str, lines: &[Line]) -> Result<()> {
    let stretched = |share: f64| -(1.0 - share).log10();
    let all = || lines.iter().flat_map(|line| line.points.iter().map(|(_, ms)| *ms));
    let (least, most) = (all().fold(f64::MAX, f64::min).max(0.1), all().fold(1.0, f64::max));
    let root = SVGBackend::new(path, (WIDTH, 420)).into_drawing_area();
    draw(root.fill(&WHITE))?;
    let mut chart = draw(
        ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(MARGIN)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..4.05, (least * 0.8..most * 1.3).log_scale()),
    )?;
    let percent = |x: &f64| format!("{:.4}", 100.0 * (1.0 - 10f64.powf(-x)));
    let percent = |x: &f64| percent(x).trim_end_matches('0').trim_end_matches('.').to_owned();
    draw(
        chart
            .configure_mesh()
            .x_labels(5)
            .x_label_formatter(&percent)
            .x_desc("% of events visible within")
            .y_desc("ms")
            .draw(),
    )?;
    for (index, line) in lines.iter().enumerate() {
        let color = LINES[index % LINES.len()];
        let points = line.points.iter().map(|(share, ms)| (stretched(*share), ms.max(0.1)));
        draw(chart.draw_series(LineSeries::new(points, color.stroke_width(2))))?
            .label(&line.name)
            .legend(move |(x, y)| {
                PathElement::new(vec![(x, y), (x + 20, y)], color.stroke_width(2))
            });
    }
    let at = SeriesLabelPosition::UpperLeft;
    draw(
        chart
            .configure_series_labels()
            .position(at)
            .background_style(WHITE.mix(0.8))
            .border_style(INK)
            .draw(),
    )?;
    draw(root.present())
}

/// The library's errors borrow what they are about.
fn draw<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("plotting: {error}"))
}
