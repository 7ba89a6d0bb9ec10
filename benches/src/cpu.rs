//! What a process has computed.

use anyhow::{Context, Result};

/// Ticks of the kernel's clock in a second, as Linux tells them to programs.
const TICKS: f64 = 100.0;

/// CPU time of a process so far, in seconds: its own, in both modes, without its children's.
///
/// # Errors
/// If the process is gone.
pub(crate) fn seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in the stat")?;
    let ticks =
        |at: usize| -> Result<f64> { Ok(fields.split_whitespace().nth(at).context("too short a stat")?.parse()?) };
    // After the name: the state is field 0, user time field 11, system time field 12.
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_computes_has_used_time() {
        let before = seconds(std::process::id()).expect("this process");
        let began = std::time::Instant::now();
        while seconds(std::process::id()).expect("this process") - before < 0.05 {
            assert!(began.elapsed().as_secs() < 60, "no time was counted");
        }
    }
}
