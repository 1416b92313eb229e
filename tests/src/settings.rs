//! What the environment says: which containerd versions, which runtime, where the binaries are.

use std::env;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Read once, from environment variables that `hack/test` and `hack/bench` set.
#[derive(Debug)]
pub struct Settings {
    /// `BULKHEAD_DIST`: the directory with the shim and everything beside it.
    pub dist: PathBuf,
    /// `BULKHEAD_TOOLS`: `containerd-<version>/bin` for each version, and `bin` with runc.
    pub tools: PathBuf,
    /// `BULKHEAD_IMAGE`: a docker-archive with one busybox image.
    pub image: PathBuf,
    /// `BULKHEAD_RUNTIME`: the runtime under test; `io.containerd.runc.v2` is the reference.
    pub runtime: String,
    /// `BULKHEAD_CONTAINERD`: run every test on these versions.
    pub versions: Vec<String>,
    /// `BULKHEAD_CONTAINERD_CORE`: run only the core tests on these.
    pub core_versions: Vec<String>,
    /// `BULKHEAD_EXCLUSIVE=1`: nothing else on this machine runs microVMs or containers, so
    /// leftovers count even where nothing ties them to the test's own daemon.
    pub exclusive: bool,
    /// `BULKHEAD_SLOW`: how many times slower than others this machine is; every deadline is that much later.
    pub slowness: u32,
}

impl Settings {
    /// The settings of this process.
    pub fn get() -> &'static Settings {
        static SETTINGS: OnceLock<Settings> = OnceLock::new();
        SETTINGS.get_or_init(Settings::from_env)
    }

    fn from_env() -> Settings {
        let cache = path("XDG_CACHE_HOME")
            .unwrap_or_else(|| {
                path("HOME")
                    .unwrap_or_else(|| PathBuf::from("/root"))
                    .join(".cache")
            })
            .join("bulkhead");
        let tools = path("BULKHEAD_TOOLS").unwrap_or_else(|| cache.join("tools"));
        Settings {
            dist: path("BULKHEAD_DIST").unwrap_or_else(|| cache.join("dist")),
            image: path("BULKHEAD_IMAGE").unwrap_or_else(|| tools.join("busybox.tar")),
            tools,
            runtime: env::var("BULKHEAD_RUNTIME").unwrap_or_else(|_| "io.containerd.bulkhead.v2".to_owned()),
            versions: list("BULKHEAD_CONTAINERD").unwrap_or_else(|| vec!["2.1.9".to_owned()]),
            core_versions: list("BULKHEAD_CONTAINERD_CORE").unwrap_or_default(),
            exclusive: env::var("BULKHEAD_EXCLUSIVE").is_ok_and(|value| value == "1"),
            slowness: env::var("BULKHEAD_SLOW")
                .map_or(1, |value| value.parse().expect("BULKHEAD_SLOW is a number")),
        }
    }

    /// Where `containerd` and `ctr` of a version are.
    pub fn containerd_bin(&self, version: &str) -> PathBuf {
        self.tools.join(format!("containerd-{version}/bin"))
    }

    /// Where `runc` is.
    pub fn runc_bin(&self) -> PathBuf {
        self.tools.join("bin")
    }

    /// Whether the runtime under test runs containers in a VM.
    pub fn is_vm(&self) -> bool {
        self.runtime != crate::daemon::RUNC
    }
}

fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn list(name: &str) -> Option<Vec<String>> {
    let value = env::var(name).ok()?;
    Some(
        value
            .split([',', ' '])
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect(),
    )
}
