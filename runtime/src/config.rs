//! The operator's configuration.

/// What `/etc/bulkhead/config.toml` says.
#[derive(Debug, Clone, Default)]
pub struct Config {}
