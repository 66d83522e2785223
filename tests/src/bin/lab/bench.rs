//! `lab bench`: the benchmarks, as a table for people or as JSON, one figure a line.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use wgxdp_tests::bench::{Benchmark, Figure, Scale, machine};

use crate::columns::columns;
use crate::run::print_json;

/// Options of `lab bench`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One benchmark alone; without it, all
    #[arg(value_parser = parse_name)]
    name: Option<Benchmark>,
    /// Of the benchmark `failover`, only the rows with this in their names
    #[arg(long, value_name = "SUBSTRING", requires = "name")]
    only: Option<String>,
    /// Fewer samples: under a minute for each benchmark
    #[arg(long)]
    quick: bool,
    /// Print one JSON object for each figure to standard output, everything else to standard error
    #[arg(long)]
    json: bool,
}

fn parse_name(name: &str) -> Result<Benchmark, String> {
    let known = Benchmark::ALL.into_iter().find(|benchmark| benchmark.name() == name);
    known.ok_or_else(|| format!("the benchmarks are {}", Benchmark::ALL.map(Benchmark::name).join(", ")))
}

/// Runs one benchmark, or all.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmarks load BPF programs and make network namespaces, and need root: try again with sudo"
    );
    ensure!(
        options.only.is_none() || options.name.is_some_and(Benchmark::has_rows),
        "--only picks rows of the benchmark failover, and this one has none"
    );
    let scale = if options.quick { Scale::Quick } else { Scale::Full };
    say(&format!("on {}", machine::describe()?));
    for benchmark in Benchmark::ALL {
        if options.name.is_some_and(|name| name != benchmark) {
            continue;
        }
        let title = format!("{}: {}", benchmark.name(), benchmark.describe());
        say(&title);
        let figures = benchmark.run(scale, options.only.as_deref().unwrap_or(""), &mut |line| {
            say(&format!("  {line}"));
        });
        let figures = figures.with_context(|| format!("benchmark {}", benchmark.name()))?;
        if options.json {
            figures.iter().try_for_each(print_json)?;
        } else {
            let table = format!("\n{}\n", table(&figures));
            io::stdout()
                .write_all(table.as_bytes())
                .context("writing to standard output")?;
        }
    }
    Ok(())
}

/// A line about what goes on, beside the result.
fn say(line: &str) {
    // Nobody is left to tell when the terminal has gone.
    let _ = writeln!(io::stderr(), "{line}");
}

fn table(figures: &[Figure]) -> String {
    let header = ["figure", "value", "unit", "samples", "must be", ""].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(figures.iter().map(row)).collect();
    columns(&rows, |column| matches!(column, 0 | 2 | 5))
}

fn row(figure: &Figure) -> [String; 6] {
    let verdict = match figure.is_met() {
        None => "",
        Some(true) => "met",
        Some(false) => "NOT met",
    };
    [
        figure.metric.clone(),
        figure.value.to_string(),
        figure.unit.as_str().to_owned(),
        figure.samples.to_string(),
        figure.bound.map(|bound| bound.to_string()).unwrap_or_default(),
        verdict.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use wgxdp_tests::bench::{Bound, Unit};

    use super::*;

    #[test]
    fn a_row_says_what_must_be_and_whether_it_is() {
        let figure = |metric, value| Figure::new("gap", metric, value, Unit::Milliseconds, 30);
        let text = table(&[
            figure("blackhole_p50", 61.5).bounded(Bound::AtMost(80.0)),
            figure("blackhole_p99", 130.0).bounded(Bound::AtMost(120.0)),
            figure("blackhole_max", 131.0),
        ]);
        let expected = "\
figure          value   unit   samples   must be
─────────────   ─────   ────   ───────   ───────   ───────
blackhole_p50    61.5   ms          30      ≤ 80   met
blackhole_p99     130   ms          30     ≤ 120   NOT met
blackhole_max     131   ms          30
";
        assert_eq!(text, expected);
    }

    #[test]
    fn every_benchmark_is_found_by_its_name_and_no_other() {
        for benchmark in Benchmark::ALL {
            assert_eq!(parse_name(benchmark.name()), Ok(benchmark));
        }
        assert_eq!(
            parse_name("gaps").unwrap_err(),
            "the benchmarks are programs, clients, detection, probing, registration, gap, gap-scale, failover, throughput"
        );
    }
}
