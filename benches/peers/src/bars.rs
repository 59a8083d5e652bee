//! The bars that were set before anything was measured, and what was found. What was not measured
//! has no row.

use crate::{
    KEEPING,
    cost::futures,
    floor,
    herd::{Ends, Who},
    hit::Hit,
    memory::Held,
    part::Measured,
    tables::{at, count, find, herd, is_own, table},
    threads::Threads,
};

/// One of them. `met` is `None` where nothing was set.
struct Bar {
    what: String,
    bar: String,
    found: String,
    met: Option<bool>,
}

impl Bar {
    fn new(what: &str, bar: &str, found: String, met: impl Into<Option<bool>>) -> Self {
        Self { what: what.to_owned(), bar: bar.to_owned(), found, met: met.into() }
    }
}

#[must_use]
pub fn bars(measured: &Measured) -> String {
    let mut bars = Vec::new();
    hits(&measured.hit, &mut bars);
    threads(&measured.threads, &mut bars);
    peeks(measured, &mut bars);
    herds(measured, &mut bars);
    sizes(&mut bars);
    detours(measured, &mut bars);
    memory(&measured.memory, &mut bars);
    trees(measured, &mut bars);
    let rows = bars.into_iter().map(|bar| {
        let met = match bar.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "–",
        };
        vec![bar.what, bar.bar, bar.found, met.to_owned()]
    });
    table("llll", &["", "bar", "measured", "met"], rows.collect())
}

fn hits(hits: &[Hit], bars: &mut Vec<Bar>) {
    let of = |name| find(hits, name);
    let (Some(fixed), Some(never), Some(retry), Some(replay), Some(clone)) = (
        of("AddAuthorization"),
        of("never_replay"),
        of("Retry"),
        of("replay"),
        of("replay, a clone per request"),
    ) else {
        return;
    };
    let ratio =
        |one: &Hit, other: &Hit| one.instructions.median as f64 / other.instructions.median as f64;
    let found = |one: &Hit, other: &Hit| {
        format!(
            "{:.2} × ({} of {} instructions), {} of {} allocations",
            ratio(one, other),
            count(one.instructions.median),
            count(other.instructions.median),
            one.allocations,
            other.allocations
        )
    };
    let nanos = |one: &Hit| format!("{:.2} × ns", one.nanos.median / fixed.nanos.median);
    let mut what = format!("{}; {}", found(never, fixed), nanos(never));
    if let Some(floor) = of(floor::NAME) {
        what += &format!(
            ". A layer that only checks the status: {:.2} ×; {}",
            ratio(floor, fixed),
            nanos(floor)
        );
    }
    bars.push(Bar::new(
        "cached token, `never_replay`",
        "≤ 1.25 × the instructions of `AddAuthorization`, no allocation",
        what,
        ratio(never, fixed) <= 1.25 && never.allocations == 0,
    ));
    bars.push(Bar::new(
        "cached token, request kept for a replay",
        "≤ 1.00 × the instructions of tower's `Retry` over a fixed header, no additional allocations",
        found(replay, retry),
        ratio(replay, retry) <= 1.0 && replay.allocations <= retry.allocations,
    ));
    bars.push(Bar::new(
        "the same, with a service clone per request",
        "≤ 1.15 × the above",
        found(clone, replay),
        ratio(clone, replay) <= 1.15,
    ));
    for (own, keeps, what) in [
        (never, false, "`never_replay` compared with peers that do not retry"),
        (replay, true, "`replay` compared with peers that keep the request"),
    ] {
        let (found, met) = beside(hits, own, keeps);
        bars.push(Bar::new(what, "fewer ns and fewer instructions than every peer", found, met));
    }
}

/// Compares `own` with its peers. Each is listed with its cost as a multiple of `own`'s.
fn beside(hits: &[Hit], own: &Hit, keeps: bool) -> (String, bool) {
    let others = hits.iter().filter(|hit| {
        hit.name != hit.base
            // A fixed header has no token to renew. Their bars are others.
            && !["AddAuthorization", "Retry", floor::NAME].contains(&&*hit.name)
            && !["never_replay", "replay", "replay, a clone per request"].contains(&&*hit.name)
            && KEEPING.contains(&&*hit.name) == keeps
    });
    let (mut slower, mut not_slower) = (Vec::new(), Vec::new());
    for other in others {
        let nanos = other.nanos.median / own.nanos.median;
        let instructions = other.instructions.median as f64 / own.instructions.median as f64;
        let told = format!("{} ({nanos:.2} × ns, {instructions:.2} × instructions)", other.name);
        let list = if nanos > 1.0 && instructions > 1.0 { &mut slower } else { &mut not_slower };
        list.push((nanos, told));
    }
    let list = |mut names: Vec<(f64, String)>| {
        names.sort_by(|one, other| one.0.total_cmp(&other.0));
        names.into_iter().map(|(_, told)| told).collect::<Vec<_>>().join(", ")
    };
    let met = not_slower.is_empty();
    let mut found = String::new();
    if !met {
        found = format!("**not more expensive: {}**; ", list(not_slower));
    }
    (format!("{found}more expensive: {}", list(slower)), met)
}

