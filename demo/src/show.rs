//! One line of text for each thing that happens; colours are left out by the stream where nobody sees them.

use std::fmt;
use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use microlambda_runtime::{counted, printable};
use microlambda_wire::{EventKind, FrameSummary};

use crate::options::{DEFAULT_R_LIMIT_MS, FRAME_BYTES_LEAST};
use crate::tally::{News, Step};

/// Cells of the bar that shows how much of the limit was used.
const BAR_CELLS: u64 = 10;
/// So many frames of a step are named, the rest is counted.
const LABELS_MAX: usize = 3;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const MARK: Style = AnsiColor::Yellow.on_default();
/// Nodes in the order of their letters.
const NODES: [AnsiColor; 5] =
    [AnsiColor::Cyan, AnsiColor::Magenta, AnsiColor::Blue, AnsiColor::Green, AnsiColor::Yellow];

/// Prints a line. A reader that has gone away does not end the job.
macro_rules! say {
    ($($part:tt)*) => { $crate::show::line(format_args!($($part)*)) };
}
pub(crate) use say;

/// What [`say`] does.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(anstream::stdout(), "{text}");
}

/// `text` in `style`, and everything behind it plain.
fn styled(style: Style, text: impl fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// A node's name in its own colour, padded to `width`.
fn node(name: &str, width: usize) -> String {
    let letter = usize::from(name.bytes().last().unwrap_or(0).wrapping_sub(b'a'));
    styled(NODES[letter % NODES.len()].on_default(), format!("{name:<width$}"))
}

/// The line that stands above a part of the output.
pub fn heading(text: &str) -> String {
    styled(BOLD, text)
}

/// Something that went as it should.
pub fn good(text: &str) -> String {
    styled(GOOD, text)
}

/// Something that did not.
pub fn bad(text: &str) -> String {
    styled(BAD, text)
}

/// Something that the demo itself did to the job.
pub fn deed(text: &str) -> String {
    styled(MARK, format!("* {text}"))
}

/// The line for a message that is not ours.
pub fn refused(topic: &str, why: &str) -> String {
    bad(&format!("! refused a message on {}: {}", printable(topic), printable(why)))
}

/// The line for a broker that has gone; one that is not ours may have bounds of its own.
pub fn lost(why: &str, external: bool) -> String {
    let hint = "; if it goes at a large picture, let it take messages of 17 MiB, or lower `--frame-bytes-max`";
    bad(&format!("! the broker is gone: {}{}", printable(why), if external { hint } else { "" }))
}

/// The line for a piece of news; `None` if it is not worth one.
pub fn news(news: &News) -> Option<String> {
    Some(match news {
        News::Chain(head) => styled(DIM, format!("camera {} offers chain {}", head.camera, head.chain)),
        News::InputEnds(count) => styled(DIM, format!("the input ends after {}", counted(*count, "frame"))),
        News::PassedOver(count) => bad(&format!("! {} passed over so far", pictures_were(*count))),
        News::Step(step) => self::step(step),
        News::TakeOver { claim, from } => {
            let text = format!("* {} takes step {} over from {from} (epoch {})", claim.node, claim.step, claim.epoch);
            styled(MARK, text)
        }
        News::Failed { node, step, why } => bad(&format!("! {node} failed at {step}: {}", printable(why))),
        News::Event(event) => {
            let what = match event.kind {
                EventKind::NewFace => styled(GOOD, "new"),
                EventKind::Recognised => "again".to_string(),
            };
            format!("      {what} person {} in {}", short(event.face.as_str()), printable(&event.label))
        }
        News::NodeUp(name) => styled(DIM, format!("{name} is online")),
        News::NodeDown(name) => styled(DIM, format!("{name} is offline")),
        News::Trouble { who, what } => bad(&format!("! {who}: {}", trouble(what))),
        News::Done(_) => return None,
    })
}

/// The line of a step: number, node, use of the limit, claim and commit, what was finished, who is new.
pub fn step(step: &Step) -> String {
    let timing = &step.timing;
    let over = timing.used_us > timing.r_limit_us;
    let bar = bar(timing.used_us, timing.r_limit_us);
    let bar = if over { styled(BAD, bar) } else { bar };
    let new: u32 = step.frames.iter().map(|frame| frame.new_people).sum();
    let new = if new > 0 { format!("  {}", styled(GOOD, format!("+{new} new"))) } else { String::new() };
    let moved = if step.moved { ">" } else { " " };
    format!(
        "step {:>4} {moved} {} [{bar}] {:>4}/{} ms {:>3} {:<5}  claim {:>5} ms  commit {:>5} ms  {}{new}",
        step.number,
        node(step.node.as_str(), 8),
        timing.used_us / 1_000,
        timing.r_limit_us / 1_000,
        timing.units,
        if timing.units == 1 { "unit" } else { "units" },
        tenths_ms(timing.claim_us),
        tenths_ms(timing.commit_us),
        frames(&step.frames),
    )
}

/// Filled in proportion to the use of the limit; the last cell shows `!` beyond it.
fn bar(used_us: u64, limit_us: u64) -> String {
    let cells = (used_us.saturating_mul(BAR_CELLS) / limit_us.max(1)).min(BAR_CELLS);
    let mut text: String = (0..BAR_CELLS).map(|cell| if cell < cells { '#' } else { '.' }).collect();
    if used_us > limit_us {
        text.pop();
        text.push('!');
    }
    text
}

fn tenths_ms(us: u64) -> String {
    format!("{}.{}", us / 1_000, us % 1_000 / 100)
}

fn frames(frames: &[FrameSummary]) -> String {
    if frames.is_empty() {
        return styled(DIM, "inside a frame");
    }
    let label = |frame: &FrameSummary| {
        if frame.label.is_empty() { format!("#{}", frame.sequence) } else { printable(&frame.label) }
    };
    let named: Vec<String> = frames.iter().take(LABELS_MAX).map(label).collect();
    let rest = frames.len().saturating_sub(LABELS_MAX);
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{}{rest}", named.join(", "))
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// How a setting is named by an agent that cannot work with it, and what it says before the least that it needs.
const LIMIT: &str = "r-limit-ms = ";
const LIMIT_LEAST: &str = "raise it to at least ";
/// How a camera names the setting that a broker or a link does not bear.
const FRAME: &str = "lower bytes-max in [frame]";
/// What it says before the length of the frame that did not pass.
const FRAME_BYTES: &str = "a frame of ";
/// A picture of so many bytes passes a broker that takes packets of 1 MB.
const PASSING_BYTES: u64 = 900_000;

/// What an agent says is wrong. Where the remedy is a setting that the demo makes, how to make it here.
pub fn trouble(what: &str) -> String {
    let here = larger_limit(what).or_else(|| shorter_frames(what));
    format!("{}{}", printable(what), here.unwrap_or_default())
}

/// Twice the limit there was, or what the agent says is needed.
fn larger_limit(what: &str) -> Option<String> {
    let least_ms = number_behind(LIMIT_LEAST, what).unwrap_or(DEFAULT_R_LIMIT_MS);
    let ms = number_behind(LIMIT, what)?.saturating_mul(2).max(least_ms).max(DEFAULT_R_LIMIT_MS);
    Some(format!("; here: `--r-limit-ms {ms}`, or `make demo R_LIMIT_MS={ms}`"))
}

/// Half of what did not pass, or what mostly does.
fn shorter_frames(what: &str) -> Option<String> {
    what.contains(FRAME).then(|| {
        let half = number_behind(FRAME_BYTES, what).map_or(PASSING_BYTES, |bytes| bytes / 2);
        let bytes = half.clamp(FRAME_BYTES_LEAST.into(), PASSING_BYTES);
        format!("; here: `--frame-bytes-max {bytes}`, or `make demo FRAME_BYTES_MAX={bytes}`")
    })
}

fn number_behind(mark: &str, text: &str) -> Option<u64> {
    let (_, after) = text.split_once(mark)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// `1 picture was`, `2 pictures were`.
pub fn pictures_were(count: u64) -> String {
    format!("{} {}", counted(count, "picture"), if count == 1 { "was" } else { "were" })
}

#[cfg(test)]
mod tests {
    use microlambda::{Head, Version};
    use microlambda_wire::StepTiming;

    use super::*;
    use crate::tally::tests::name;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn frame(label: &str, new_people: u32) -> FrameSummary {
        FrameSummary { sequence: 9, label: label.into(), faces: 1, usable: 1, new_people }
    }

    fn sample(used_us: u64, frames: Vec<FrameSummary>) -> Step {
        Step {
            number: 12,
            node: name("node-b"),
            head: Head::genesis(microlambda::Digest::default()),
            timing: StepTiming {
                r_limit_us: 400_000,
                used_us,
                units: 4,
                claim_us: 6_210,
                commit_us: 950,
                ..StepTiming::default()
            },
            frames,
            moved: true,
        }
    }

    #[test]
    fn a_step_s_line_has_everything_in_its_column() {
        let line = plain(&step(&sample(312_000, vec![frame("obama.jpg", 1), frame("", 0)])));
        assert_eq!(
            line,
            "step   12 > node-b   [#######...]  312/400 ms   4 units  claim   6.2 ms  commit   0.9 ms  obama.jpg, #9  +1 new"
        );
        assert!(plain(&step(&sample(1, vec![]))).ends_with("inside a frame"));
    }

    #[test]
    fn an_overrun_and_many_frames_are_shown() {
        let frames = ["a", "b", "c", "d", "e"].map(|label| frame(label, 0)).to_vec();
        let line = plain(&step(&sample(400_001, frames)));
        assert!(line.contains("[#########!]") && line.ends_with("a, b, c and 2 more"), "{line}");
        assert_eq!(bar(0, 0), "..........");
        assert_eq!(bar(400, 400), "##########");
    }

    #[test]
    fn text_from_the_bus_cannot_drive_the_terminal() {
        let line =
            news(&News::Failed { node: name("a"), step: Version::at(3), why: "bad\n\u{1b}[2Jthing\u{7}".into() });
        let line = line.unwrap();
        let line = plain(&line);
        assert!(!line.contains(['\n', '\u{1b}', '\u{7}']), "{line:?}");
        let foreign = refused("microlambda/demo/\u{1b}]0;x\u{7}", "not\u{1b}[2Jours");
        assert!(foreign.contains("demo/\\u{1b}]0;x\\u{7}: not\\u{1b}[2Jours"), "{foreign:?}");
        assert!(line.contains("0.3.0") && line.contains("\\u{1b}[2Jthing"), "{line}");
    }

    #[test]
    fn trouble_with_the_length_of_frames_says_how_to_set_it_here() {
        let text = |bytes: &str| {
            trouble(&format!(
                "the broker or the link ends the connection at {bytes}: raise the broker's limit for packets; or lower \
                 bytes-max in [frame], for new pictures, and give up those kept already (--new-job)"
            ))
        };
        let here = |bytes: u64| format!("; here: `--frame-bytes-max {bytes}`, or `make demo FRAME_BYTES_MAX={bytes}`");
        for (said, bytes) in [("3145728", 900_000), ("500000", 250_000), ("20000", 16_384)] {
            let text = text(&format!("a frame of {said} bytes"));
            assert!(text.ends_with(&here(bytes)), "{text}");
        }
        assert!(text("a picture").ends_with(&here(900_000)));
    }

    #[test]
    fn trouble_with_the_limit_says_how_to_set_it_here() {
        let line = |what: &str| plain(&news(&News::Trouble { who: name("a"), what: what.into() }).unwrap());
        let expected = |limit_ms: u64, remedy: &str| {
            line(&format!(
                "searching a tile of 0.4 megapixels is expected to take 90 ms here, which r-limit-ms = {limit_ms} does not \
                 hold: {remedy}, or leave the work to a faster node"
            ))
        };
        let text = expected(10, "raise it to at least 90");
        assert!(text.starts_with("! a: searching a tile") && text.ends_with("R_LIMIT_MS=400`"), "{text}");
        let text = expected(1000, "raise it to at least 5200, lower frame.pixels-max of its camera");
        assert!(text.ends_with("--r-limit-ms 5200`, or `make demo R_LIMIT_MS=5200`"), "{text}");
        let killed = "a unit was killed after 8034 ms, which r-limit-ms = 8000 does not hold: raise it, or leave the work to a \
                      faster node";
        let text = line(killed);
        assert!(text.contains("--r-limit-ms 16000"), "{text}");
        assert_eq!(line("the disk is full"), "! a: the disk is full");
        assert_eq!(plain(&news(&News::PassedOver(1)).unwrap()), "! 1 picture was passed over so far");
    }
}
