//! The `chaperone` binary: arguments in, exit status out.

use std::process::ExitCode;

fn main() -> ExitCode {
    chaperone::cli::main()
}
