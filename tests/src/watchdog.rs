//! Ends what a test process started even if that process is killed.

use std::{
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

/// `read` returns when the pipe to the test process closes, and the kernel closes it however that process ends. The loop
/// gives the victim at most five seconds before its directory goes.
const SCRIPT: &str = r#"
read -r _
kill -s "$1" "$2" 2>/dev/null
[ -n "$3" ] || exit 0
left=50
while kill -0 "$2" 2>/dev/null && [ "$left" -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
rm -rf "$3"
"#;

/// A tiny shell that outlives us just long enough to clean up. Dropping it calls it off.
#[derive(Debug)]
pub struct Watchdog(Child);

impl Watchdog {
    /// When this process ends: sends `signal` to `pid`, then removes `directory`.
    ///
    /// # Errors
    /// If no shell can be started.
    pub fn over(pid: u32, signal: &str, directory: Option<&Path>) -> io::Result<Self> {
        Command::new("/bin/sh")
            .args(["-c", SCRIPT, "watchdog", signal, &pid.to_string()])
            .arg(directory.unwrap_or(Path::new("")))
            // Out of the terminal's reach: Ctrl-C must end the test process, not this.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Killed before its pipe closes, so that it does nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
