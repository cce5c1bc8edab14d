//! Watching over the bed: its own hang or death is told apart from that of the command in it.
//!
//! The bed shows a sign of life every few seconds, whatever the command does: a heartbeat on its console, or the
//! command's own lines. While there are signs, a command that takes too long is the command's fault; when they
//! cease, the bed hangs. Both are errors with a sentence of their own, and neither is tried again.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::error::Error;

/// What the bed's heartbeat looks like on its console.
pub(super) const BEAT: &str = "kiwi.beat";

/// No sign of life for so long is a hang, even on a machine with other things to do.
const SILENCE: Duration = Duration::from_secs(240);

/// How the bed's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself.
    Itself,
    /// The command took longer than it may; the bed was alive.
    Late(Duration),
    /// The bed gave no sign of life.
    Silent(Duration),
}

/// Waits for the bed's end, or ends it. `signs` is a number that grows while the bed lives.
pub(super) fn wait(child: &mut Child, limit: Duration, mut signs: impl FnMut() -> u64) -> Ended {
    let start = Instant::now();
    let (mut last, mut seen) = (signs(), start);
    loop {
        if !matches!(child.try_wait(), Ok(None)) {
            return Ended::Itself;
        }
        let now = signs();
        if now != last {
            (last, seen) = (now, Instant::now());
        }
        let ended = if seen.elapsed() >= SILENCE {
            Ended::Silent(SILENCE)
        } else if start.elapsed() >= limit {
            Ended::Late(limit)
        } else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let _ = child.kill();
        let _ = child.wait();
        return ended;
    }
}

/// How much a console's log holds.
pub(super) fn length(console: &Path) -> u64 {
    fs::metadata(console).map_or(0, |m| m.len())
}

/// The error for a bed that has ended without the command's status.
pub(super) fn failure(ended: Ended, console: &Path) -> Error {
    let text = fs::read(console).map(|raw| String::from_utf8_lossy(&raw).into_owned()).unwrap_or_default();
    Error::new(format!("{}{}", sentence(ended), tail(&text)))
}

fn sentence(ended: Ended) -> String {
    match ended {
        Ended::Itself => "THE TEST BED DIED: it ended without the command's status".to_owned(),
        Ended::Silent(limit) => {
            format!("THE TEST BED HANGS: no sign of life for {} s", limit.as_secs())
        }
        Ended::Late(limit) => format!(
            "the command in the test bed took longer than {} s; the bed itself was alive",
            limit.as_secs()
        ),
    }
}

fn tail(console: &str) -> String {
    let said = |line: &&str| !line.trim().is_empty() && !line.contains(BEAT);
    let last: Vec<&str> = console.lines().rev().filter(said).take(15).collect();
    let lines: String = last.iter().rev().map(|line| format!("\n  {}", line.trim_end())).collect();
    if lines.is_empty() {
        ". Its console is empty".to_owned()
    } else {
        format!(". Its console ended with:{lines}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_bed_that_ends_is_told_from_one_whose_command_is_late() {
        let mut quick = Command::new("true").spawn().expect("started");
        assert_eq!(wait(&mut quick, Duration::from_secs(60), || 0), Ended::Itself);
        let mut slow = Command::new("sleep").arg("60").spawn().expect("started");
        let limit = Duration::from_millis(50);
        assert_eq!(wait(&mut slow, limit, || 0), Ended::Late(limit));
    }

    #[test]
    fn the_console_is_shown_without_its_heartbeat() {
        let text = format!("Kernel panic\r\n{BEAT} 1\r\n\r\n{BEAT} 2\r\n");
        assert!(tail(&text).ends_with("ended with:\n  Kernel panic"));
    }

    #[test]
    fn every_end_has_its_own_sentence() {
        let second = Duration::from_secs(1);
        let all = [Ended::Itself, Ended::Late(second), Ended::Silent(second)].map(sentence);
        assert!(all[0].contains("DIED") && all[1].contains("command") && all[2].contains("HANGS"));
    }
}
