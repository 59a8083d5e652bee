//! What was measured, as tables of Markdown. A part that was not measured has none.

use std::fmt::Write;

use crate::{
    KEEPING,
    cost::{Detour, LENGTHS, Length, Peek, Way},
    floor,
    herd::{Ends, Herd, Refusal, Who},
    hit::Hit,
    loopback::{self, Row},
    measure::Spread,
    memory::Held,
    part::Measured,
    threads::Threads,
    trees::Tree,
};

/// All of them, each under its heading.
#[must_use]
pub fn all(measured: &Measured) -> String {
    let parts = [
        hit(&measured.hit),
        threads(&measured.threads),
        paper(measured),
        tokens(&measured.tokens),
        herds(&measured.herd),
        refusals(&measured.refusals),
        detours(&measured.detour),
        peeks(&measured.peek),
        memory(&measured.memory),
        loopback(&measured.loopback),
        trees(&measured.trees),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
}

/// The short one, for the README of the crate.
#[must_use]
pub fn short(measured: &Measured) -> String {
    const OWN: [(&str, &str); 8] = [
        ("AddAuthorization", "a fixed header, with tower-http's `AddAuthorization`"),
        (floor::NAME, "the same, plus a check of the response status (floor)"),
        ("never_replay", "**the layer, `never_replay()`**"),
        ("by hand", "by hand: an async mutex, `format!`, a boxed future"),
        ("Retry", "a fixed header and a clone for one retry, with tower's `Retry`"),
        ("replay", "**the layer, with the request kept for a replay**"),
        ("replay, a clone per request", "**the same, with a service clone per request**"),
        ("by hand, with a retry", "by hand, with a clone for one retry"),
    ];
    let row = |hit: &Hit, name: &str| {
        vec![
            name.to_owned(),
            count(hit.instructions.median),
            count(hit.allocations),
            count(hit.nanos.median.round() as i64),
        ]
    };
    let mut rows = Vec::new();
    for (name, long) in OWN {
        rows.extend(find(&measured.hit, name).map(|hit| row(hit, long)));
    }
    let peers = measured
        .hit
        .iter()
        .filter(|hit| hit.name != hit.base && OWN.iter().all(|(own, _)| *own != hit.name));
    rows.extend(peers.map(|hit| row(hit, &hit.name)));
    let mut text = table("lrrr", &["", "instructions", "allocations", "ns"], rows);
    let crates = |features| {
        let own = |tree: &&Tree| is_own(tree) && tree.features == features;
        measured.trees.iter().find(own).map(|tree| tree.crates)
    };
    if let (Some(default), Some(none)) = (crates("default"), crates("none")) {
        let _ = write!(
            text,
            "\n\n{default} crates with default features, {none} without, including this one."
        );
    }
    text
}

pub(crate) fn find<'a>(hits: &'a [Hit], name: &str) -> Option<&'a Hit> {
    hits.iter().find(|hit| hit.name == name)
}

pub(crate) fn is_own(tree: &Tree) -> bool {
    tree.name == "tower-oauth2-client-credentials"
}

/// The middle, and a quarter from either end.
#[must_use]
pub fn show(spread: Spread, digits: usize) -> String {
    format!("{:.digits$} ({:.digits$}..{:.digits$})", spread.median, spread.low, spread.high)
}

/// With commas.
pub(crate) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// `sides` has an `l` or an `r` for each column.
pub(crate) fn table(sides: &str, head: &[&str], rows: Vec<Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let rule: Vec<&str> =
        sides.chars().map(|side| if side == 'r' { "---:" } else { "---" }).collect();
    let mut lines = vec![line(&head), format!("|{}|", rule.join("|"))];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}

fn section(title: &str, note: &str, table: String) -> Option<String> {
    Some(format!("## {title}\n\n{note}\n\n{table}"))
}

