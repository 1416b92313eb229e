//! Which sources of a root file system share a disk.
//!
//! A disk costs the guest ten milliseconds and more under translation: its kernel asks it thirty questions. An image
//! has a hundred layers at times. So layers lie on one disk, one after another, and the guest is told where.

use crate::vmm::{MAX_IMAGES, SECTOR, ranges};

/// What decides whether a source can share a disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// A regular file that is only read.
    pub is_image: bool,
    /// Its size.
    pub bytes: u64,
}

/// Where a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    /// Number of its disk.
    pub disk: usize,
    /// Where it begins there.
    pub offset: u64,
    /// Its size there; 0 if it is the whole disk.
    pub length: u64,
}

/// A seat for each source. Pure. Disks are counted from 0 in the order of their first sources, and sources lie on
/// their disk in their own order.
pub(super) fn seats(sources: &[Source]) -> Vec<Seat> {
    let sharing: Vec<_> = (0..sources.len())
        .filter(|index| can_share(&sources[*index]))
        .collect();
    // The first of those that share a disk, for each that does.
    let mut shared = vec![None; sources.len()];
    for group in sharing.chunks(MAX_IMAGES).filter(|group| group.len() > 1) {
        let places = ranges(group.iter().map(|index| sources[*index].bytes));
        for (index, place) in group.iter().zip(places) {
            shared[*index] = Some((group[0], place));
        }
    }
    let mut seats: Vec<Seat> = Vec::with_capacity(sources.len());
    let mut disks = 0;
    for (index, shared) in shared.into_iter().enumerate() {
        let (first, offset, length) = match shared {
            Some((first, place)) => (first, place.start, place.end - place.start),
            None => (index, 0, 0),
        };
        let disk = if first == index {
            disks += 1;
            disks - 1
        } else {
            seats[first].disk
        };
        seats.push(Seat { disk, offset, length });
    }
    seats
}

fn can_share(source: &Source) -> bool {
    source.is_image && source.bytes > 0 && source.bytes.is_multiple_of(SECTOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::FIRST_IMAGE;

    const LAYER: Source = Source {
        is_image: true,
        bytes: 8192,
    };
    const WRITABLE: Source = Source {
        is_image: false,
        bytes: 8192,
    };

    fn disks(sources: &[Source]) -> Vec<usize> {
        seats(sources).iter().map(|seat| seat.disk).collect()
    }

    #[test]
    fn layers_lie_on_one_disk_one_after_another() {
        let seats = seats(&[WRITABLE, LAYER, LAYER, WRITABLE, LAYER]);
        let places: Vec<_> = seats
            .iter()
            .map(|seat| (seat.disk, seat.offset, seat.length))
            .collect();
        let second = FIRST_IMAGE + LAYER.bytes;
        assert_eq!(
            places,
            [
                (0, 0, 0),
                (1, FIRST_IMAGE, 8192),
                (1, second, 8192),
                (2, 0, 0),
                (1, second + 8192, 8192),
            ]
        );
    }

    #[test]
    fn one_alone_has_the_whole_disk() {
        for source in [LAYER, WRITABLE] {
            let whole = Seat {
                disk: 0,
                offset: 0,
                length: 0,
            };
            assert_eq!(seats(&[source]), [whole]);
        }
    }

    #[test]
    fn what_has_no_whole_sectors_has_a_disk_of_its_own() {
        let odd = Source { bytes: 4097, ..LAYER };
        let empty = Source { bytes: 0, ..LAYER };
        assert_eq!(disks(&[LAYER, odd, empty, LAYER]), [0, 1, 2, 0]);
    }

    #[test]
    fn a_disk_has_no_more_than_it_can_have_partitions() {
        let disks = disks(&[LAYER; 2 * MAX_IMAGES + 1]);
        assert_eq!((disks[0], disks[MAX_IMAGES - 1]), (0, 0));
        assert_eq!((disks[MAX_IMAGES], disks[2 * MAX_IMAGES]), (1, 2));
    }
}
