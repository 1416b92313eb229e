//! `bulkhead doctor`: can this node run sandboxes, and if not, why not and what to do.
//!
//! A check looks at one thing and says what it saw. To add one, write a function that returns a [`Check`] in the
//! file it belongs to and call it in [`examine`].

mod accelerator;
mod capacity;
mod checksums;
mod containerd;
mod host;
mod huge_pages;
mod isolation;
mod kernel_options;
mod links;
mod ownership;
mod programs;
mod templates;

use std::io::{self, Write};
use std::path::Path;

use bulkhead_runtime::config::Config;
use serde::Serialize;

use crate::output;

/// What one look at the node found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub id: &'static str,
    /// How bad it is.
    pub status: Status,
    /// What was seen.
    pub evidence: String,
    /// What to do about it, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Page and heading of the documentation that says more.
    pub docs: &'static str,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Ok,
    /// Sandboxes run, but not as they could.
    Warning,
    /// No sandbox can run.
    Fatal,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The worst of all.
    pub status: Status,
    /// In the order in which a sandbox would meet them.
    pub checks: Vec<Check>,
}

/// Looks at everything. Nothing is changed on the node, but that the verdict on KVM is remembered.
pub fn examine(config_path: &Path) -> Report {
    let (config, configuration) = configuration(config_path);
    let mut checks = vec![configuration, accelerator::check(&config)];
    checks.extend(programs::checks(&config, accelerator::chosen(&config)));
    checks.push(ownership::check(&config, config_path));
    checks.extend(host::checks(&config));
    checks.extend(capacity::checks(&config));
    checks.extend(isolation::checks());
    checks.push(huge_pages::check());
    checks.push(templates::check(&config));
    checks.extend(containerd::checks());
    Report::new(checks)
}

/// A configuration that cannot be read is one finding; the defaults stand in for it in the rest.
fn configuration(path: &Path) -> (Config, Check) {
    match Config::load(path) {
        Ok(config) => {
            let found = if path.exists() {
                "was read"
            } else {
                "is not there: defaults"
            };
            (config, Check::ok("config", format!("{} {found}", path.display())))
        }
        Err(error) => {
            let remedy = "correct it; docs/configuration.md lists the keys";
            (
                Config::default(),
                Check::fatal("config", error.to_string(), remedy),
            )
        }
    }
}

impl Check {
    fn new(id: &'static str, status: Status, evidence: String, remedy: Option<String>) -> Self {
        Self {
            id,
            status,
            evidence,
            remedy,
            docs: links::page(id),
        }
    }

    pub(crate) fn ok(id: &'static str, evidence: impl Into<String>) -> Self {
        Self::new(id, Status::Ok, evidence.into(), None)
    }

    pub(crate) fn warning(id: &'static str, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, Status::Warning, evidence.into(), Some(remedy.into()))
    }

    pub(crate) fn fatal(id: &'static str, evidence: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(id, Status::Fatal, evidence.into(), Some(remedy.into()))
    }
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        let status = checks
            .iter()
            .map(|check| check.status)
            .max()
            .unwrap_or(Status::Ok);
        Self { status, checks }
    }

    /// 0 all is well, 1 there are warnings, 2 no sandbox can run.
    pub fn exit_code(&self) -> u8 {
        match self.status {
            Status::Ok => 0,
            Status::Warning => 1,
            Status::Fatal => 2,
        }
    }

    /// Writes it for people, or as JSON.
    pub fn write(&self, out: &mut impl Write, json: bool) -> io::Result<()> {
        if json {
            return output::json(out, self);
        }
        let width = self.checks.iter().map(|check| check.id.len()).max().unwrap_or(0);
        for check in &self.checks {
            let mark = match check.status {
                Status::Ok => "ok  ",
                Status::Warning => "warn",
                Status::Fatal => "FAIL",
            };
            writeln!(out, "{mark}  {:<width$}  {}", check.id, check.evidence)?;
            if let Some(remedy) = &check.remedy {
                writeln!(out, "      {:<width$}  -> {remedy} ({})", "", check.docs)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_check_decides() {
        let ok = || Check::ok("a", "fine");
        let warning = || Check::warning("b", "slow", "hurry");
        assert_eq!(Report::new(vec![ok()]).exit_code(), 0);
        assert_eq!(Report::new(vec![ok(), warning()]).exit_code(), 1);
        assert_eq!(
            Report::new(vec![Check::fatal("c", "no", "yes"), warning()]).exit_code(),
            2
        );
    }

    #[test]
    fn people_read_lines_and_remedies() {
        let report = Report::new(vec![
            Check::ok("kernel", "6.12"),
            Check::warning("swap", "some", "swapoff"),
        ]);
        let mut out = Vec::new();
        report.write(&mut out, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "ok    kernel  6.12\nwarn  swap    some\n              -> swapoff (docs/jail.md#limits)\n"
        );
    }

    #[test]
    fn machines_read_json() {
        let mut out = Vec::new();
        Report::new(vec![Check::ok("kernel", "6.12")])
            .write(&mut out, true)
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["status"], "ok");
        assert_eq!(json["checks"][0]["evidence"], "6.12");
        assert!(json["checks"][0].get("remedy").is_none());
        assert_eq!(json["checks"][0]["docs"], "docs/vmm.md#two-kernels");
    }

    #[test]
    fn a_bad_configuration_is_a_finding_that_names_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, "no_such_key = 1").unwrap();
        let (config, check) = configuration(&path);
        assert_eq!(config, Config::default());
        assert_eq!(check.status, Status::Fatal);
        assert!(check.evidence.contains("no_such_key"), "{}", check.evidence);
    }
}
