//! `bulkhead`: what an operator asks of a node.
#![forbid(unsafe_code)]

mod doctor;
mod metrics;
mod output;
mod ps;
mod template;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use bulkhead_runtime::config::{CONFIG_PATH, Config, ConfigError};
use clap::{Parser, Subcommand};
use displaydoc::Display;
use thiserror::Error;

/// Looks after Bulkhead's sandboxes on this node.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, about)]
struct Arguments {
    /// Configuration to read.
    #[arg(long, global = true, default_value = CONFIG_PATH)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that this node can run sandboxes. Exit code: 0 all is well, 1 there are warnings, 2 it cannot.
    Doctor {
        /// One JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// List the sandboxes of this node.
    Ps {
        /// One JSON array instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Print what has been counted since this node booted, in the text format of Prometheus.
    Metrics,
    /// Make, list and remove the saved VMs that sandboxes are restored from.
    Template {
        #[command(subcommand)]
        action: template::Action,
    },
}

/// Why a command could not do its work.
#[derive(Debug, Display, Error)]
enum Failure {
    /// {0}
    Config(#[from] ConfigError),
    /// {0}
    Metrics(#[from] metrics::MetricsError),
    /// {0}
    Ps(#[from] ps::PsError),
    /// {0}
    Template(#[from] template::ActionError),
    /// cannot write to standard output: {0}
    Output(#[from] io::Error),
}

/// Exit code of a command that failed, as opposed to one that found something.
const EXIT_FAILURE: u8 = 2;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        // The reader has seen enough: `bulkhead ps | head -n 1`.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bulkhead: {failure}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match &arguments.command {
        Command::Doctor { json } => {
            let report = doctor::examine(&arguments.config);
            report.write(&mut out, *json)?;
            Ok(ExitCode::from(report.exit_code()))
        }
        Command::Ps { json } => {
            let config = Config::load(&arguments.config)?;
            let sandboxes = ps::list(&config.state_dir)?;
            ps::write(&mut out, &sandboxes, *json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Metrics => {
            let config = Config::load(&arguments.config)?;
            let metrics = metrics::read(&config)?;
            metrics::write(&mut out, &metrics)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Template { action } => {
            let config = Config::load(&arguments.config)?;
            template::run(action, &config, &mut out)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
