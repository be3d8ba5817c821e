//! The command `eventbus`: parses its arguments and runs the library.

use std::process::ExitCode;

use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return eventbus_cli::ExitStatus::Fault.into();
        }
    };
    let status = runtime.block_on(eventbus_cli::run_from(std::env::args_os()));
    // after Ctrl-C at a question, a thread still waits for the answer
    runtime.shutdown_background();
    status.into()
}
