//! Pictures of what a benchmark measured, each with its points as comma-separated values beside it.

use std::fs;
use std::path::Path;

use plotters::chart::{ChartBuilder, SeriesLabelPosition};
use plotters::prelude::{BLACK, Circle, IntoDrawingArea as _, LineSeries, PathElement, RGBColor, SVGBackend, WHITE};
use plotters::style::{Color as _, IntoFont as _};

use crate::Error;

/// Letters of all pictures.
pub(crate) const FONT: &str = "sans-serif";
/// Okabe and Ito's colours, which the colour-blind tell apart, and some of their shades.
pub(crate) const COLOURS: [RGBColor; 11] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(86, 180, 233),
    RGBColor(150, 150, 150),
    RGBColor(204, 121, 167),
    RGBColor(0, 114, 178),
    RGBColor(240, 228, 66),
    RGBColor(70, 70, 70),
    RGBColor(120, 70, 20),
];
const SIZE_PX: (u32, u32) = (760, 420);
/// Room around what is drawn, by its extent.
const MARGIN: f64 = 0.04;
/// Points of a longer series are not marked one by one.
const MARKED_MAX: usize = 16;

/// How values lie along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithms; what is not above 0 is left out.
    Logarithmic,
}

/// What a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Distribution,
    Growth,
    Sizes,
    Course,
    /// Nothing: only the values are kept.
    Data,
}

impl Form {
    /// Of both axes.
    fn scales(self) -> [Scale; 2] {
        match self {
            Self::Distribution | Self::Sizes => [Scale::Logarithmic, Scale::Linear],
            Self::Growth => [Scale::Logarithmic; 2],
            Self::Course | Self::Data => [Scale::Linear; 2],
        }
    }
}

/// A name, and points in the order in which a line joins them.
pub type Curve = (String, Vec<(f64, f64)>);

/// Named series of points.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    name: &'static str,
    title: String,
    axes: [&'static str; 2],
    form: Form,
    series: Vec<Curve>,
}

impl Chart {
    /// How samples are distributed: for each value the share of its series that is at most as large. `unit` names what was sampled.
    pub fn distribution(name: &'static str, title: &str, unit: &'static str, samples: Vec<(String, Vec<f64>)>) -> Self {
        let cumulative = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            let count = values.len() as f64;
            values.into_iter().enumerate().map(|(before, value)| (value, (before + 1) as f64 / count)).collect()
        };
        let series = samples.into_iter().map(|(title, values)| (title, cumulative(values))).collect();
        Self { name, title: title.to_owned(), axes: [unit, "share of all"], form: Form::Distribution, series }
    }

    /// How figures grow with a size, both by their logarithms: what is proportional rises by one to one.
    pub fn growth(name: &'static str, title: &str, axes: [&'static str; 2], series: Vec<Curve>) -> Self {
        Self { name, title: title.to_owned(), axes, form: Form::Growth, series }
    }

    /// How figures from 0 on change with a size, which lies along the axis by its logarithm.
    pub fn sizes(name: &'static str, title: &str, axes: [&'static str; 2], series: Vec<Curve>) -> Self {
        Self { name, title: title.to_owned(), axes, form: Form::Sizes, series }
    }

    /// How figures from 0 on change along something: time, trials, a threshold.
    pub fn course(name: &'static str, title: &str, axes: [&'static str; 2], series: Vec<Curve>) -> Self {
        Self { name, title: title.to_owned(), axes, form: Form::Course, series }
    }

    /// Values without a picture.
    pub fn data(name: &'static str, axes: [&'static str; 2], series: Vec<Curve>) -> Self {
        Self { name, title: String::new(), axes, form: Form::Data, series }
    }

    /// Writes `NAME.svg`, if there is anything to draw, and `NAME.csv` into `folder`, and says what refers to them from beside it, as Markdown.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn keep(&self, folder: &Path) -> Result<String, Error> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(format!("{}.csv", self.name)), self.csv())?;
        let beside = folder.file_name().unwrap_or_default().to_string_lossy();
        let Self { name, title, .. } = self;
        let data = |what: &str| format!("{what}: [{name}.csv]({beside}/{name}.csv).\n");
        if self.form == Form::Data {
            return Ok(data("Raw data"));
        }
        let data = data("Its points");
        if self.series.iter().all(|(_, points)| self.drawn(points).is_empty()) {
            return Ok(data);
        }
        self.draw(&folder.join(format!("{name}.svg")))?;
        Ok(format!("![{title}]({beside}/{name}.svg)\n\n{data}"))
    }

    fn csv(&self) -> String {
        let header = format!("series,\"{}\",\"{}\"\n", self.axes[0], self.axes[1]);
        let line = |title: &str, (x, y): (f64, f64)| format!("\"{}\",{x:.6},{y:.6}\n", title.replace('"', "\"\""));
        let lines = self.series.iter().flat_map(|(title, points)| points.iter().map(move |point| line(title, *point)));
        header + &lines.collect::<String>()
    }

    fn draw(&self, path: &Path) -> Result<(), Error> {
        let series: Vec<(&str, Vec<(f64, f64)>)> =
            self.series.iter().map(|(title, points)| (title.as_str(), self.drawn(points))).collect();
        let all = || series.iter().flat_map(|(_, points)| points);
        let span = |of: fn(&(f64, f64)) -> f64| {
            let (low, high) = all().map(of).fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
            let margin = (high - low).max(MARGIN) * MARGIN;
            (low - margin, high + margin)
        };
        let area = SVGBackend::new(path, SIZE_PX).into_drawing_area();
        area.fill(&WHITE)?;
        let (left, right) = span(|point| point.0);
        let [x_scale, y_scale] = self.form.scales();
        let (low, high) = span(|point| point.1);
        let bottom = if y_scale == Scale::Linear { 0.0 } else { low };
        // The legend has the room that curves leave: below a distribution's end, above all else.
        let (top, legend) = match self.form {
            Form::Distribution => (high, SeriesLabelPosition::LowerRight),
            Form::Growth | Form::Sizes | Form::Course | Form::Data => {
                (high + (high - bottom) * 0.6, SeriesLabelPosition::UpperLeft)
            }
        };
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .caption(&self.title, (FONT, 17).into_font())
            .x_label_area_size(42)
            .y_label_area_size(60)
            .build_cartesian_2d(left..right, bottom..top)?;
        chart
            .configure_mesh()
            .x_desc(self.axes[0])
            .y_desc(self.axes[1])
            .max_light_lines(0)
            .bold_line_style(BLACK.mix(0.12))
            .x_label_formatter(&|x| label(*x, x_scale))
            .y_label_formatter(&|y| label(*y, y_scale))
            .label_style((FONT, 13).into_font())
            .draw()?;
        for ((title, points), colour) in series.iter().zip(COLOURS.iter().cycle().copied()) {
            let line = chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
            line.label(*title)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2)));
            if points.len() <= MARKED_MAX {
                chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
            }
        }
        chart
            .configure_series_labels()
            .position(legend)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.2))
            .label_font((FONT, 12).into_font())
            .draw()?;
        Ok(area.present()?)
    }

    /// Where points are drawn; those that have no place are left out.
    fn drawn(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let place = |value: f64, scale| if scale == Scale::Linear { value } else { value.log10() };
        let [x_scale, y_scale] = self.form.scales();
        let points = points.iter().map(|point| (place(point.0, x_scale), place(point.1, y_scale)));
        points.filter(|(x, y)| x.is_finite() && y.is_finite()).collect()
    }
}

