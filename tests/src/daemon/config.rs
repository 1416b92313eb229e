//! containerd's configuration.

use std::fs;

use super::Daemon;
use crate::settings::Settings;

/// The name of the pods' runtime handler.
pub const HANDLER: &str = "tested";
/// The image of pods' sandboxes, which sleeps; `hack/busybox-image` makes it.
const PAUSE_IMAGE: &str = "localhost/pause:latest";

impl Daemon {
    /// What containerd is started with. Without CRI, unless `cri` is wanted: a restart takes half a second less.
    pub(super) fn config(&self, cri: bool) -> String {
        let dir = self.dir().display();
        let (disabled, cri) = if cri {
            ("", self.cri_config())
        } else {
            (
                r#""io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime""#,
                String::new(),
            )
        };
        let snapshotters = self.snapshotters_config();
        format!(
            r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = [{disabled}]
[grpc]
address = "{dir}/c.sock"
[debug]
level = "debug"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
{snapshotters}{cri}"#
        )
    }

    fn cri_config(&self) -> String {
        let (plugins, networks) = (Settings::get().tools.join("bin"), self.path("cni"));
        format!(
            r#"[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{}"
conf_dir = "{}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{HANDLER}]
runtime_type = "{}"
pod_annotations = ["io.bulkhead.*"]
"#,
            plugins.display(),
            networks.display(),
            Settings::get().runtime
        )
    }

    /// Describes a network of one veth pair per pod, to which no bridge belongs that would stay. By its name
    /// nerdctl takes it for its default network, and makes none of its own.
    pub(super) fn write_network(&self) {
        let dir = self.path("cni");
        fs::create_dir_all(&dir).unwrap();
        let ipam = self.path("ipam");
        let network = format!(
            r#"{{"cniVersion":"1.0.0","name":"bridge","plugins":[{{"type":"ptp","ipam":{{"type":"host-local",
"dataDir":"{}","ranges":[[{{"subnet":"10.88.77.0/24"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}}]}}"#,
            ipam.display()
        );
        fs::write(dir.join("tested.conflist"), network).unwrap();
    }
}
