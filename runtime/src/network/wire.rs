//! Two interfaces joined back to back: what comes in at one goes out at the other.

use rtnetlink::LinkUnspec;

use super::{Netlink, Netns, NetworkError};

/// Of the errors of netlink, the one for something that is not there, or not any more.
const GONE: [i32; 4] = [libc::ENOENT, libc::ENODEV, libc::EINVAL, libc::ENXIO];
/// `ETH_P_ALL` in the byte order of the wire.
const ALL_PROTOCOLS: u16 = (libc::ETH_P_ALL as u16).to_be();

impl Netlink {
    /// Joins `interface`, a number, with the tap, and gives the tap its MTU. The interface keeps its
    /// addresses and its counters; the host's own stack sees nothing of what comes in any more.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn join(&self, interface: u32, tap: &str, mtu: u32) -> Result<(), NetworkError> {
        let tap = self.index_of(tap).await?;
        let link = LinkUnspec::new_with_index(tap).mtu(mtu).build();
        self.handle
            .link()
            .set(link)
            .execute()
            .await
            .map_err(NetworkError::Mtu)?;
        self.redirect(tap, interface).await?;
        self.redirect(interface, tap).await
    }

    async fn redirect(&self, from: u32, to: u32) -> Result<(), NetworkError> {
        // Interface numbers are positive ints in the kernel.
        let index = i32::try_from(from).map_err(|_| NetworkError::Missing(from.to_string()))?;
        // What an earlier sandbox of this namespace has left leads nowhere.
        self.unhook(index).await?;
        self.handle
            .qdisc()
            .add(index)
            .ingress()
            .execute()
            .await
            .map_err(NetworkError::Wire)?;
        let filter = self
            .handle
            .traffic_filter(index)
            .add()
            .parent(INGRESS)
            .protocol(ALL_PROTOCOLS);
        let filter = filter.redirect(to).map_err(NetworkError::Wire)?;
        filter.execute().await.map_err(NetworkError::Wire)
    }

    /// Removes what [`Netlink::join`] has put on an interface; fine if there is nothing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn part(&self, interface: &str) -> Result<(), NetworkError> {
        match self.index_of(interface).await {
            Ok(index) => self.unhook(i32::try_from(index).unwrap_or_default()).await,
            // The interface has gone, and taken it along.
            Err(_) => Ok(()),
        }
    }

    async fn unhook(&self, index: i32) -> Result<(), NetworkError> {
        let mut delete = self.handle.qdisc().del(index);
        delete.message_mut().header.parent = INGRESS_PARENT.into();
        match delete.execute().await {
            Ok(()) => Ok(()),
            Err(rtnetlink::Error::NetlinkError(message)) if GONE.contains(&-message.raw_code()) => Ok(()),
            Err(error) => Err(NetworkError::Wire(error)),
        }
    }
}

/// The handle of an interface's ingress qdisc, `ffff:`.
const INGRESS: u32 = 0xffff_0000;
/// `TC_H_INGRESS`, where it hangs.
const INGRESS_PARENT: u32 = 0xffff_fff1;

impl Netns {
    /// [`Netlink::part`] for callers that block, on a runtime of its own.
    ///
    /// # Errors
    /// As there.
    pub fn part_blocking(&self, interface: &str) -> Result<(), NetworkError> {
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            let runtime = runtime.map_err(NetworkError::Socket)?;
            runtime.block_on(async { self.netlink()?.part(interface).await })
        };
        std::thread::scope(|scope| match scope.spawn(work).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}