/// A place on an axis as the value that it stands for.
fn label(place: f64, scale: Scale) -> String {
    let value = if scale == Scale::Linear { place } else { 10_f64.powf(place) };
    let size = value.abs();
    let digits = if size >= 10.0 || size == 0.0 { 0 } else { (1.0 - size.log10().floor()) as usize };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(chart: &Chart) -> (String, String, String) {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("benchmarks");
        let text = chart.keep(&folder).expect("kept");
        let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a file");
        (text, read("some.svg"), read("some.csv"))
    }

    #[test]
    fn a_distribution_has_every_sample_with_its_share() {
        let chart = Chart::distribution("some", "Some", "ms", vec![("a \"b\"".into(), vec![30.0, 10.0, 20.0, 40.0])]);
        let (text, svg, csv) = kept(&chart);
        assert_eq!(
            csv.lines().collect::<Vec<_>>()[..3],
            [
                "series,\"ms\",\"share of all\"",
                "\"a \"\"b\"\"\",10.000000,0.250000",
                "\"a \"\"b\"\"\",20.000000,0.500000"
            ]
        );
        assert!(text.contains("(benchmarks/some.svg)") && text.contains("(benchmarks/some.csv)"), "{text}");
        assert!(svg.starts_with("<svg") && svg.contains("share of all") && !svg.contains("NaN"));
    }

    #[test]
    fn what_has_no_logarithm_is_kept_and_not_drawn() {
        let points = vec![(10.0, 0.0), (100.0, 5.0), (1000.0, 50.0)];
        let chart = Chart::growth("some", "Some", ["people", "ms"], vec![("matching".into(), points)]);
        let (_, svg, csv) = kept(&chart);
        assert!(csv.contains("10.000000,0.000000") && csv.lines().count() == 4);
        assert!(!svg.contains("inf") && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn a_course_begins_at_zero_and_has_an_even_axis() {
        let points = vec![(0.0, 5.0), (1.0, 50.0), (2.0, 0.0)];
        let chart = Chart::course("some", "Some", ["s", "MB"], vec![("memory".into(), points.clone())]);
        assert_eq!(chart.drawn(&points), points);
        let (_, svg, _) = kept(&chart);
        assert!(!svg.contains("inf") && !svg.contains("NaN"), "{svg}");
        let by_size = Chart::sizes("some", "Some", ["units", "%"], Vec::new());
        assert_eq!(by_size.drawn(&[(0.0, 5.0), (1.0, 0.0), (100.0, 7.0)]), [(0.0, 0.0), (2.0, 7.0)]);
    }

    #[test]
    fn data_are_kept_without_a_picture() {
        let dir = tempfile::tempdir().expect("a folder");
        let text =
            Chart::data("some", ["n", "ms"], vec![("a".into(), vec![(1.0, 2.0)])]).keep(dir.path()).expect("kept");
        assert!(text.starts_with("Raw data:"), "{text}");
        assert!(dir.path().join("some.csv").exists() && !dir.path().join("some.svg").exists());
    }

    #[test]
    fn an_axis_is_labelled_with_values() {
        let labels = [0.0, 1.0, 3.0, -1.0, -2.5].map(|place| label(place, Scale::Logarithmic));
        assert_eq!(labels, ["1", "10", "1000", "0.1", "0.0032"]);
        assert_eq!([0.0, 0.25, -0.5].map(|place| label(place, Scale::Linear)), ["0", "0.25", "-0.5"]);
    }
}
