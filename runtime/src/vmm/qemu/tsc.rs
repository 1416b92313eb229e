//! The frequency of the host's time stamp counter, which a translated guest sees as its own.

use std::arch::x86_64::_rdtsc;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cache::BootCache;

/// Long enough for an error below 10 ppm with a clock read in 50 ns, short enough to wait for once a boot.
const MEASURED: Duration = Duration::from_millis(10);
/// File name of the cached figure.
const CACHE: &str = "tsc.json";

/// The frequency in kHz, or `None` where the counter stops or changes speed. Measured once per boot of the
/// host, and remembered in `directory`. Takes 10 ms the first time. No two measurements agree to the last digit,
/// and templates are found by the whole command line: of several at once, the first counts for all.
pub fn frequency_khz(directory: &Path) -> Option<u32> {
    let cache = BootCache::new(directory.join(CACHE));
    if let Some(known) = cache.read() {
        return known;
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let frequency = is_steady(&cpuinfo).then(measure).flatten();
    cache.settle(frequency)
}

/// Whether the first processor's counter runs at one speed, always.
fn is_steady(cpuinfo: &str) -> bool {
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    ["constant_tsc", "nonstop_tsc"]
        .iter()
        .all(|flag| flags.split_ascii_whitespace().any(|word| word == *flag))
}

fn measure() -> Option<u32> {
    let (ticks, start) = (counter(), Instant::now());
    std::thread::sleep(MEASURED);
    let (ticks, elapsed) = (counter().checked_sub(ticks)?, start.elapsed());
    u32::try_from(u128::from(ticks) * 1_000_000 / elapsed.as_nanos()).ok()
}

#[allow(unsafe_code)]
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_steady_counter_counts() {
        assert!(is_steady(
            "processor : 0\nflags\t\t: fpu constant_tsc rep_good nonstop_tsc cpuid\n"
        ));
        assert!(!is_steady("flags\t\t: fpu constant_tsc rep_good cpuid\n"));
        assert!(!is_steady(""));
    }

    #[test]
    fn those_who_measure_at_once_have_the_same_figure() {
        let directory = tempfile::tempdir().unwrap();
        let figures: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| frequency_khz(directory.path())))
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(figures.iter().all(|figure| *figure == figures[0]), "{figures:?}");
    }

    #[test]
    fn the_figure_is_a_plausible_frequency_and_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let Some(first) = frequency_khz(directory.path()) else {
            return;
        };
        assert!((100_000..10_000_000).contains(&first), "{first} kHz");
        assert_eq!(frequency_khz(directory.path()), Some(first));
    }
}