fn hit(hits: &[Hit]) -> Option<String> {
    if hits.is_empty() {
        return None;
    }
    let rows = hits.iter().map(|hit| {
        let is_base = hit.name == hit.base;
        let like = if KEEPING.contains(&hit.name.as_str()) { "Retry" } else { "AddAuthorization" };
        let like = find(hits, like).filter(|_| !is_base);
        let times = |part: fn(&Hit) -> f64| {
            like.map_or_else(String::new, |like| format!("{:.2}", part(hit) / part(like)))
        };
        vec![
            hit.name.clone(),
            if is_base { "itself".to_owned() } else { hit.base.clone() },
            format!("{:.0}", hit.nanos.median),
            format!("{:.0}..{:.0}", hit.nanos.low, hit.nanos.high),
            count(hit.instructions.median),
            format!("{}..{}", count(hit.instructions.least), count(hit.instructions.most)),
            count(hit.allocations),
            count(hit.bytes),
            times(|hit| hit.nanos.median),
            times(|hit| hit.instructions.median as f64),
        ]
    });
    section(
        "Cached token",
        "Cost of one request beyond the base. \"×\" is the ratio to `AddAuthorization`, or to \
         `Retry` for rows that keep the request (`Retry`, `replay`, \"with a retry\", \"auto \
         refresh\"). A base compared with itself shows the noise.",
        table(
            "llrrrrrrrr",
            &[
                "",
                "over",
                "ns",
                "quartiles",
                "instructions",
                "least..most",
                "allocations",
                "bytes",
                "× ns",
                "× instructions",
            ],
            rows.collect(),
        ),
    )
}

fn threads(all: &[Threads]) -> Option<String> {
    let first = all.first()?;
    let names: Vec<String> =
        first.points.iter().map(|(threads, _)| format!("{threads} thread(s)")).collect();
    let mut head = vec![""];
    head.extend(names.iter().map(String::as_str));
    head.push("2 : 1");
    let rows = all.iter().map(|one| {
        let mut row = vec![one.name.clone()];
        row.extend(one.points.iter().map(|(_, nanos)| show(*nanos, 0)));
        // A difference within the noise may be nothing, or less.
        let ratio = at(one, 2) / at(one, 1);
        row.push(if at(one, 1) > 0.0 { format!("{ratio:.2}") } else { "–".to_owned() });
        row
    });
    section(
        "Threads",
        "Processor time of one request in nanoseconds, beyond the base on the same number of \
         threads. Each thread has its own service, and all share one token. If there are more \
         threads than cores, threads share cores.\n\n\
         ![cost against threads](threads.svg)",
        table(&format!("l{}", "r".repeat(head.len() - 1)), &head, rows.collect()),
    )
}

/// The median on so many threads.
pub(crate) fn at(one: &Threads, threads: usize) -> f64 {
    one.points.iter().find(|point| point.0 == threads).map_or(f64::NAN, |point| point.1.median)
}

/// A model, where there is no machine to measure on.
fn paper(measured: &Measured) -> Option<String> {
    /// Nanoseconds for which a line is busy with one of the two writes of a request.
    const BUSY: f64 = 28.0;
    let of = |name: &str| measured.threads.iter().find(|one| one.name == name);
    let fixed = of("AddAuthorization")?;
    let line = (at(fixed, 2) - at(fixed, 1)).max(0.0);
    let request = measured.loopback.iter().find(|row| {
        row.way == loopback::Way::Header
            && row.scene.protocol == loopback::Protocol::Http1
            && (row.scene.tasks, row.scene.bytes) == (16, 1_200)
    })?;
    let request = request.cpu.median * 1e3;
    let rows = [8.0, 32.0, 64.0, 128.0].map(|threads: f64| {
        let busy = threads * 2.0 * BUSY / request;
        let added = line / (1.0 - busy);
        let cost = |name: &str, lines: f64| {
            of(name).map_or_else(String::new, |one| {
                if busy < 1.0 || lines == 0.0 {
                    let added = if lines == 0.0 { 0.0 } else { lines * added };
                    format!("{:.0}", at(one, 1) + added)
                } else {
                    "saturated".to_owned()
                }
            })
        };
        vec![
            format!("{threads}"),
            format!("{:.0} %", busy * 100.0),
            if busy < 1.0 { format!("{added:.0}") } else { "saturated".to_owned() },
            cost("AddAuthorization", 1.0),
            cost("never_replay", 0.0),
            cost("Retry", 1.0),
            cost("replay", 0.0),
        ]
    });
    section(
        "Beyond this machine: a model",
        &format!(
            "A model, not a measurement. An atomic count that all threads write to is a cache \
             line that moves from core to core: here it adds {line:.0} ns to a request \
             (`AddAuthorization` on two threads minus on one). The model assumes that the line is \
             busy for {BUSY:.0} ns for each of a request's two writes, and that a request takes \
             {:.1} µs of its thread in total (HTTP/1.1 on loopback, see below). A thread that \
             finds the line busy waits, as in a queue, so the added time grows by 1 / (1 - busy). \
             Services of this crate write to no shared line once they have been in use for two \
             seconds. In ns:",
            request / 1e3
        ),
        table(
            "rrrrrrr",
            &[
                "threads",
                "line busy",
                "a shared line adds",
                "AddAuthorization (1 line)",
                "never_replay (0)",
                "Retry (1 line)",
                "replay (0)",
            ],
            rows.to_vec(),
        ),
    )
}

