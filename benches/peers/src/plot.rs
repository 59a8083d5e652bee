//! Lines on two logarithmic axes, as SVG. Its colours are in the middle between light and dark, so
//! that either can be behind them.

use std::fmt::Write;

/// Somebody's.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub style: Style,
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Own,
    /// The least that can be had: dashed.
    Floor,
    Other,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 40.0;
/// Where the axes end.
const RIGHT: f64 = 530.0;
const BOTTOM: f64 = 390.0;
/// Between two labels.
const STEP: f64 = 14.0;
const GRAY: &str = "#808080";

const OWN: [&str; 2] = ["#16a34a", "#0d9488"];
const FLOOR: [&str; 2] = ["#3b82f6", "#6366f1"];
const OTHER: [&str; 6] = ["#ea580c", "#a16207", "#db2777", "#9333ea", "#dc2626", "#78716c"];

/// A logarithmic axis from one pixel to another.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let part = (value.log10() - self.low) / (self.high - self.low);
        self.from + part * (self.to - self.from)
    }
}

/// The title says what is told, `across` against what. Points that are not above zero are left out:
/// they have no logarithm.
#[must_use]
pub fn svg(title: &str, across: &str, lines: &[Line]) -> String {
    let seen = |point: &&(f64, f64)| point.0 > 0.0 && point.1 > 0.0;
    let all: Vec<(f64, f64)> =
        lines.iter().flat_map(|line| line.points.iter().filter(seen).copied()).collect();
    let least = |part: fn(&(f64, f64)) -> f64| all.iter().map(part).fold(f64::INFINITY, f64::min);
    let most = |part: fn(&(f64, f64)) -> f64| all.iter().map(part).fold(0.0, f64::max);
    let x = Axis {
        low: least(|point| point.0).log10(),
        high: most(|point| point.0).log10(),
        from: LEFT,
        to: RIGHT,
    };
    let y = Axis {
        low: least(|point| point.1).log10().floor(),
        high: most(|point| point.1).log10().ceil(),
        from: BOTTOM,
        to: TOP,
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\" \
         fill=\"{GRAY}\">\n<title>{title}</title>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    let mut add = |text: String| {
        let _ = writeln!(svg, "{text}");
    };
    for power in y.low as i32..=y.high as i32 {
        let (at, value) = (y.place(10_f64.powi(power)), 10_f64.powi(power));
        add(format!(
            "<path d=\"M{LEFT} {at:.1}H{RIGHT}\" stroke=\"{GRAY}\" stroke-opacity=\".3\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            number(value)
        ));
    }
    let mut ticks: Vec<f64> = all.iter().map(|point| point.0).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for tick in ticks {
        let at = x.place(tick);
        add(format!(
            "<path d=\"M{at:.1} {BOTTOM}v5\" stroke=\"{GRAY}\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            BOTTOM + 18.0,
            number(tick)
        ));
    }
    add(format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{across}</text>",
        f64::midpoint(LEFT, RIGHT),
        BOTTOM + 36.0,
    ));

    let mut labels = Vec::new();
    let mut used = [0; 3];
    for line in lines {
        let (kind, colours, width, dash): (usize, &[&str], f64, &str) = match line.style {
            Style::Own => (0, &OWN, 3.0, ""),
            Style::Floor => (1, &FLOOR, 2.0, " stroke-dasharray=\"6 4\""),
            Style::Other => (2, &OTHER, 1.3, ""),
        };
        let colour = colours[used[kind] % colours.len()];
        used[kind] += 1;
        let points: Vec<(f64, f64)> =
            line.points.iter().filter(seen).map(|(a, b)| (x.place(*a), y.place(*b))).collect();
        let Some(&end) = points.last() else { continue };
        let path: Vec<String> = points.iter().map(|(a, b)| format!("{a:.1} {b:.1}")).collect();
        add(format!(
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"{dash}/>",
            path.join("L")
        ));
        for (a, b) in &points {
            add(format!("<circle cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"{width}\" fill=\"{colour}\"/>"));
        }
        labels.push((end, line, colour));
    }
    // Each label beside the end of its line, or as near as those above it let it.
    labels.sort_by(|one, other| one.0.1.total_cmp(&other.0.1));
    let mut places: Vec<f64> = labels.iter().map(|label| label.0.1).collect();
    for at in 1..places.len() {
        places[at] = places[at].max(places[at - 1] + STEP);
    }
    let mut floor = BOTTOM;
    for place in places.iter_mut().rev() {
        *place = place.min(floor);
        floor = *place - STEP;
    }
    for ((end, line, colour), place) in labels.into_iter().zip(places) {
        let weight = if line.style == Style::Own { " font-weight=\"bold\"" } else { "" };
        add(format!(
            "<path d=\"M{:.1} {:.1}L{:.1} {place:.1}\" stroke=\"{colour}\" stroke-opacity=\".5\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\"{weight}>{}</text>",
            end.0 + 4.0,
            end.1,
            RIGHT + 22.0,
            RIGHT + 26.0,
            place + 4.0,
            line.name
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

fn number(value: f64) -> String {
    if value < 1.0 { value.to_string() } else { crate::tables::count(value as i64) }
}
