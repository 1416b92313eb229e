//! One sandbox on the host.
