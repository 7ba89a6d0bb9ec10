//! Guards and the engines that use them, with real processes and real signals.
//!
//! This test program is its own runner, because it is also run again as the guard and as a worker to be killed.

mod command;
mod process;
mod tree;
mod worker;

use libtest_mimic::{Arguments, Trial};

fn main() {
    errand_worker::guard::run_if_guard();
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == worker::FAKE_WORKER) {
        return worker::be_a_worker(args.get(2..).unwrap_or_default());
    }
    let trials: Vec<Trial> = [tree::trials(), worker::trials(), command::trials()].into_iter().flatten().collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Runs an asynchronous test within a bound: one that hangs fails.
fn trial<F>(name: &str, test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let bound = std::time::Duration::from_secs(30);
        Ok(runtime.block_on(async { tokio::time::timeout(bound, test()).await })?)
    })
}
