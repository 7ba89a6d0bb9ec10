//! Finding the program, as the kernel will when it is started.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
};

use errand_common::domain::FailureClass;
use rustix::{
    fs::{Access, access},
    io::Errno,
};

/// Where programs are looked for by a process without `PATH`.
const PATH_IF_UNSET: &str = "/bin:/usr/bin";

/// A program as an engine's settings name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program<'a> {
    /// Its path or its name.
    pub(super) name: &'a str,
    /// The setting that says so.
    pub(super) setting: &'static str,
    /// The working directory it is started in; ours if unset.
    pub(super) cwd: Option<&'a Path>,
}

/// The file that will run in the environment `env`, or a sentence that says what to do.
pub(super) fn find(wanted: Program<'_>, env: &[(OsString, OsString)]) -> Result<PathBuf, String> {
    let Program { name: program, setting, cwd } = wanted;
    if program.is_empty() {
        return Err(format!("its command is empty; name a program in its `{setting}`"));
    }
    if let Some(cwd) = cwd.filter(|cwd| !cwd.is_dir()) {
        return Err(format!("its working directory {} does not exist; create it, or correct its `cwd`", cwd.display()));
    }
    let here = cwd.unwrap_or(Path::new("."));
    if program.contains('/') {
        let file = here.join(program);
        return match file {
            file if executable(&file) => Ok(file),
            file if file.exists() => Err(format!("{program} is not executable; try `chmod +x`")),
            _ => Err(format!("{program} does not exist; install it, or correct its `{setting}`")),
        };
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map_or(OsStr::new(PATH_IF_UNSET), |(_, value)| value);
    let found = env::split_paths(path).map(|folder| here.join(folder).join(program)).find(|file| executable(file));
    found.ok_or_else(|| {
        format!(
            "{program} was not found on the PATH that it is given ({}); install it, name it by its full path in \
             `{setting}`, or let PATH through in `env`",
            path.to_string_lossy()
        )
    })
}

/// A sentence for a program that was there and still could not be started.
pub(super) fn start_error(program: &str, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "; if it is a script, the interpreter in its first line is missing",
        io::ErrorKind::PermissionDenied => "; check its permissions and those of its folder",
        _ if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
            "; a script needs a first line such as #!/bin/sh"
        }
        _ => "",
    };
    format!("{program} could not be started: {error}{hint}")
}

/// A machine that is out of processes, memory or descriptors, or a program that is being replaced, may do later; all
/// else needs someone's hand.
pub(super) fn start_failure(error: &io::Error) -> FailureClass {
    const PASSING: [Errno; 6] = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE, Errno::TXTBSY, Errno::INTR];
    let passing = error.raw_os_error().is_some_and(|raw| PASSING.iter().any(|errno| errno.raw_os_error() == raw));
    if passing { FailureClass::Transient } else { FailureClass::Fatal }
}

fn executable(file: &Path) -> bool {
    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {

    use super::*;

    fn program(name: &str) -> Program<'_> {
        Program { name, setting: "command", cwd: None }
    }

    fn refusal(wanted: Program<'_>) -> String {
        find(wanted, &[]).expect_err("refused")
    }

    #[test]
    fn a_program_is_found_on_the_path_that_it_is_given() {
        let shell = program("sh");
        assert!(find(shell, &[]).expect("without PATH").ends_with("sh"));
        let path = |value: &str| [("PATH".into(), value.into())];
        assert_eq!(find(shell, &path("/nowhere:/bin")), Ok("/bin/sh".into()));
        assert!(find(shell, &path("/nowhere")).expect_err("not there").contains("/nowhere"));
    }

    #[test]
    fn only_what_may_pass_by_itself_is_tried_again() {
        let class = |errno: Errno| start_failure(&errno.into());
        assert_eq!(class(Errno::AGAIN), FailureClass::Transient);
        assert_eq!(class(Errno::TXTBSY), FailureClass::Transient);
        assert_eq!(class(Errno::NOENT), FailureClass::Fatal);
        assert_eq!(class(Errno::NOEXEC), FailureClass::Fatal);
    }

    #[test]
    fn each_fault_says_what_to_do() {
        let missing = refusal(program("/no/such/program"));
        assert!(missing.contains("does not exist; install it"), "{missing}");
        let plain = refusal(program("/etc/passwd"));
        assert!(plain.contains("not executable"), "{plain}");
        let folder = refusal(Program { cwd: Some(Path::new("/no/such/folder")), ..program("sh") });
        assert!(folder.contains("/no/such/folder does not exist; create it"), "{folder}");
        let empty = refusal(program(""));
        assert!(empty.contains("name a program"), "{empty}");
    }
}
