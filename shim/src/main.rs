//! The containerd shim of Bulkhead: `start`, `delete`, `-info`, `-version`, and the server itself.
#![deny(unsafe_code)]

mod annotations;
mod args;
mod bootstrap;
mod container;
mod convert;
mod delete;
mod error;
mod events;
mod exit_order;
mod handoff;
mod info;
mod log;
mod messages;
mod mounts;
mod options;
mod process_state;
mod sandbox;
mod server;
mod service;
mod stats;
mod stdio;

use std::process::ExitCode;

use args::{Args, Mode};

fn main() -> ExitCode {
    match Args::parse(std::env::args().skip(1))
        .map_err(Into::into)
        .and_then(|args| run(&args))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The only line: containerd shows it to the user.
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    match args.mode {
        Mode::Version => println!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
        Mode::Info => bootstrap::print(&info::runtime_info()?)?,
        Mode::Start => bootstrap::print(&bootstrap::start(args)?)?,
        Mode::Delete => bootstrap::print(&delete::delete(args)?)?,
        Mode::Serve => server::serve(args)?,
    }
    Ok(())
}
