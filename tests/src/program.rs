//! Small programs for the `command` engine, and gates that hold them until the test says so.

use std::fs;

use tempfile::TempDir;

/// A directory of programs.
#[derive(Debug)]
pub struct Programs(TempDir);

/// Prints slowly: ten words, one every 100 ms.
pub const SLOW_PRINTER: &str = "for word in 1 2 3 4 5 6 7 8 9 10; do echo \"word-$word\"; sleep 0.1; done";

/// Says what it was asked.
pub const REPEATER: &str = "cat";

/// Starts children that try to get away: in sessions of their own, orphaned twice over, deaf to polite signals.
pub const SPAWNER: &str = r#"
cat >/dev/null
setsid sleep 600 &
setsid sh -c 'setsid sleep 601 & sleep 602' &
sh -c '( (sleep 603 &) & )'
setsid sh -c 'trap "" TERM HUP INT; sleep 604; sleep 605' &
echo "the first half"
sleep 606
"#;

/// Complains and fails.
pub const FAILING: &str = "cat >/dev/null; echo 'some output'; echo 'the disk is on fire' >&2; exit 3";

/// Prints for ever.
pub const FLOODER: &str = "cat >/dev/null; while :; do echo 'all work and no play makes a dull program'; done";

/// Prints what is no UTF-8, and a NUL.
pub const GARBLER: &str = "cat >/dev/null; printf 'before \\377\\376 between \\000 after\\n'";

/// Never reads what it is asked and stays.
pub const HANGING: &str = "sleep 607";

/// Shows its environment and its directory.
pub const REVEALER: &str = "cat >/dev/null; env; pwd";

impl Programs {
    /// An empty directory.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a directory, which a default should not")]
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("errand-programs-").tempdir().expect("a directory for programs"))
    }

    /// Writes a shell program and returns the lines that configure a `command` engine with it.
    ///
    /// # Panics
    /// If it can't be written.
    #[must_use]
    pub fn engine(&self, name: &str, script: &str) -> String {
        let file = self.0.path().join(name);
        fs::write(&file, script).expect("the program is written");
        // Through the shell's argument, not as an executable of its own: another thread that forks meanwhile would hold
        // the file open for writing, and the kernel refuses to execute such a file.
        format!("type = \"command\"\ncommand = [\"/bin/sh\", {:?}]", file.display().to_string())
    }

    /// A program that prints `before`, waits for [`Programs::open_gate`], and prints `after`.
    #[must_use]
    pub fn gated_engine(&self, name: &str, before: &str, after: &str) -> String {
        let gate = self.0.path().join(format!("{name}.gate"));
        let script = format!(
            "cat >/dev/null\necho '{before}'\nwhile [ ! -e '{}' ]; do sleep 0.02; done\necho '{after}'\n",
            gate.display()
        );
        self.engine(name, &script)
    }

    /// A program that waits for [`Programs::open_gate`] and then prints `bytes` bytes at once.
    #[must_use]
    pub fn gated_flood(&self, name: &str, bytes: usize) -> String {
        let gate = self.0.path().join(format!("{name}.gate"));
        let script = format!(
            "cat >/dev/null\nwhile [ ! -e '{}' ]; do sleep 0.02; done\nyes '{}' | head -c {bytes}\n",
            gate.display(),
            "all work and no play makes a dull program ".repeat(20)
        );
        format!("{}\noutput_limit_kib = {}", self.engine(name, &script), bytes / 1024 + 1)
    }

    /// Lets a gated program go on, now and for ever.
    ///
    /// # Panics
    /// If that can't be told.
    pub fn open_gate(&self, name: &str) {
        fs::write(self.0.path().join(format!("{name}.gate")), "").expect("the gate is opened");
    }

    /// Where a file of this directory is.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}
