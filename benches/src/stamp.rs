//! The program of command tasks: it tells in a file when it runs.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use errand_tests::Setup;

use crate::truth;

/// Time between two signs of life.
const TICK: Duration = Duration::from_millis(50);

/// How it was called.
#[derive(Args, Debug)]
pub(crate) struct Options {
    file: PathBuf,
    seconds: f64,
}

/// An engine that runs this for so long.
pub(crate) fn engine(setup: Setup, name: &str, file: &Path, lasts: Duration) -> Result<Setup> {
    let program = std::env::current_exe()?;
    let command =
        [&program.display().to_string(), "stamp", &file.display().to_string(), &lasts.as_secs_f64().to_string()];
    Ok(setup.engine(name, &format!("type = \"command\"\ncommand = {command:?}")))
}

/// Runs as the program.
///
/// # Errors
/// If the file can't be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    io::copy(&mut io::stdin(), &mut io::sink())?;
    let task = std::env::var("ERRAND_TASK_ID").context("ERRAND_TASK_ID")?;
    let mut file = File::options().create(true).append(true).open(&options.file)?;
    let started = Instant::now();
    loop {
        // In one write: lines of programs that run at one time don't mix.
        let line = format!("{task} {} {}\n", std::process::id(), truth::now());
        file.write_all(line.as_bytes())?;
        if started.elapsed().as_secs_f64() >= options.seconds {
            println!("done");
            return Ok(());
        }
        sleep(TICK);
    }
}

/// One life of the program: its first and its last sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Life {
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// The lives of each task's programs, oldest first.
///
/// # Errors
/// If the file can't be read or holds something else.
pub(crate) fn read(file: &Path) -> Result<BTreeMap<String, Vec<Life>>> {
    parse(&std::fs::read_to_string(file)?)
}

fn parse(text: &str) -> Result<BTreeMap<String, Vec<Life>>> {
    let mut lives: BTreeMap<(&str, &str), Life> = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [task, process, at] = fields[..] else { anyhow::bail!("not a stamp: {line:?}") };
        let at = at.parse()?;
        let life = lives.entry((task, process)).or_insert(Life { first: at, last: at });
        life.first = life.first.min(at);
        life.last = life.last.max(at);
    }
    let mut tasks: BTreeMap<String, Vec<Life>> = BTreeMap::new();
    for ((task, _), life) in lives {
        tasks.entry(task.to_owned()).or_default().push(life);
    }
    tasks.values_mut().for_each(|lives| lives.sort_by_key(|life| life.first));
    Ok(tasks)
}

/// Tasks of which two programs lived at one time.
pub(crate) fn beside_themselves(tasks: &BTreeMap<String, Vec<Life>>) -> Vec<String> {
    let overlaps = |lives: &[Life]| lives.windows(2).any(|pair| pair[1].first <= pair[0].last);
    tasks.iter().filter(|(_, lives)| overlaps(lives)).map(|(task, lives)| format!("task {task}: {lives:?}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_programs_of_one_task_at_one_time_are_found() {
        let apart = parse("a 1 10\nb 9 11\na 1 20\na 2 21\na 2 30\n").expect("stamps");
        assert_eq!(apart["a"], [Life { first: 10, last: 20 }, Life { first: 21, last: 30 }]);
        assert_eq!(beside_themselves(&apart), Vec::<String>::new());
        let beside = parse("a 1 10\nb 9 11\na 1 22\na 2 21\na 2 30\n").expect("stamps");
        assert_eq!(beside_themselves(&beside).len(), 1);
        assert!(parse("a 1").is_err());
    }
}