fn tokens(lengths: &[Length]) -> Option<String> {
    if lengths.is_empty() {
        return None;
    }
    let rows = Way::ALL[1..].iter().map(|way| {
        let mut row = vec![way.name().to_owned()];
        row.extend(LENGTHS.iter().map(|bytes| {
            let one = lengths.iter().find(|one| one.way == *way && one.bytes == *bytes);
            one.map_or_else(String::new, |one| {
                let instructions = count(one.instructions.median);
                format!("{}; {instructions}", show(one.nanoseconds, 0))
            })
        }));
        row
    });
    let names = LENGTHS.map(|bytes| format!("{} bytes", count(bytes as i64)));
    let mut head = vec![""];
    head.extend(names.iter().map(String::as_str));
    section(
        "Token length",
        "Nanoseconds and instructions of one request, beyond the bare service.",
        table("lrrrrr", &head, rows.collect()),
    )
}

fn herds(herds: &[Herd]) -> Option<String> {
    if herds.is_empty() {
        return None;
    }
    let mut sizes: Vec<usize> = herds.iter().map(|herd| herd.waiters).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let names: Vec<String> = sizes.iter().map(|size| count(*size as i64)).collect();
    let mut head = vec!["waiters"];
    head.extend(names.iter().map(String::as_str));
    let rows = Who::ALL.into_iter().map(|who| {
        let mut row = vec![who.name().to_owned()];
        row.extend(sizes.iter().map(|size| {
            let one = herd(herds, who, 2, Ends::Well, *size);
            one.map_or_else(
                || "–".to_owned(),
                |one| format!("{} (× {:.2})", micros(one.last.median), one.over.median),
            )
        }));
        row
    });
    let sides = format!("l{}", "r".repeat(sizes.len()));
    let mut text = table(&sides, &head, rows.collect());
    for threads in [2, 1] {
        for ends in [Ends::Well, Ends::Badly] {
            let notify = herd(herds, Who::Notify, threads, ends, 10_000)?.last.median;
            let rows = Who::ALL.into_iter().filter_map(|who| {
                let one = herd(herds, who, threads, ends, 10_000)?;
                Some(vec![
                    who.name().to_owned(),
                    one.requests.to_string(),
                    show(one.first, 1),
                    show(one.median, 0),
                    show(one.last, 0),
                    show(one.over, 2),
                    format!("{:.2}", one.last.median / notify),
                ])
            });
            let how = match ends {
                Ends::Well => "a token arrives",
                Ends::Badly => "the renewal fails",
            };
            let rows = table(
                "lrrrrrr",
                &[
                    "",
                    "token requests",
                    "first, µs",
                    "median, µs",
                    "last, µs",
                    "× floor",
                    "× Notify",
                ],
                rows.collect(),
            );
            let _ = write!(text, "\n\n10,000 waiters, {threads} worker(s), {how}:\n\n{rows}");
        }
    }
    section(
        "Herds",
        "Tasks that wait for one token, on two workers: the time from its arrival until the last \
         task is served, and in parentheses the ratio to the floor of the same round. The floor \
         of the layer is a `Notify` followed by the request: kept or not, with a header added, \
         and sent. `–` means not measured, because it takes too long.\n\n\
         ![arrival to last against waiters](herd.svg)",
        text,
    )
}

