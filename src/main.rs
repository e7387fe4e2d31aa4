//! The binary: hands over to the command line.

mod allocator;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    allocator::set_up();
    mailshot::cli::run()
}