fn threads(all: &[Threads], bars: &mut Vec<Bar>) {
    for name in ["never_replay", "replay"] {
        let Some(one) = all.iter().find(|one| one.name == name) else { continue };
        let (alone, both) = (at(one, 1), at(one, 2));
        bars.push(Bar::new(
            &format!("two threads compared with one, a service per thread: `{name}`"),
            "≤ 1.5 ×",
            format!("{:.2} × ({both:.0} ns, {alone:.0} ns)", both / alone),
            both <= 1.5 * alone,
        ));
    }
}

fn peeks(measured: &Measured, bars: &mut Vec<Bar>) {
    for peek in &measured.peek {
        bars.push(Bar::new(
            &format!("`TokenCache::peek`, {} thread(s)", peek.threads),
            "≤ 5 ns over a reference",
            format!("{:.1} ns", peek.over.median),
            peek.over.median <= 5.0,
        ));
    }
}

fn herds(measured: &Measured, bars: &mut Vec<Bar>) {
    let of = |who, ends| herd(&measured.herd, who, 2, ends, 10_000);
    for (ends, how) in [(Ends::Well, "the token arrives"), (Ends::Badly, "the renewal fails")] {
        let Some(notify) = of(Who::Notify, ends) else { continue };
        for who in [Who::Cache, Who::NeverReplay, Who::Layer] {
            let Some(one) = of(who, ends) else { continue };
            let bare = one.last.median / notify.last.median;
            let mut found = format!("{:.2} ×, {} token request(s)", one.over.median, one.requests);
            let mut bar = "≤ 1.5 × bare `Notify`, one token request";
            if who != Who::Cache {
                bar = "≤ 1.5 × its floor: `Notify`, then a request; one token request";
                found = format!("{found}; {bare:.2} × bare `Notify`");
            }
            bars.push(Bar::new(
                &format!("10,000 waiters, arrival to last, {how}: {}", who.name()),
                bar,
                found,
                one.over.median <= 1.5 && one.requests == 1,
            ));
        }
    }
}

fn sizes(bars: &mut Vec<Bar>) {
    let futures = futures();
    let over = futures.never_replay - futures.inner;
    bars.push(Bar::new(
        "future of a hit, `never_replay`",
        "≤ inner future + 16 bytes",
        format!("{} + {over} bytes", futures.inner),
        over <= 16,
    ));
    bars.push(Bar::new(
        "future of a hit, replay",
        "≤ that of tower's `Retry`",
        format!("{} bytes, `Retry`'s {}", futures.replay, futures.retry),
        futures.replay <= futures.retry,
    ));
}

fn detours(measured: &Measured, bars: &mut Vec<Bar>) {
    for one in &measured.detour {
        bars.push(Bar::new(
            &format!("a 401 with replay, challenge: {:?}", one.challenge),
            "≤ 3 × the plain call",
            format!("{:.2} ×", one.ratio.median),
            one.ratio.median <= 3.0,
        ));
    }
}

fn memory(held: &[Held], bars: &mut Vec<Bar>) {
    let of = |what: &str| held.iter().find(|one| one.what == what).map(|one| one.bytes);
    let cache = of("TokenCache::new, with a token of 1,200 bytes");
    if let Some(cache) = cache {
        bars.push(Bar::new(
            "a cache with a token of 1,200 bytes",
            "≤ 8 KiB",
            format!("{} bytes", count(cache)),
            cache <= 8 * 1_024,
        ));
    }
    let open = of("the same, TLS, with a token of 1,200 bytes, connection open");
    let closed = of("the same, TLS, connection closed");
    if let (Some(cache), Some(open), Some(closed)) = (cache, open, closed) {
        bars.push(Bar::new(
            "memory that the default transport adds to it, over TLS",
            "–",
            format!(
                "{} bytes; {} with its connection open",
                count(closed - cache),
                count(open - cache)
            ),
            None,
        ));
    }
    let value = of("a service, by its size beyond the inner one's");
    if let (Some(value), Some(heap)) = (value, of("an idle clone of it, on the heap")) {
        bars.push(Bar::new(
            "an idle clone of a service",
            "≤ 200 bytes",
            format!("{value} bytes, and {heap} on the heap"),
            value + heap <= 200,
        ));
    }
}

fn trees(measured: &Measured, bars: &mut Vec<Bar>) {
    for (features, most) in [("default", 70), ("none", 32)] {
        let own = measured.trees.iter().find(|tree| is_own(tree) && tree.features == features);
        let Some(own) = own else { continue };
        bars.push(Bar::new(
            &format!("crates, features: {features}"),
            &format!("≤ {most}"),
            own.crates.to_string(),
            own.crates <= most,
        ));
    }
    let builds: Vec<String> = measured
        .trees
        .iter()
        .filter_map(|tree| {
            let features =
                if is_own(tree) { format!(", {}", tree.features) } else { String::new() };
            Some(format!("{}{features}: {:.1} s", tree.name, tree.build?.as_secs_f64()))
        })
        .collect();
    if !builds.is_empty() {
        bars.push(Bar::new("a cold build, compared with peers", "–", builds.join("; "), None));
    }
}
