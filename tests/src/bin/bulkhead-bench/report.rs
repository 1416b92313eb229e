//! Results, for people and for programs.

use serde::Serialize;

/// One line of a report.
#[derive(Debug, Serialize)]
pub struct Measurement {
    bench: String,
    runtime: &'static str,
    unit: &'static str,
    n: usize,
    min: f64,
    median: f64,
    max: f64,
}

// === impl Measurement ===

impl Measurement {
    /// Sums up samples, of which there must be one at least.
    pub fn of(
        bench: String,
        runtime: &'static str,
        unit: &'static str,
        mut samples: Vec<f64>,
    ) -> Measurement {
        assert!(!samples.is_empty(), "{bench}: no samples");
        samples.sort_by(f64::total_cmp);
        let middle = samples.len() / 2;
        let median = if samples.len() % 2 == 1 {
            samples[middle]
        } else {
            f64::midpoint(samples[middle - 1], samples[middle])
        };
        let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
        Measurement {
            bench,
            runtime,
            unit,
            n: samples.len(),
            min: rounded(samples[0]),
            median: rounded(median),
            max: rounded(samples[samples.len() - 1]),
        }
    }
}

/// Prints the lines of one benchmark: a table, or a JSON object each.
pub fn print(measurements: &[Measurement], json: bool) {
    if measurements.is_empty() {
        return;
    }
    if json {
        for measurement in measurements {
            println!(
                "{}",
                serde_json::to_string(measurement).expect("plain numbers and strings")
            );
        }
        return;
    }
    println!(
        "{:<24} {:<10} {:>6} {:>12} {:>12} {:>12}  unit",
        "bench", "runtime", "n", "min", "median", "max"
    );
    for Measurement {
        bench,
        runtime,
        unit,
        n,
        min,
        median,
        max,
    } in measurements
    {
        println!("{bench:<24} {runtime:<10} {n:>6} {min:>12.3} {median:>12.3} {max:>12.3}  {unit}");
    }
    println!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        let of = |samples: &[f64]| Measurement::of("b".to_owned(), "r", "ms", samples.to_vec());
        let odd = of(&[3.0, 1.0, 2.0]);
        assert_eq!((odd.min, odd.median, odd.max, odd.n), (1.0, 2.0, 3.0, 3));
        assert_eq!(of(&[4.0, 1.0]).median, 2.5);
    }
}
