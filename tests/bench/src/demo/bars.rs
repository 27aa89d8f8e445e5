//! Two figures beside each other, as bars.

use crate::quick::Figure;

/// Columns of the name before a bar.
const NAME: usize = 9;
/// Columns of the longest bar: the value behind it needs the rest of [`WIDTH`](super::screen::WIDTH).
const LONGEST: u32 = 53;

/// Each figure as a title and two bars, the longer of which is as long as the line allows.
pub(super) fn lines(figures: &[Figure]) -> Vec<String> {
    figures.iter().flat_map(of).collect()
}

fn of(figure: &Figure) -> [String; 3] {
    let Figure {
        title,
        unit,
        kernel,
        overlay,
    } = figure;
    let most = kernel.max(*overlay);
    let line = |name: &str, value: f64| {
        let bar = "█".repeat(columns(value, most));
        format!("  {name:<NAME$}{bar} {value:.1} {unit}")
    };
    let ratio = if *kernel > 0.0 { overlay / kernel } else { 0.0 };
    [
        format!("{title}: {ratio:.2} times the kernel's"),
        line("kernel", *kernel),
        line("overlay", *overlay),
    ]
}

/// How long the bar of a value is where `most` fills the line.
fn columns(value: f64, most: f64) -> usize {
    let ends = (1..=LONGEST).map(|column| f64::from(column) / f64::from(LONGEST) * most);
    ends.take_while(|end| *end <= value && most > 0.0).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::screen::WIDTH;

    fn figure(kernel: f64, overlay: f64) -> Figure {
        Figure {
            title: "TCP, one stream",
            unit: "Gb/s",
            kernel,
            overlay,
        }
    }

    #[test]
    fn bars_are_as_long_as_their_figures_and_no_line_is_wider_than_a_terminal() {
        for (kernel, overlay) in [(28.1, 43.7), (154.0, 395.0), (0.0, 0.0), (99_999.9, 1.0)] {
            for line in lines(&[figure(kernel, overlay)]) {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
        let [_, kernel, overlay] = of(&figure(20.0, 40.0));
        let bar = |line: &str| line.chars().filter(|c| *c == '█').count();
        assert_eq!((bar(&kernel), bar(&overlay)), (26, 53));
    }
}
