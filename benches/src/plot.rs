//! Curves as an SVG drawing, both axes from zero and linear.

use std::fmt::Write as _;

const LEFT: f64 = 70.0;
const WIDTH: f64 = 520.0;
const TOP: f64 = 60.0;
const HEIGHT: f64 = 320.0;
const RIGHT: f64 = 190.0;
const COLOURS: [&str; 4] = ["#004488", "#bb5566", "#6699cc", "#ddaa33"];

/// Draws `lines`, each a name and its points, under the lines of `heading`.
pub fn draw(heading: &[String], x: &str, y: &str, lines: &[(String, Vec<(f64, f64)>)]) -> String {
    let all = lines.iter().flat_map(|(_, points)| points);
    let (most_x, most_y) = all.fold((1.0_f64, 0.01_f64), |(a, b), point| {
        (a.max(point.0), b.max(point.1))
    });
    let at = |(px, py): (f64, f64)| {
        (
            LEFT + px / most_x * WIDTH,
            TOP + HEIGHT - py / most_y * HEIGHT,
        )
    };
    let (width, height) = (LEFT + WIDTH + RIGHT, TOP + HEIGHT + 50.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (index, line) in heading.iter().enumerate() {
        text(&mut svg, (12.0, 18.0 + index as f64 * 14.0), "start", line);
    }
    for step in 0..=4 {
        let part = f64::from(step) / 4.0;
        let (gx, gy) = at((most_x * part, most_y * part));
        let bottom = TOP + HEIGHT;
        let end = LEFT + WIDTH;
        let _ = writeln!(
            svg,
            "<path d=\"M{gx:.1} {TOP} V{bottom} M{LEFT} {gy:.1} H{end}\" stroke=\"#ddd\" fill=\"none\"/>"
        );
        text(
            &mut svg,
            (gx, bottom + 16.0),
            "middle",
            &format!("{:.0}", most_x * part),
        );
        text(
            &mut svg,
            (LEFT - 6.0, gy + 4.0),
            "end",
            &format!("{:.2}", most_y * part),
        );
    }
    text(
        &mut svg,
        (LEFT + WIDTH / 2.0, TOP + HEIGHT + 34.0),
        "middle",
        x,
    );
    text(&mut svg, (LEFT - 6.0, TOP - 8.0), "end", y);
    for (index, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let mut path = String::new();
        for (number, point) in points.iter().enumerate() {
            let (px, py) = at(*point);
            let _ = write!(
                path,
                "{}{px:.1} {py:.1}",
                if number == 0 { "M" } else { " L" }
            );
            let _ = writeln!(
                svg,
                "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"{colour}\"/>"
            );
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"/>"
        );
        let y = TOP + 14.0 + index as f64 * 16.0;
        let x = LEFT + WIDTH + 14.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>",
            y - 9.0
        );
        text(&mut svg, (x + 16.0, y), "start", name);
    }
    svg.push_str("</svg>\n");
    svg
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, content: &str) {
    let escaped = content.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{escaped}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_point_is_in_the_corner() {
        let lines = vec![("a".to_owned(), vec![(1.0, 2.0), (4.0, 8.0)])];
        let svg = draw(&["t".to_owned()], "x", "y", &lines);
        let corner = format!("cx=\"{:.1}\" cy=\"{TOP:.1}\"", LEFT + WIDTH);
        assert!(svg.contains(&corner), "{svg}");
    }
}
