//! What became of the calls.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use tower_oauth2_client_credentials::{BoxError, ErrorClass, NotReplaced, TokenError};

use crate::faults::Bench;

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Cause {
    /// There was no token, or no newer one.
    Token(ErrorClass),
    /// A newer token was rejected as well.
    Cooldown,
    Status(StatusCode),
    /// The API could not be reached, or broke off.
    Connection,
}

impl Cause {
    fn of(answer: &Result<Response<Bytes>, BoxError>) -> Option<Self> {
        match answer {
            Ok(answer) if answer.status() == StatusCode::OK => None,
            Ok(answer) => Some(match answer.extensions().get::<NotReplaced>() {
                Some(why) if why.error().is_some() => Self::Token(why.error()?.class()),
                Some(why) if why.is_cooling_down() || why.is_futile() => Self::Cooldown,
                _ => Self::Status(answer.status()),
            }),
            Err(error) => Some(match error.downcast_ref::<TokenError>() {
                Some(error) => Self::Token(error.class()),
                None => Self::Connection,
            }),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(class) => write!(f, "no token: {class}"),
            Self::Cooldown => f.write_str("401, cooling down"),
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
            Self::Connection => f.write_str("connection"),
        }
    }
}

#[derive(Default)]
pub(crate) struct Record {
    sums: Mutex<Sums>,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Sums {
    calls: u64,
    last_line: u64,
    /// Good calls during which nothing was done to the server; all good calls.
    calm: Histogram,
    all: Histogram,
    /// By fault and cause.
    unavoidable: BTreeMap<String, u64>,
    needless: BTreeMap<String, u64>,
    last_failure: BTreeMap<&'static str, Instant>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A call to `bench` from `start` until now.
    pub(crate) fn add(
        &self,
        bench: &Bench,
        which: usize,
        start: Instant,
        answer: &Result<Response<Bytes>, BoxError>,
    ) {
        let end = Instant::now();
        let cause = Cause::of(answer);
        let mut sums = self.sums.lock().unwrap();
        sums.calls += 1;
        let Some(cause) = cause else {
            sums.all.add(end - start);
            if bench.faults(start, end).is_empty() {
                sums.calm.add(end - start);
            }
            return;
        };
        sums.last_failure.insert(bench.name, end);
        let faults = bench.faults(start, end);
        if let Some(fault) = bench.excuse(which, start, end, &cause) {
            *sums.unavoidable.entry(format!("{} {fault:?}: {cause}", bench.name)).or_default() += 1;
        } else {
            let why = format!("{} {faults:?}: {cause}", bench.name);
            if !sums.needless.contains_key(&why) {
                println!("need not have failed: {why}: {answer:?}");
            }
            *sums.needless.entry(why).or_default() += 1;
        }
    }

    pub(crate) fn needless(&self, why: &str) {
        println!("need not have failed: {why}");
        *self.sums.lock().unwrap().needless.entry(why.to_owned()).or_default() += 1;
    }

    pub(crate) fn has_failed_since(&self, bench: &str, since: Instant) -> bool {
        self.sums.lock().unwrap().last_failure.get(bench).is_some_and(|at| *at >= since)
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn is_flawless(&self) -> bool {
        let sums = self.sums.lock().unwrap();
        sums.needless.is_empty() && sums.calls > 0
    }

    /// The live line.
    pub(crate) fn line(&self, elapsed: Duration, benches: &[Arc<Bench>]) -> String {
        let mut sums = self.sums.lock().unwrap();
        let rate = sums.calls - sums.last_line;
        sums.last_line = sums.calls;
        let mut line = format!(
            "{:>5} s {:>8} calls {rate:>5}/s {:>5} tokens   failed {:>4} unavoidably, {} needlessly  ",
            elapsed.as_secs(),
            sums.calls,
            benches.iter().map(|bench| bench.issued()).sum::<u64>(),
            sums.unavoidable.values().sum::<u64>(),
            sums.needless.values().sum::<u64>(),
        );
        let now = Instant::now();
        for bench in benches {
            for fault in bench.faults(now, now) {
                write!(line, " {}: {fault:?}", bench.name).expect("a string");
            }
        }
        line
    }

    /// What is told at the end.
    pub(crate) fn table(&self, elapsed: Duration, benches: &[Arc<Bench>], before: f64) -> String {
        let sums = self.sums.lock().unwrap();
        let mut out = format!("\n{:<28}{} in {} s\n", "calls", sums.calls, elapsed.as_secs());
        for bench in benches {
            let faults: Vec<String> = bench
                .count()
                .into_iter()
                .map(|(fault, count)| format!("{count} {fault:?}"))
                .collect();
            writeln!(out, "{:<28}{}", format!("faults of {}", bench.name), faults.join(", "))
                .expect("a string");
            writeln!(out, "{:<28}{}", format!("tokens of {}", bench.name), bench.issued())
                .expect("a string");
        }
        for (title, failures) in
            [("failed unavoidably", &sums.unavoidable), ("failed needlessly", &sums.needless)]
        {
            writeln!(out, "{title:<28}{}", failures.values().sum::<u64>()).expect("a string");
            for (why, count) in failures {
                writeln!(out, "  {why:<50}{count:>6}").expect("a string");
            }
        }
        writeln!(out, "{:<28}{:>9} {:>9} {:>9} {:>9}", "ms", "p50", "p99", "p99.9", "max")
            .expect("a string");
        for (title, histogram) in [("while nothing was wrong", &sums.calm), ("all", &sums.all)] {
            let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|part| histogram.at(part));
            writeln!(out, "  {title:<26}{p50:>9.1} {p99:>9.1} {p999:>9.1} {max:>9.1}")
                .expect("a string");
        }
        write!(
            out,
            "{:<28}{before:.1} at the start, {:.1} at the end",
            "memory (RSS), MiB",
            memory()
        )
        .expect("a string");
        out
    }
}

/// Durations, to within a sixteenth, in constant memory.
#[derive(Default)]
struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    fn add(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(16);
        let shift = micros.ilog2() - 4;
        *self.0.entry((micros >> shift) << shift).or_default() += 1;
    }

    /// The duration, in milliseconds, that `part` of them do not exceed by more than a sixteenth.
    fn at(&self, part: f64) -> f64 {
        let total: u64 = self.0.values().sum();
        #[allow(clippy::cast_precision_loss, reason = "counts and milliseconds for people to read")]
        let wanted = total as f64 * part;
        let mut sum = 0;
        for (micros, count) in &self.0 {
            sum += count;
            #[allow(clippy::cast_precision_loss, reason = "as above")]
            if sum as f64 >= wanted {
                return *micros as f64 / 1000.0;
            }
        }
        0.0
    }
}

/// The memory of this process, in MiB.
pub(crate) fn memory() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / 1024.0
}
