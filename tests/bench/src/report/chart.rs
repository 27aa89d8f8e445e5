//! The chart: one panel a metric, in it a group of bars for each setting of the underlay.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::digits;
use crate::lab::Mode;
use crate::measure::Metric;
use crate::statistics::Samples;
use crate::underlay::Offloads;

const PANELS: [Metric; 6] = [
    Metric::TcpOneStream,
    Metric::TcpEightStreams,
    Metric::FloodRate,
    Metric::DatagramRate,
    Metric::FloodCpu,
    Metric::RrP50,
];
/// Panels side by side.
const COLUMNS: usize = 3;
/// Width and height of a panel, pixels.
const PANEL: (u32, u32) = (400, 320);
/// Height of the legend, pixels.
const LEGEND: u32 = 44;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws the medians, with whiskers from the least to the most.
pub(super) fn draw(samples: &Samples) -> Result<String> {
    let panels: Vec<_> = PANELS
        .into_iter()
        .filter(|metric| samples.0.iter().any(|sample| sample.metric == *metric))
        .collect();
    let rows = panels.len().div_ceil(COLUMNS).max(1);
    let width = PANEL.0 * u32::try_from(COLUMNS)?;
    let height = LEGEND + PANEL.1 * u32::try_from(rows)?;

    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        draw_on(&root, rows, &panels, samples)
            .map_err(|error| anyhow!("drawing the chart: {error}"))?;
    }
    Ok(svg)
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw_on(root: &Area<'_>, rows: usize, panels: &[Metric], samples: &Samples) -> Drawn {
    root.fill(&WHITE)?;
    let (legend, rest) = root.split_vertically(LEGEND);
    draw_legend(&legend)?;
    for (panel, metric) in rest.split_evenly((rows, COLUMNS)).iter().zip(panels) {
        draw_panel(panel, samples, *metric)?;
    }
    root.present()?;
    Ok(())
}

fn colour(mode: Mode) -> RGBColor {
    match mode {
        Mode::Bare => RGBColor(160, 166, 173),
        Mode::Kernel => RGBColor(76, 120, 168),
        Mode::Overlay => RGBColor(245, 133, 24),
    }
}

fn draw_legend(area: &Area<'_>) -> Drawn {
    const ENTRY: usize = 190;
    const MARK: i32 = 14;
    for (mode, left) in Mode::ALL.into_iter().zip((24..).step_by(ENTRY)) {
        let title = match mode {
            Mode::Bare => "bare underlay",
            Mode::Kernel => "kernel VXLAN + bridge",
            Mode::Overlay => "overlay",
        };
        area.draw(&Rectangle::new(
            [(left, 16), (left + MARK, 16 + MARK)],
            colour(mode).filled(),
        ))?;
        area.draw(&Text::new(title, (left + MARK + 6, 17), font(15)))?;
    }
    Ok(())
}

fn font<'a>(size: u32) -> TextStyle<'a> {
    ("sans-serif", size).into_font().color(&BLACK)
}

fn draw_panel(area: &Area<'_>, samples: &Samples, metric: Metric) -> Drawn {
    /// Width of a setting's group in bars, the gap to the next one included.
    const GROUP: f64 = 4.0;
    /// The vertical axis goes so far beyond the highest figure.
    const HEAD_ROOM: f64 = 1.2;

    let settings: Vec<_> = Offloads::ALL
        .into_iter()
        .filter(|offloads| {
            Mode::ALL
                .iter()
                .any(|mode| samples.summary(*offloads, metric, *mode).is_some())
        })
        .collect();
    let highest = samples
        .0
        .iter()
        .filter(|sample| sample.metric == metric)
        .map(|sample| sample.value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let top = highest * HEAD_ROOM;
    let lefts = std::iter::successors(Some(0.0), |left| Some(left + GROUP));
    let right = lefts.clone().nth(settings.len()).unwrap_or(GROUP);

    let better = if metric.more_is_better() {
        "more is better"
    } else {
        "less is better"
    };
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!("{}, {} ({better})", metric.title(), metric.unit()),
            font(16),
        )
        .margin(12)
        .margin_right(28)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .y_labels(6)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .label_style(font(13))
        .draw()?;

    for (offloads, left) in settings.into_iter().zip(lefts) {
        chart.draw_series([Text::new(
            offloads.title(),
            (left + GROUP / 2.0, top * 0.985),
            font(14).pos(Pos::new(HPos::Center, VPos::Top)),
        )])?;
        for (mode, bar) in Mode::ALL.into_iter().zip([0.5, 1.5, 2.5]) {
            let Some(summary) = samples.summary(offloads, metric, mode) else {
                continue;
            };
            let (from, middle, to) = (left + bar + 0.06, left + bar + 0.5, left + bar + 0.94);
            chart.draw_series([Rectangle::new(
                [(from, 0.0), (to, summary.median)],
                colour(mode).filled(),
            )])?;
            chart.draw_series([PathElement::new(
                [(middle, summary.min), (middle, summary.max)],
                BLACK.stroke_width(2),
            )])?;
            chart.draw_series([Text::new(
                format!("{:.1$}", summary.median, digits(summary.median)),
                (middle, summary.max + top * 0.01),
                font(12).pos(Pos::new(HPos::Center, VPos::Bottom)),
            )])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Sample;

    #[test]
    fn the_chart_is_an_svg_with_a_panel_for_what_was_measured() {
        let samples = Samples(vec![Sample {
            round: 1,
            offloads: Offloads::On,
            mode: Mode::Kernel,
            metric: Metric::FloodRate,
            value: 130.0,
        }]);
        let svg = draw(&samples).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains(Metric::FloodRate.title()));
        assert!(!svg.contains(Metric::RrP50.title()));
    }
}
