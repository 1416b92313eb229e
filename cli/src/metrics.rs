//! `bulkhead metrics`: what has been counted on this node, in the text format of Prometheus.

use std::io::{self, Write};

use bulkhead_runtime::config::Config;
use bulkhead_runtime::counters::{Counters, header};
use bulkhead_runtime::template::{Store, TemplateError};
use displaydoc::Display;
use thiserror::Error;

/// Why there are no metrics.
#[derive(Debug, Display, Error)]
pub enum MetricsError {
    /// cannot read the counters: {0}
    Counters(io::Error),
    /// cannot list the templates: {0}
    Templates(#[from] TemplateError),
}

/// Reads everything that there is to say.
///
/// # Errors
/// Something that is there cannot be read.
pub fn read(config: &Config) -> Result<String, MetricsError> {
    let counters = Counters::read(&config.state_dir).map_err(MetricsError::Counters)?;
    let templates = Store::new(config).list()?;
    let bytes: u64 = templates.iter().map(|template| template.bytes).sum();
    let mut text = counters.exposition();
    text.push_str(&gauge(
        "bulkhead_templates",
        "Templates that are kept.",
        templates.len() as u64,
    ));
    text.push_str(&gauge(
        "bulkhead_templates_bytes",
        "What they take on disk.",
        bytes,
    ));
    Ok(text)
}

/// Prints them.
///
/// # Errors
/// The output is closed.
pub fn write(out: &mut impl Write, metrics: &str) -> io::Result<()> {
    out.write_all(metrics.as_bytes())
}

fn gauge(name: &str, help: &str, value: u64) -> String {
    format!("{}{name} {value}\n", header(name, help, "gauge"))
}
