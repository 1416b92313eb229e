//! Gives the guest's one NIC the identity of the pod's interface: name, MAC, MTU, addresses, routes,
//! neighbours. Doing it again replaces what was.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;

use bulkhead_agent_protocol::message::{ConfigureNetwork, FailureKind, Neighbour, Route};
use displaydoc::Display;
use futures::TryStreamExt;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};
use thiserror::Error;

use crate::failure::Failure;
use crate::sys;

/// Most addresses, routes and neighbours taken each: a pod has a few.
const MAX_ENTRIES: usize = 1024;

/// Longest interface name: `IFNAMSIZ` without its NUL.
const MAX_NAME: usize = 15;

/// What the message asks for, parsed.
#[derive(Debug, PartialEq)]
struct Plan {
    name: String,
    mac: Vec<u8>,
    mtu: u32,
    addresses: Vec<Prefix>,
    routes: Vec<PlannedRoute>,
    neighbours: Vec<(IpAddr, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Prefix {
    address: IpAddr,
    length: u8,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct PlannedRoute {
    /// The default route has a zero prefix.
    destination: Prefix,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    scope: u8,
}

/// What the message has wrong.
#[derive(Debug, Display, Error, PartialEq)]
enum PlanError {
    /// interface name {0:?} is not well-formed
    Name(String),
    /// hardware address has {0} bytes
    Mac(usize),
    /// too many addresses, routes or neighbours
    TooMany,
    /// {0:?} is no address
    Address(String),
    /// {0:?} is no address with prefix length
    Prefix(String),
    /// route to {0:?} has neither destination nor gateway
    Route(String),
    /// scope {0} is out of range
    Scope(u32),
    /// route to {0:?} mixes IPv4 and IPv6
    Family(String),
}

/// Gives the NIC `name`, which is down, an address that no other VM's has: all of one template are restored with the
/// same. Where the host has a network for this sandbox, [`configure`] sets the one that belongs to it.
///
/// # Errors
/// The kernel refuses.
pub fn take_own_address(name: &str) -> Result<(), Failure> {
    let stage = "give the NIC an address of its own";
    let mut address = [0; 6];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut address))
        .map_err(|error| failed(stage, &error))?;
    // Assigned by ourselves, to one card.
    address[0] = address[0] & !1 | 2;
    sys::ioctl::set_hardware_address(name, address).map_err(|errno| failed(stage, &io::Error::from(errno)))
}

/// Configures the NIC.
///
/// # Errors
/// `InvalidArgument` for a malformed message, `Other` naming the step that failed.
pub async fn configure(request: &ConfigureNetwork) -> Result<(), Failure> {
    let plan = Plan::parse(request).map_err(|error| Failure::invalid(format!("network: {error}")))?;
    let (connection, handle, _) = new_connection().map_err(|error| failed("open netlink", &error))?;
    let driver = tokio::spawn(connection);
    let outcome = apply(&handle, &plan).await;
    driver.abort();
    outcome
}

impl Plan {
    fn parse(request: &ConfigureNetwork) -> Result<Self, PlanError> {
        let name = request.name.as_str();
        let well_formed = !matches!(name, "" | "." | "..")
            && name.len() <= MAX_NAME
            && name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':'));
        if !well_formed {
            return Err(PlanError::Name(name.to_owned()));
        }
        let lengths = [
            request.addresses.len(),
            request.routes.len(),
            request.neighbours.len(),
        ];
        if lengths.into_iter().any(|length| length > MAX_ENTRIES) {
            return Err(PlanError::TooMany);
        }
        Ok(Self {
            name: name.to_owned(),
            mac: mac(&request.mac)?,
            mtu: request.mtu,
            addresses: request
                .addresses
                .iter()
                .map(|text| prefix(text))
                .collect::<Result<_, _>>()?,
            routes: request.routes.iter().map(route).collect::<Result<_, _>>()?,
            neighbours: request
                .neighbours
                .iter()
                .map(neighbour)
                .collect::<Result<_, _>>()?,
        })
    }
}

fn mac(bytes: &[u8]) -> Result<Vec<u8>, PlanError> {
    if bytes.len() == 6 {
        Ok(bytes.to_vec())
    } else {
        Err(PlanError::Mac(bytes.len()))
    }
}

