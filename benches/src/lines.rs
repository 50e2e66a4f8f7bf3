//! Lines over the number of hosts, as an SVG drawing; both axes are logarithmic.

use std::fmt::Write as _;

const LEFT: f64 = 70.0;
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 220.0;
const GAP: f64 = 70.0;
const TOP: f64 = 50.0;

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is called.
    pub title: String,
    /// Its colour.
    pub colour: &'static str,
    /// Its points, none below zero.
    pub points: Vec<(f64, f64)>,
}

/// Lines that share their axes.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What is shown, with its unit.
    pub title: String,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Draws the charts below each other.
pub fn draw(heading: &str, charts: &[Chart]) -> String {
    let height = TOP + charts.len() as f64 * (HEIGHT + GAP);
    let width = LEFT + WIDTH + 120.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, 12.0, 18.0, "start", heading);
    for (index, chart) in charts.iter().enumerate() {
        one(&mut svg, TOP + index as f64 * (HEIGHT + GAP), chart);
    }
    svg.push_str("</svg>\n");
    svg
}

fn one(svg: &mut String, top: f64, chart: &Chart) {
    text(svg, LEFT, top - 6.0, "start", &chart.title);
    let points = || chart.lines.iter().flat_map(|line| line.points.iter());
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(1.0_f64, f64::max);
    let widest = most(&mut points().map(|point| point.0)).max(2.0);
    let highest = most(&mut points().map(|point| point.1));
    let lowest = points()
        .map(|point| point.1)
        .filter(|&value| value > 0.0)
        .fold(highest, f64::min);
    let from = 10_f64.powf(lowest.log10().floor());
    let to = 10_f64.powf(highest.log10().ceil()).max(from * 10.0);
    let x = |hosts: f64| LEFT + hosts.max(1.0).ln() / widest.ln() * WIDTH;
    let y = |value: f64| {
        let part = (value.max(from) / from).ln() / (to / from).ln();
        top + HEIGHT - part * HEIGHT
    };
    let mut tick = from;
    while tick <= to * 1.001 {
        let at = y(tick);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>",
            LEFT + WIDTH
        );
        text(svg, LEFT - 6.0, at + 4.0, "end", &format!("{tick}"));
        tick *= 10.0;
    }
    let mut hosts = 1.0;
    while hosts <= widest {
        text(
            svg,
            x(hosts),
            top + HEIGHT + 16.0,
            "middle",
            &format!("{hosts}"),
        );
        hosts *= 2.0;
    }
    text(
        svg,
        LEFT + WIDTH + 40.0,
        top + HEIGHT + 16.0,
        "start",
        "hosts",
    );
    for line in &chart.lines {
        let path: Vec<String> = line
            .points
            .iter()
            .map(|&(hosts, value)| format!("{:.1},{:.1}", x(hosts), y(value)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            path.join(" "),
            line.colour
        );
        if let Some(&(hosts, value)) = line.points.last() {
            text(svg, x(hosts) + 6.0, y(value) + 4.0, "start", &line.title);
        }
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let escaped = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{escaped}</text>"
    );
}
