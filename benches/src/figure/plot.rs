//! The picture: mean time and ratio against the number of images.

use std::path::Path;

use plotters::chart::{ChartBuilder, SeriesLabelPosition};
use plotters::coord::Shift;
use plotters::prelude::{
    BLACK, Circle, DrawingArea, IntoDrawingArea as _, LineSeries, PathElement, RGBColor, SVGBackend, WHITE,
};
use plotters::style::{Color as _, IntoFont as _};

use super::analysis::Point;
use super::line::{LINES, Line};
use super::tables::{RATIO_AIM, RATIO_AIM_SHORT, has_ratio};
use crate::Error;
use crate::chart::{COLOURS, FONT};
use crate::inference::Interval;

const SIZE_PX: (u32, u32) = (1_000, 520);
/// Half of the width of an interval's ends, by the width of the panel.
const CAP: f64 = 0.004;
/// Intervals of neighbouring lines are drawn so far apart, by the width of the panel.
const APART: f64 = 0.006;
/// Each line has a colour of its own.
const _: () = assert!(COLOURS.len() >= LINES.len());

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What is drawn of a line: images, and the mean with its interval.
type Series = (&'static Line, RGBColor, Vec<(f64, Interval)>);

/// Draws the points to an SVG file.
///
/// # Errors
/// It cannot be written.
pub fn draw(path: &Path, points: &[Point]) -> Result<(), Error> {
    let area = SVGBackend::new(path, SIZE_PX).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(SIZE_PX.0 / 2);
    let seconds = |ms: Interval| Interval { mean: ms.mean / 1_000.0, half: ms.half / 1_000.0, ..ms };
    let times = series(points, |point| point.time_ms.map(seconds));
    panel(&left, "mean time of a workload, s", 0.0, &times, &[])?;
    let ratios = series(points, |point| point.ratio.filter(|_| has_ratio(point)));
    panel(&right, "ratio to one long invocation", lowest(&ratios), &ratios, &[RATIO_AIM, RATIO_AIM_SHORT])?;
    Ok(area.present()?)
}

fn series(points: &[Point], of: impl Fn(&Point) -> Option<Interval>) -> Vec<Series> {
    let one = |(line, colour): (&'static Line, RGBColor)| {
        let own = points.iter().filter(|point| point.line == line.key);
        let drawn: Vec<(f64, Interval)> = own.filter_map(|point| Some((point.images as f64, of(point)?))).collect();
        (!drawn.is_empty()).then_some((line, colour, drawn))
    };
    LINES.iter().zip(COLOURS).filter_map(one).collect()
}

/// Ends of an interval; a single trial has none.
fn ends(interval: &Interval) -> (f64, f64) {
    if interval.half.is_finite() { (interval.low(), interval.high()) } else { (interval.mean, interval.mean) }
}

fn lowest(series: &[Series]) -> f64 {
    let ends = series.iter().flat_map(|(_, _, drawn)| drawn).map(|(_, interval)| ends(interval).0);
    ends.fold(1.0, f64::min) - 0.005
}

fn panel(area: &Area<'_>, title: &str, floor: f64, series: &[Series], aims: &[f64]) -> Result<(), Error> {
    let drawn = || series.iter().flat_map(|(_, _, drawn)| drawn);
    let top = drawn().map(|(_, interval)| ends(interval).1).chain(aims.iter().copied()).fold(floor, f64::max);
    let right = drawn().map(|(images, _)| *images).fold(1.0, f64::max) * 1.05;
    // The legend stands above what is drawn.
    let ceiling = top + (top - floor) * 0.62;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(title, (FONT, 17).into_font())
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..right, floor..ceiling)?;
    let digits = if aims.is_empty() { 1 } else { 3 };
    chart
        .configure_mesh()
        .x_desc("images")
        .max_light_lines(0)
        .bold_line_style(BLACK.mix(0.12))
        .x_label_formatter(&|images| format!("{images:.0}"))
        .y_label_formatter(&|value| format!("{value:.digits$}"))
        .label_style((FONT, 13).into_font())
        .draw()?;
    chart.draw_series(aims.iter().map(|aim| PathElement::new(vec![(0.0, *aim), (right, *aim)], BLACK.mix(0.45))))?;
    for (number, (line, colour, drawn)) in series.iter().enumerate() {
        let aside = (number as f64 - (series.len() - 1) as f64 / 2.0) * APART * right;
        let means = drawn.iter().map(|(images, interval)| (images + aside, interval.mean));
        let label = chart.draw_series(LineSeries::new(means.clone(), colour.stroke_width(2)))?.label(line.title);
        let colour = *colour;
        label.legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(means.map(|point| Circle::new(point, 3, colour.filled())))?;
        let bars = drawn.iter().flat_map(|(images, interval)| {
            let (low, high) = ends(interval);
            let x = images + aside;
            let cap = |y| vec![(x - CAP * right, y), (x + CAP * right, y)];
            [vec![(x, low), (x, high)], cap(low), cap(high)]
        });
        chart.draw_series(bars.map(|path| PathElement::new(path, colour)))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font((FONT, 12).into_font())
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_names_what_is_drawn_and_draws_a_single_trial_without_an_interval() {
        let interval = |mean, half| Some(Interval { count: 2, mean, half });
        let point =
            |line, time_ms, ratio| Point { line, images: 5, trials: 2, cut_off: 0, time_ms, ratio, invocations: 1.0 };
        let points = [
            point("long", interval(500.0, f64::INFINITY), interval(1.0, 0.0)),
            point("r2", interval(510.0, 4.0), interval(1.02, 0.01)),
        ];
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("figure.svg");
        draw(&path, &points).expect("drawn");
        let svg = std::fs::read_to_string(&path).expect("text");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("µλ, 2 images an invocation").count(), 2, "in both panels");
        assert_eq!(svg.matches("one long invocation").count(), 2, "a line on the left, the title on the right");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