fn address(text: &str) -> Result<IpAddr, PlanError> {
    text.parse().map_err(|_| PlanError::Address(text.to_owned()))
}

fn optional(text: &str) -> Result<Option<IpAddr>, PlanError> {
    if text.is_empty() {
        Ok(None)
    } else {
        address(text).map(Some)
    }
}

fn prefix(text: &str) -> Result<Prefix, PlanError> {
    let wrong = || PlanError::Prefix(text.to_owned());
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = length
        .parse()
        .ok()
        .filter(|length| *length <= longest)
        .ok_or_else(wrong)?;
    Ok(Prefix { address, length })
}

fn route(route: &Route) -> Result<PlannedRoute, PlanError> {
    let gateway = optional(&route.gateway)?;
    let source = optional(&route.source)?;
    let destination = match (route.destination.as_str(), gateway) {
        ("", None) => return Err(PlanError::Route(route.destination.clone())),
        ("", Some(IpAddr::V4(_))) => Prefix {
            address: IpAddr::from([0; 4]),
            length: 0,
        },
        ("", Some(IpAddr::V6(_))) => Prefix {
            address: IpAddr::from([0; 16]),
            length: 0,
        },
        (text, _) => prefix(text)?,
    };
    let same = |address: &IpAddr| address.is_ipv4() == destination.address.is_ipv4();
    // An IPv4 route may go by way of an IPv6 neighbour, but no CNI plugin makes such.
    if !gateway.iter().chain(&source).all(same) {
        return Err(PlanError::Family(route.destination.clone()));
    }
    let scope = u8::try_from(route.scope).map_err(|_| PlanError::Scope(route.scope))?;
    Ok(PlannedRoute {
        destination,
        gateway,
        source,
        scope,
    })
}

fn neighbour(neighbour: &Neighbour) -> Result<(IpAddr, Vec<u8>), PlanError> {
    Ok((address(&neighbour.address)?, mac(&neighbour.mac)?))
}

async fn apply(handle: &Handle, plan: &Plan) -> Result<(), Failure> {
    let index = find_nic()?;
    forget_addresses(handle, index).await?;
    // Name and hardware address cannot change while it is up; what it had is gone when it goes down.
    let down = LinkUnspec::new_with_index(index).down().build();
    handle
        .link()
        .set(down)
        .execute()
        .await
        .map_err(|error| failed("set the NIC down", &error))?;
    let mut link = LinkUnspec::new_with_index(index)
        .name(plan.name.clone())
        .address(plan.mac.clone());
    if plan.mtu != 0 {
        link = link.mtu(plan.mtu);
    }
    let identity = format!("make the NIC {} with MTU {}", plan.name, plan.mtu);
    handle
        .link()
        .set(link.build())
        .execute()
        .await
        .map_err(|error| failed(&identity, &error))?;
    for Prefix { address, length } in &plan.addresses {
        let mut add = handle.address().add(index, *address, *length).replace();
        // The pod's own interface has made sure already that nobody else has the address.
        let flag = AddressAttribute::Flags(AddressFlags::Nodad);
        add.message_mut().attributes.push(flag);
        let stage = format!("add address {address}/{length}");
        add.execute().await.map_err(|error| failed(&stage, &error))?;
    }
    let up = LinkUnspec::new_with_index(index).up().build();
    handle
        .link()
        .set(up)
        .execute()
        .await
        .map_err(|error| failed("set the NIC up", &error))?;
    for (address, mac) in &plan.neighbours {
        let add = handle.neighbours().add(index, *address).link_layer_address(mac);
        let stage = format!("add neighbour {address}");
        add.state(NeighbourState::Permanent)
            .replace()
            .execute()
            .await
            .map_err(|error| failed(&stage, &error))?;
    }
    for route in &plan.routes {
        let Prefix { address, length } = route.destination;
        let stage = format!("add route to {address}/{length}");
        let message = route_message(route, index, &stage)?;
        handle
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .map_err(|error| failed(&stage, &error))?;
    }
    Ok(())
}

