//! A short schedule of the chaos program, with every class of fault in it.

use std::process::Command;

#[test]
fn nothing_is_lost_or_done_twice_whatever_dies() {
    let output = Command::new(env!("CARGO_BIN_EXE_errand-chaos"))
        .args(["--minutes", "1.25", "--jobs", "1000", "--workers", "2", "--apis", "2"])
        .args(["--lease-seconds", "3", "--gap-seconds", "2.5", "--seed", "7", "--verbose"])
        .output()
        .expect("the chaos program starts");
    let (table, faults) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{table}");
    assert!(output.status.success(), "{}\n{faults}\n{table}", output.status);
}
