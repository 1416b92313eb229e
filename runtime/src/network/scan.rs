//! What a CNI plugin, or whoever else, has set up in the namespace: the guest is to have the same.

use std::net::IpAddr;

use bulkhead_agent_protocol::message::{ConfigureNetwork, Neighbour, Route};
use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};

use super::{Netlink, NetworkError};

/// The interface CNI plugins make, unless told otherwise.
const USUAL_NAME: &str = "eth0";
/// A pod has a few of each; more is somebody else's namespace.
const MAX_ENTRIES: usize = 1024;

/// The interface whose traffic is to be the VM's.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// Its number in the namespace.
    pub index: u32,
    /// What the guest is told.
    pub configuration: ConfigureNetwork,
}

impl Netlink {
    /// Finds the interface that leads out of the namespace, with its addresses, routes and permanent
    /// neighbours. `None`: there is only loopback, and `tap`, which is ours.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn scan(&self, tap: &str) -> Result<Option<Interface>, NetworkError> {
        let links: Vec<_> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(asking("links"))?;
        let Some(mut interface) = pick(&links, tap) else {
            return Ok(None);
        };
        let (index, found) = (interface.index, &mut interface.configuration);

        let addresses = self.handle.address().get().set_link_index_filter(index).execute();
        let addresses: Vec<_> = addresses.try_collect().await.map_err(asking("addresses"))?;
        found.addresses = addresses.iter().filter_map(address).take(MAX_ENTRIES).collect();

        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let routes = self.handle.route().get(query).execute();
            let routes: Vec<_> = routes.try_collect().await.map_err(asking("routes"))?;
            found
                .routes
                .extend(routes.iter().filter_map(|message| route(message, index)));
        }
        // A gateway can be used only once there is a route to it.
        found.routes.sort_by_key(|route| !route.gateway.is_empty());
        found.routes.truncate(MAX_ENTRIES);

        let neighbours: Vec<_> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(asking("neighbours"))?;
        let ours = neighbours
            .iter()
            .filter(|message| message.header.ifindex == index);
        found.neighbours = ours.filter_map(neighbour).take(MAX_ENTRIES).collect();
        Ok(Some(interface))
    }

    /// The number of an interface.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) async fn index_of(&self, name: &str) -> Result<u32, NetworkError> {
        let links = self.handle.link().get().match_name(name.to_owned()).execute();
        let links: Vec<_> = links.try_collect().await.map_err(asking("links"))?;
        let missing = || NetworkError::Missing(name.to_owned());
        links.first().map(|link| link.header.index).ok_or_else(missing)
    }
}

fn asking(what: &'static str) -> impl Fn(rtnetlink::Error) -> NetworkError {
    move |source| NetworkError::Ask { what, source }
}

/// Ethernet, up, and neither loopback nor the tap: `eth0` if it is among them, else the first.
fn pick(links: &[LinkMessage], tap: &str) -> Option<Interface> {
    let mut candidates: Vec<_> = links.iter().filter_map(|link| interface(link, tap)).collect();
    candidates.sort_by_key(|interface| (interface.configuration.name != USUAL_NAME, interface.index));
    if let [first, others @ ..] = candidates.as_slice() {
        for other in others {
            let (ours, name) = (&first.configuration.name, &other.configuration.name);
            tracing::warn!("the guest gets {ours} alone, and not the namespace's {name}");
        }
    }
    candidates.into_iter().next()
}

fn interface(link: &LinkMessage, tap: &str) -> Option<Interface> {
    let usable = link.header.link_layer_type == LinkLayerType::Ether
        && link.header.flags.contains(LinkFlags::Up)
        && !link.header.flags.contains(LinkFlags::Loopback);
    let mut configuration = ConfigureNetwork::default();
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => configuration.name.clone_from(name),
            LinkAttribute::Address(mac) => configuration.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => configuration.mtu = *mtu,
            _ => {}
        }
    }
    // Six bytes: what an Ethernet address has.
    let whole = configuration.mac.len() == 6 && configuration.name != tap;
    (usable && whole).then_some(Interface {
        index: link.header.index,
        configuration,
    })
}

/// Not those of link scope: the guest's kernel makes its own.
fn address(message: &AddressMessage) -> Option<String> {
    if message.header.scope == AddressScope::Link {
        return None;
    }
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => found = Some(*local),
            // Of a point-to-point link this is the other end's.
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    found.map(|address| format!("{address}/{}", message.header.prefix_len))
}

/// Unicast routes of the main table by this interface, but for those that come with an address.
fn route(message: &RouteMessage, index: u32) -> Option<Route> {
    let header = &message.header;
    let wanted = header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && header.protocol != RouteProtocol::Kernel
        && message.attributes.contains(&RouteAttribute::Oif(index));
    if !wanted {
        return None;
    }
    let any = if header.address_family == AddressFamily::Inet {
        "0.0.0.0"
    } else {
        "::"
    };
    let mut destination = any.to_owned();
    let mut route = Route {
        scope: u8::from(header.scope).into(),
        ..Route::default()
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?.to_string(),
            RouteAttribute::Gateway(address) => route.gateway = ip(address)?.to_string(),
            RouteAttribute::PrefSource(address) => route.source = ip(address)?.to_string(),
            _ => {}
        }
    }
    route.destination = format!("{destination}/{}", header.destination_prefix_length);
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let mut neighbour = Neighbour::default();
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                neighbour.address = address.to_string();
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                neighbour.address = address.to_string();
            }
            NeighbourAttribute::LinkLayerAddress(mac) => neighbour.mac.clone_from(mac),
            _ => {}
        }
    }
    (neighbour.mac.len() == 6 && !neighbour.address.is_empty()).then_some(neighbour)
}
