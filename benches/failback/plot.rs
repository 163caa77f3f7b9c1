//! The plot of a failback: two panels over one time axis, as SVG.

use std::fmt::Write as _;

use super::course::{Course, Moment};

/// The whole picture, in pixels.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 640.0;
/// Where panels begin and end from left to right; legends stand to their right.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 640.0;
/// Where each panel begins and ends from top to bottom.
const UPPER: (f64, f64) = (46.0, 296.0);
const LOWER: (f64, f64) = (346.0, 586.0);
/// Colours that can be told apart by anybody: blue, green, vermilion.
const BLUE: &str = "#0072b2";
const GREEN: &str = "#009e73";
const VERMILION: &str = "#d55e00";
const GREY: &str = "#888888";
/// Members of the home pool, then of the twin.
const MEMBERS: [&str; 6] = [
    "#08519c", "#3182bd", "#6baed6", "#a63603", "#e6550d", "#fd8d3c",
];

/// A panel: what its axes span, and where.
struct Panel {
    top: f64,
    bottom: f64,
    from: f64,
    to: f64,
    most: f64,
}

/// Draws it; `names` are the members'.
pub(crate) fn svg(course: &Course, names: &[String]) -> String {
    let from = course.moments.first().map_or(0.0, |first| first.at);
    let to = course.moments.last().map_or(1.0, |last| last.at);
    let held = course.moments.iter().flat_map(|m| m.held.iter().copied());
    let most_held = held.max().unwrap_or(0) as f64;
    let panel = |(top, bottom): (f64, f64), most: f64| Panel {
        top,
        bottom,
        from,
        to,
        most: round_up(most),
    };
    let upper = panel(UPPER, course.all as f64);
    // Room above it, so that it is not lost in the frame.
    let rates = panel(UPPER, 1.1 * course.most(|moment| moment.rate));
    let percent = Panel {
        most: 100.0,
        ..panel(UPPER, 1.0)
    };
    let lower = panel(LOWER, most_held);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let title = format!("Failback of {} sessions", course.all);
    text(&mut out, LEFT, 20.0, "start", "#000000", &title);
    upper.frame(&mut out, "sessions moved");
    rates.right_axis(&mut out, "sessions moved per second", VERMILION);
    let line = |out: &mut String, panel: &Panel, colour, of: &dyn Fn(&Moment) -> Option<f64>| {
        panel.line(out, course, colour, of);
    };
    line(&mut out, &percent, GREY, &|m| m.short_home);
    line(&mut out, &percent, GREEN, &|m| Some(m.share));
    line(&mut out, &rates, VERMILION, &|m| Some(m.rate));
    line(&mut out, &upper, BLUE, &|m| Some(m.moved as f64));
    lower.frame(&mut out, "sessions on each member");
    for (index, colour) in MEMBERS.iter().enumerate() {
        line(&mut out, &lower, colour, &|m| {
            m.held.get(index).map(|held| *held as f64)
        });
    }
    text(
        &mut out,
        (LEFT + RIGHT) / 2.0,
        LOWER.1 + 38.0,
        "middle",
        "#000000",
        "seconds since the order",
    );
    for (panel, what) in [(&upper, "order"), (&lower, "")] {
        panel.mark(&mut out, 0.0, what);
    }
    let legend = [
        (BLUE, "sessions moved"),
        (VERMILION, "moved per second"),
        (GREEN, "clients sent home"),
        (GREY, "new connections at home"),
    ];
    let mut row = UPPER.0 + 10.0;
    for (colour, what) in legend {
        key(&mut out, row, colour, what);
        row += 18.0;
    }
    text(
        &mut out,
        RIGHT + 86.0,
        row - 4.0,
        "start",
        "#000000",
        "(both from 0 to 100 %)",
    );
    let mut row = LOWER.0 + 10.0;
    for (colour, name) in MEMBERS.iter().zip(names) {
        key(&mut out, row, colour, name);
        row += 18.0;
    }
    out + "</svg>\n"
}

impl Panel {
    fn x(&self, at: f64) -> f64 {
        LEFT + (at - self.from) / (self.to - self.from).max(1e-9) * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        self.bottom - value / self.most * (self.bottom - self.top)
    }

