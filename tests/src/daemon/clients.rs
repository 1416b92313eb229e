//! Command lines of containerd's clients, on this daemon.

use std::ffi::OsStr;
use std::process::Command;

use super::{Daemon, HANDLER};
use crate::settings::Settings;

impl Daemon {
    /// A `ctr` command line of this version, on this daemon and namespace.
    pub fn ctr(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(self.binary("ctr"));
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", self.namespace()])
            .args(args)
            // From 2.2 on ctr warns of a cgroup v1 host, among the output that a test compares.
            .env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "1");
        command
    }

    /// A `nerdctl` command line, with its data in the daemon's own directory. Its configuration is of the
    /// machine's user, and the hooks it puts into specs keep its environment: it gets neither.
    pub fn nerdctl(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let tools = Settings::get().tools.join("bin");
        let mut command = Command::new(tools.join("nerdctl"));
        command
            .env_clear()
            .env("HOME", self.dir())
            .env("NERDCTL_TOML", self.path("nerdctl.toml"))
            .env("PATH", self.search_path())
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", self.namespace()])
            .arg("--data-root")
            .arg(self.path("nerdctl"))
            .arg("--cni-path")
            .arg(tools)
            .arg("--cni-netconfpath")
            .arg(self.path("cni"))
            .args([
                "--cgroup-manager",
                "cgroupfs",
                "--snapshotter",
                super::SNAPSHOTTER,
            ])
            .args(args);
        command
    }

    /// A `crictl` command line; the daemon must have been started with [`Daemon::start_with_cri`].
    pub fn crictl(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let endpoint = format!("unix://{}", self.socket().display());
        let mut command = Command::new(Settings::get().tools.join("bin/crictl"));
        command
            .arg("--config")
            .arg(self.path("crictl.yaml"))
            .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
            .args(["--timeout", "80s"])
            .args(args);
        command
    }

    /// The runtime handler of pods.
    pub fn handler(&self) -> &'static str {
        HANDLER
    }
}