pub(crate) fn herd(
    herds: &[Herd],
    who: Who,
    threads: usize,
    ends: Ends,
    waiters: usize,
) -> Option<&Herd> {
    herds.iter().find(|herd| {
        (herd.who, herd.threads, herd.ends, herd.waiters) == (who, threads, ends, waiters)
    })
}

fn micros(micros: f64) -> String {
    if micros < 1e3 { format!("{micros:.0} µs") } else { format!("{:.1} ms", micros / 1e3) }
}

fn refusals(refusals: &[Refusal]) -> Option<String> {
    let first = refusals.first()?;
    let rows = refusals
        .iter()
        .map(|one| vec![one.who.name().to_owned(), one.requests.to_string(), show(one.last, 1)]);
    section(
        "Refusals",
        &format!(
            "{} tasks wait for a token, and the endpoint refuses after 50 ms: the time from the \
             start of the first task to the failure of the last.",
            first.waiters
        ),
        table("lrr", &["", "token requests", "last, ms"], rows.collect()),
    )
}

fn detours(detours: &[Detour]) -> Option<String> {
    if detours.is_empty() {
        return None;
    }
    let rows = detours.iter().map(|one| {
        vec![
            format!("{:?}", one.challenge),
            show(one.accepted, 0),
            show(one.rejected, 0),
            show(one.ratio, 2),
        ]
    });
    section(
        "Replay after a 401",
        "The cost of an accepted request, and of a request that is rejected and sent again with a \
         newer token from the cache, by the `WWW-Authenticate` of the rejection:",
        table("lrrr", &["challenge", "accepted, ns", "rejected, ns", "ratio"], rows.collect()),
    )
}

fn peeks(peeks: &[Peek]) -> Option<String> {
    if peeks.is_empty() {
        return None;
    }
    let rows = peeks.iter().map(|one| {
        vec![one.threads.to_string(), show(one.reference, 1), show(one.peek, 1), show(one.over, 1)]
    });
    section(
        "Peek",
        "`TokenCache::peek` compared with reading a plain reference, in ns.",
        table("rrrr", &["threads", "reference", "peek", "over"], rows.collect()),
    )
}

fn memory(held: &[Held]) -> Option<String> {
    if held.is_empty() {
        return None;
    }
    let rows = held.iter().map(|one| vec![one.what.clone(), count(one.bytes)]);
    section("Memory", "Bytes allocated and not freed.", table("lr", &["", "bytes"], rows.collect()))
}

fn loopback(all: &[Row]) -> Option<String> {
    if all.is_empty() {
        return None;
    }
    let rows = all.iter().map(|one| {
        let share =
            |spread| if one.way == loopback::Way::Header { String::new() } else { show(spread, 1) };
        vec![
            one.scene.protocol.name().to_owned(),
            one.scene.tasks.to_string(),
            count(one.scene.bytes as i64),
            one.way.name().to_owned(),
            count(one.per_second.median.round() as i64),
            show(one.p50, 1),
            show(one.p99, 1),
            show(one.cpu, 2),
            share(one.p50_share),
            share(one.p99_share),
            share(one.cpu_share),
        ]
    });
    section(
        "Real requests on loopback",
        "hyper-util's client and hyper's server, on one thread each. CPU is the processor time \
         of the client's thread. The percentages compare each round with the adjacent round of \
         the fixed header.",
        table(
            "lrrlrrrrrrr",
            &[
                "", "tasks", "token", "", "req/s", "p50, µs", "p99, µs", "CPU, µs", "p50, %",
                "p99, %", "CPU, %",
            ],
            rows.collect(),
        ),
    )
}

fn trees(trees: &[Tree]) -> Option<String> {
    if trees.is_empty() {
        return None;
    }
    let rows = trees.iter().map(|one| {
        let build = one.build.map(|took| format!("{:.1}", took.as_secs_f64()));
        vec![
            one.name.clone(),
            one.features.clone(),
            one.version.clone(),
            one.crates.to_string(),
            build.unwrap_or_else(|| "–".to_owned()),
        ]
    });
    section(
        "Dependencies",
        "The crate as the only dependency of a program: the number of crates compiled for it, \
         including itself but not those that only build scripts need, and the time of one cold \
         `cargo build --release`.",
        table("lllrr", &["", "features", "version", "crates", "build, s"], rows.collect()),
    )
}