    /// Box, grid and the axes at its left and bottom.
    fn frame(&self, out: &mut String, what: &str) {
        for tick in ticks(0.0, self.most) {
            let y = self.y(tick);
            rule(out, (LEFT, y), (RIGHT, y), "#e0e0e0");
            text(
                out,
                LEFT - 6.0,
                y + 4.0,
                "end",
                "#000000",
                &tick.to_string(),
            );
        }
        for tick in ticks(self.from, self.to) {
            let x = self.x(tick);
            rule(out, (x, self.bottom), (x, self.bottom + 4.0), "#000000");
            let label = tick.to_string();
            text(out, x, self.bottom + 17.0, "middle", "#000000", &label);
        }
        let (width, height) = (RIGHT - LEFT, self.bottom - self.top);
        element(
            out,
            &format!(
                "rect x=\"{LEFT}\" y=\"{}\" width=\"{width}\" height=\"{height}\" fill=\"none\" \
                 stroke=\"#000000\"",
                self.top
            ),
        );
        text(out, LEFT, self.top - 8.0, "start", "#000000", what);
    }

    fn right_axis(&self, out: &mut String, what: &str, colour: &str) {
        for tick in ticks(0.0, self.most) {
            let y = self.y(tick);
            rule(out, (RIGHT, y), (RIGHT + 4.0, y), colour);
            text(
                out,
                RIGHT + 8.0,
                y + 4.0,
                "start",
                colour,
                &tick.to_string(),
            );
        }
        text(out, RIGHT, self.top - 8.0, "end", colour, what);
    }

    /// A line through all moments at which there is a value.
    fn line(
        &self,
        out: &mut String,
        course: &Course,
        colour: &str,
        of: &dyn Fn(&Moment) -> Option<f64>,
    ) {
        let mut points = String::new();
        for moment in &course.moments {
            if let Some(value) = of(moment) {
                let (x, y) = (self.x(moment.at), self.y(value));
                write!(points, "{x:.1},{y:.1} ").expect("a String takes everything");
            }
        }
        let points = points.trim_end();
        element(
            out,
            &format!(
                "polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" points=\"{points}\""
            ),
        );
    }

    /// A vertical line at a moment.
    fn mark(&self, out: &mut String, at: f64, what: &str) {
        let x = self.x(at);
        rule(out, (x, self.top), (x, self.bottom), GREY);
        text(out, x + 4.0, self.top + 14.0, "start", GREY, what);
    }
}

/// A row of a legend.
fn key(out: &mut String, y: f64, colour: &str, what: &str) {
    let x = RIGHT + 62.0;
    element(
        out,
        &format!(
            "rect x=\"{x}\" y=\"{}\" width=\"18\" height=\"4\" fill=\"{colour}\"",
            y - 6.0
        ),
    );
    text(out, x + 24.0, y, "start", "#000000", what);
}

fn rule(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    element(
        out,
        &format!(
            "line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"",
            from.0, from.1, to.0, to.1
        ),
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, colour: &str, what: &str) {
    writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{what}</text>"
    )
    .expect("a String takes everything");
}

fn element(out: &mut String, inner: &str) {
    writeln!(out, "<{inner}/>").expect("a String takes everything");
}

/// Four to nine round numbers within a span.
fn ticks(from: f64, to: f64) -> Vec<f64> {
    let step = step(to - from);
    let first = (from / step).ceil() as i64;
    let last = (to / step).floor() as i64;
    (first..=last).map(|n| n as f64 * step).collect()
}

/// A fifth of a span or so, as 1, 2 or 5 times a power of ten.
fn step(span: f64) -> f64 {
    let power = 10_f64.powf((span / 5.0).max(1e-9).log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter();
    let steps = factor.map(|factor| factor * power);
    steps
        .into_iter()
        .find(|step| span / step <= 8.0)
        .unwrap_or(10.0 * power)
}

/// The next round number, for the end of an axis.
fn round_up(most: f64) -> f64 {
    let most = if most.is_finite() { most.max(1.0) } else { 1.0 };
    let step = step(most);
    (most / step).ceil() * step
}
