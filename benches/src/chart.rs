//! The report as an SVG drawing: one group of bars a row, as parts of the ceiling.

use std::fmt::Write as _;

use crate::report::{Name, Report};

const LEFT: f64 = 120.0;
const WIDTH: f64 = 560.0;
const RIGHT: f64 = 160.0;
const TOP: f64 = 110.0;
/// Characters of a line of the heading.
const LINE: usize = 130;
const BAR: f64 = 13.0;
const GAP: f64 = 14.0;
/// The axis is logarithmic, since a raw read and a single-threaded tool are a factor of 100 apart.
const FROM: f64 = 0.01;
const TO: f64 = 20.0;

/// Draws the rates of `report`.
pub fn draw(report: &Report) -> String {
    let group = (Name::ALL.len() + 1) as f64 * BAR + GAP;
    let bottom = TOP + report.rows.len() as f64 * group;
    let (width, height) = (LEFT + WIDTH + RIGHT, bottom + 44.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let title = "Read speed, as part of the FUSE ceiling (1 = an in-memory file system with the same settings); beside the bars, what was measured";
    let heading = [title, &report.machine.line(), &report.setup];
    let lines = heading.into_iter().flat_map(wrapped);
    for (index, line) in lines.enumerate() {
        text(&mut svg, 12.0, 18.0 + index as f64 * 14.0, "start", &line);
    }
    for tick in [0.01, 0.1, 0.2, 0.5, 0.8, 1.0, 2.0, 5.0, 10.0, 20.0] {
        let at = x(tick);
        let aim = (0.8..=1.0).contains(&tick);
        let colour = if aim { "#444" } else { "#ddd" };
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"{colour}\"/>"
        );
        text(&mut svg, at, bottom + 16.0, "middle", &tick.to_string());
    }
    for (index, row) in report.rows.keys().enumerate() {
        let top = TOP + GAP / 2.0 + index as f64 * group;
        text(&mut svg, 12.0, top + 10.0, "start", row.title());
        for (place, name) in Name::ALL.into_iter().enumerate() {
            let y = top + (place + 1) as f64 * BAR;
            text(&mut svg, LEFT - 6.0, y + 10.0, "end", name.title());
            let Some(rate) = report.median(*row, name) else {
                text(&mut svg, LEFT + 4.0, y + 10.0, "start", "n/a");
                continue;
            };
            let ratio = report.ratio(*row, name, Name::Ceiling).unwrap_or(FROM);
            let end = x(ratio);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"/>",
                end - LEFT,
                BAR - 2.0,
                colour(name)
            );
            let label = format!("{rate:.0} {} ({ratio:.2})", row.unit());
            text(&mut svg, end + 4.0, y + 10.0, "start", &label);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Breaks a text into lines.
fn wrapped(content: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in content.split(' ') {
        if let Some(line) = lines
            .last_mut()
            .filter(|line| line.len() + word.len() < LINE)
        {
            line.push_str(word);
            line.push(' ');
        } else {
            lines.push(format!("{word} "));
        }
    }
    lines
}

fn x(ratio: f64) -> f64 {
    let part = (ratio.clamp(FROM, TO) / FROM).ln() / (TO / FROM).ln();
    LEFT + part * WIDTH
}

fn colour(name: Name) -> &'static str {
    match name {
        Name::Raw => "#bbbbbb",
        Name::Ceiling => "#777777",
        Name::PassthroughLl => "#ddaa33",
        Name::Vmfs6Tools | Name::VmfsTools => "#bb5566",
        Name::Ours5 | Name::Ours6 => "#004488",
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, content: &str) {
    let escaped = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{escaped}</text>"
    );
}
