//! The program of command tasks: it tells when it runs, in a file, and who it is, in its output.
//!
//! Its prompt is a number of lines. Each takes a moment; its runs can be told apart by a random name.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result};
use uuid::Uuid;

use super::history::Stamp;

/// Time between two signs of life.
const TICK: Duration = Duration::from_millis(20);

/// Signs of life for each line.
const TICKS_PER_LINE: u32 = 5;

/// How long a line takes.
#[must_use]
pub fn line_time() -> Duration {
    TICK * TICKS_PER_LINE
}

/// Runs as the program: reads the prompt, prints its lines, and stamps `file` all the while.
///
/// # Errors
/// If the file can't be written, or the prompt is no number.
pub fn run(file: &Path) -> Result<()> {
    let task = std::env::var("ERRAND_TASK_ID").context("ERRAND_TASK_ID")?;
    let run = Uuid::new_v4().simple().to_string();
    // Appended in one write each: lines of runs at one time don't mix.
    let mut file = File::options().create(true).append(true).open(file)?;
    let mut stamp = || -> io::Result<()> {
        let line = format!("{task} {run} {}\n", chrono::Utc::now().timestamp_micros());
        file.write_all(line.as_bytes())
    };
    stamp()?;
    let mut prompt = String::new();
    io::stdin().read_to_string(&mut prompt)?;
    let lines: u32 = prompt.trim().parse().context("the prompt is a number of lines")?;
    let mut output = io::stdout().lock();
    for line in 1..=lines {
        for _ in 0..TICKS_PER_LINE {
            sleep(TICK);
            stamp()?;
        }
        writeln!(output, "{run} {line}/{lines}")?;
        output.flush()?;
    }
    stamp()?;
    Ok(())
}

/// What the runs have written; nothing if none has run.
///
/// # Errors
/// If the file can't be read or holds something else.
pub fn read(file: &Path) -> Result<Vec<Stamp>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(file)?;
    text.lines().map(|line| parse(line).with_context(|| format!("a stamp: {line:?}"))).collect()
}

fn parse(line: &str) -> Option<Stamp> {
    let mut fields = line.split(' ');
    let job = fields.next()?.parse().ok()?;
    let run = fields.next()?.to_owned();
    let at = fields.next()?.parse().ok()?;
    Some(Stamp { job, run, at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let job = Uuid::new_v4();
        let stamp = parse(&format!("{job} abc 17")).expect("a stamp");
        assert_eq!(stamp, Stamp { job, run: "abc".to_owned(), at: 17 });
        assert_eq!(parse("abc 17"), None);
    }
}