async fn forget_addresses(handle: &Handle, index: u32) -> Result<(), Failure> {
    let stage = "remove the NIC's former addresses";
    let mut addresses = handle.address().get().set_link_index_filter(index).execute();
    let mut found = Vec::new();
    while let Some(address) = addresses
        .try_next()
        .await
        .map_err(|error| failed(stage, &error))?
    {
        found.push(address);
    }
    for address in found {
        // Removing one may take others of its subnet along.
        let _ = handle.address().del(address).execute().await;
    }
    Ok(())
}

fn route_message(route: &PlannedRoute, index: u32, stage: &str) -> Result<RouteMessage, Failure> {
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(index)
        .scope(RouteScope::from(route.scope))
        .destination_prefix(route.destination.address, route.destination.length)
        .map_err(|error| failed(stage, &error))?;
    if let Some(source) = route.source {
        message = message
            .pref_source(source)
            .map_err(|error| failed(stage, &error))?;
    }
    if let Some(gateway) = route.gateway {
        message = message.gateway(gateway).map_err(|error| failed(stage, &error))?;
    }
    Ok(message.build())
}

fn find_nic() -> Result<u32, Failure> {
    let name =
        nic_name()?.ok_or_else(|| Failure::new(FailureKind::Other, "find the NIC", "the VM has no NIC"))?;
    if_nametoindex(name.as_str()).map_err(|errno| failed("find the NIC", &io::Error::from(errno)))
}

/// The interface that has a device, which loopback and its like have not.
///
/// # Errors
/// `Other`, if /sys is not what it should be.
pub fn nic_name() -> Result<Option<String>, Failure> {
    let list = fs::read_dir("/sys/class/net").map_err(|error| failed("list interfaces", &error))?;
    let nic = list.flatten().find(|entry| entry.path().join("device").exists());
    Ok(nic.map(|entry| entry.file_name().to_string_lossy().into_owned()))
}

fn failed(stage: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(FailureKind::Other, stage, format!("{stage}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ConfigureNetwork {
        ConfigureNetwork {
            name: "eth0".into(),
            mac: vec![2, 0, 0, 0, 0, 9],
            mtu: 1450,
            addresses: vec!["10.88.0.2/16".into(), "fd00::2/64".into()],
            routes: vec![
                Route {
                    destination: "169.254.1.1/32".into(),
                    scope: 253,
                    ..Route::default()
                },
                Route {
                    gateway: "169.254.1.1".into(),
                    ..Route::default()
                },
            ],
            neighbours: vec![Neighbour {
                address: "169.254.1.1".into(),
                mac: vec![0xee; 6],
            }],
        }
    }

    #[test]
    fn a_pods_network_is_understood() {
        let plan = Plan::parse(&request()).unwrap();
        assert_eq!(
            plan.addresses[1],
            Prefix {
                address: "fd00::2".parse().unwrap(),
                length: 64
            }
        );
        assert_eq!(plan.routes[0].gateway, None);
        assert_eq!(plan.routes[1].destination.length, 0);
        assert!(plan.routes[1].destination.address.is_ipv4());
    }

    #[test]
    fn malformed_parts_are_named() {
        let broken = |change: fn(&mut ConfigureNetwork)| {
            let mut request = request();
            change(&mut request);
            Plan::parse(&request).unwrap_err().to_string()
        };
        assert_eq!(
            broken(|r| r.name = "a/b".into()),
            r#"interface name "a/b" is not well-formed"#
        );
        assert_eq!(broken(|r| r.mac.truncate(5)), "hardware address has 5 bytes");
        assert_eq!(
            broken(|r| r.addresses.push("10.0.0.1/33".into())),
            r#""10.0.0.1/33" is no address with prefix length"#
        );
        assert_eq!(
            broken(|r| r.routes[1].gateway = "x".into()),
            r#""x" is no address"#
        );
        assert_eq!(
            broken(|r| r.routes[1].gateway = String::new()),
            r#"route to "" has neither destination nor gateway"#
        );
        assert_eq!(
            broken(|r| r.routes[0].gateway = "::1".into()),
            r#"route to "169.254.1.1/32" mixes IPv4 and IPv6"#
        );
        assert_eq!(broken(|r| r.routes[0].scope = 256), "scope 256 is out of range");
    }
}
