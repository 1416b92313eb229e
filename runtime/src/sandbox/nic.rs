//! Gives the guest's network card what the namespace's interface has, as soon as there is one.

use std::sync::Arc;

use bulkhead_agent_protocol::message::{Body, ConfigureNetwork};

use super::registry::lock;
use super::{Inner, SandboxError, deadlines};
use crate::state::NetworkState;

impl Inner {
    /// Looks at the namespace, and if something has changed there, joins its interface with the tap and tells
    /// the guest. CNI may have run before the sandbox (a pod's), in a `createRuntime` hook (nerdctl's), or
    /// between Create and Start (`ctr run --cni`).
    pub(super) async fn follow_network(self: &Arc<Self>) -> Result<(), SandboxError> {
        let host = &self.machine().host;
        let netlink = host.netns.netlink()?;
        let Some(found) = netlink.scan(&host.tap).await? else {
            return Ok(());
        };
        let Some(is_first) = self.note_network(&found.configuration) else {
            return Ok(());
        };
        let told = async {
            if is_first {
                let name = found.configuration.name.clone();
                host.record.update(|state| {
                    state.network = Some(NetworkState {
                        namespace: host.netns_path.clone().unwrap_or_default(),
                        tap: host.tap.clone(),
                        mirrored: Some(name.clone()),
                    });
                })?;
                let netns = host.netns.try_clone()?;
                host.on_release(format!("release {name}"), move || netns.part_blocking(&name));
                netlink
                    .join(found.index, &host.tap, found.configuration.mtu)
                    .await?;
            }
            let configure = Body::ConfigureNetwork(found.configuration);
            Ok(self
                .agent
                .order("ConfigureNetwork", configure, deadlines::ORDER)
                .await?)
        };
        let result = told.await;
        if result.is_err() {
            // The next container to start tries again.
            *lock(&self.network) = None;
        }
        result
    }

    /// Remembers what the guest is about to be told: whether it is the first time, or `None` if it has been
    /// told that already.
    fn note_network(&self, found: &ConfigureNetwork) -> Option<bool> {
        let mut known = lock(&self.network);
        if known.as_ref() == Some(found) {
            return None;
        }
        Some(known.replace(found.clone()).is_none())
    }
}
