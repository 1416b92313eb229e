//! One mount order of containerd, read: its transformations, options and places.

use bulkhead_agent_protocol::message;
use nix::mount::MsFlags;

use super::options::MountOptions;
use super::place::{Place, invalid};
use super::{RootfsError, RootfsMount};

/// Transformations that containerd leaves to us: places are filled in, and directories made, before the mount.
const TRANSFORMS: [&str; 2] = ["format/", "mkdir/"];
/// Option of the second: `PATH[:MODE[:UID:GID]]`.
pub(super) const MKDIR: &str = "X-containerd.mkdir.path=";
/// Mode of a directory that says none; containerd's own.
const DIRECTORY_MODE: u32 = 0o700;

/// A mount order, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// Without the transformations.
    pub fstype: String,
    /// It refers to earlier mounts, which are there only for it.
    pub is_formatted: bool,
    /// Where it comes from; for an overlay, a word.
    pub source: Place,
    /// For mount(2).
    pub flags: MsFlags,
    /// For the file system; without what follows.
    pub data: Vec<String>,
    /// The source is an image.
    pub on_loop: bool,
    /// Further images of an erofs image.
    pub devices: Vec<String>,
    /// Of an overlay, the topmost first.
    pub lower: Vec<Place>,
    /// Of an overlay.
    pub upper: Option<Place>,
    /// Of an overlay.
    pub work: Option<Place>,
    /// To be made first, with these permissions.
    pub directories: Vec<(Place, u32)>,
}

impl Order {
    /// Reads order `index` of a root file system.
    ///
    /// # Errors
    /// Something in it is not supported, or malformed.
    pub fn parse(mount: &RootfsMount, index: usize) -> Result<Self, RootfsError> {
        let mut fstype = mount.fstype.as_str();
        while let Some(rest) = TRANSFORMS.iter().find_map(|prefix| fstype.strip_prefix(prefix)) {
            fstype = rest;
        }
        if fstype.contains('/') {
            return Err(RootfsError::Unsupported(format!("rootfs mount of type {fstype}")));
        }
        let is_formatted = mount.fstype.starts_with(TRANSFORMS[0]);
        let place = |text: &str| match is_formatted {
            true => Place::parse(text, index),
            false => Ok(Place::Host(text.into())),
        };
        let (orders, options): (Vec<String>, Vec<String>) = mount
            .options
            .iter()
            .cloned()
            .partition(|option| option.starts_with(MKDIR));
        let options = MountOptions::parse(&options)?;
        let mut order = Self {
            fstype: fstype.to_owned(),
            is_formatted,
            source: place(&mount.source)?,
            flags: options.flags,
            data: Vec::new(),
            on_loop: options.on_loop,
            devices: Vec::new(),
            lower: Vec::new(),
            upper: None,
            work: None,
            directories: Vec::new(),
        };
        for option in orders {
            let words = option.trim_start_matches(MKDIR);
            order.directories.push(directory(words, place, index)?);
        }
        for option in options.data {
            match option.split_once('=') {
                Some(("lowerdir", places)) => order.lower = Place::parse_list(places, index)?,
                Some(("upperdir", text)) => order.upper = Some(place(text)?),
                Some(("workdir", text)) => order.work = Some(place(text)?),
                Some(("device", path)) if fstype == "erofs" => order.devices.push(path.to_owned()),
                _ => order.data.push(option),
            }
        }
        Ok(order)
    }

    /// Every place in it but its source.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        let directories = self.directories.iter().map(|(place, _)| place);
        let overlay = self.lower.iter().chain(&self.upper).chain(&self.work);
        overlay.chain(directories)
    }
}

fn directory(
    words: &str,
    place: impl Fn(&str) -> Result<Place, RootfsError>,
    index: usize,
) -> Result<(Place, u32), RootfsError> {
    let mut parts = words.splitn(3, ':');
    let path = parts.next().unwrap_or_default();
    let mode = match parts.next() {
        None => Some(DIRECTORY_MODE),
        Some(mode) => u32::from_str_radix(mode, 8)
            .ok()
            .filter(|mode| mode & !0o777 == 0),
    };
    match (mode, parts.next()) {
        (Some(mode), None) => Ok((place(path)?, mode)),
        (Some(_), Some(_)) => Err(RootfsError::Unsupported(format!(
            "mount option {MKDIR}{words}: an owner"
        ))),
        (None, _) => Err(invalid(
            index,
            format!("{words:?} has no permissions of a directory"),
        )),
    }
}

/// A place in an earlier mount, for the guest.
pub(super) fn in_guest(place: &Place) -> Option<message::Place> {
    match place {
        Place::Host(_) => None,
        Place::Mount { index, path } => Some(message::Place {
            mount: u32::try_from(*index).ok()?,
            path: path.clone(),
        }),
    }
}
