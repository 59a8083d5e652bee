//! What a request costs whose token is at hand, over the same request without a token: time,
//! instructions, allocations.

use std::{path::PathBuf, process::Command, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    Contestant, Worker,
    callgrind::{self, Instructions},
    entries,
    measure::{self, Spread},
};

/// All over the base.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Hit {
    pub name: String,
    pub base: String,
    pub nanos: Spread,
    pub instructions: Instructions,
    pub allocations: i64,
    pub bytes: i64,
}

/// So short that what disturbs the machine hits a batch and those of the base beside it alike.
const BATCH: Duration = Duration::from_millis(2);
const BATCHES: usize = 60;

/// For instructions.
const HEAPS: usize = 5;

/// Each takes everybody's turn, so that a slow minute hits all.
const PASSES: usize = 3;

/// Everybody, in the order of `entries`; a base is held against itself, and shows the noise.
///
/// Starts programs: this one again, with the arguments `child NAME`, by [`callgrind::over`]; and
/// `allocations`, which is built beside it.
pub fn measure_all() -> Vec<Hit> {
    let nanos = nanos();
    nanos
        .into_iter()
        .map(|(name, base, nanos)| {
            let base_of = format!("{BASE_OF}{name}");
            let (own, bare) = (allocations(name), allocations(&base_of));
            Hit {
                name: name.to_owned(),
                base: base.to_owned(),
                nanos,
                instructions: if name == base {
                    // Each count repeats.
                    Instructions { median: 0, least: 0, most: 0 }
                } else {
                    callgrind::over(&["child", name], &["child", &base_of], HEAPS)
                },
                allocations: own.0 - bare.0,
                bytes: own.1 - bare.1,
            }
        })
        .collect()
}

/// Before a name: the base, in a process that is set up for whoever is called that. A peer leaves
/// threads and a heap with holes behind its set-up, and the allocator takes hundreds of
/// instructions more or less for it: the base is to have the same.
const BASE_OF: &str = "base of ";

/// Somebody's worker, alone in this process.
pub fn worker(name: &str) -> Worker {
    let (name, base) = name.strip_prefix(BASE_OF).map_or((name, false), |name| (name, true));
    let contestant = contestant(name);
    let mut own = (contestant.worker)();
    let mut bare = (self::contestant(contestant.base).worker)();
    // Both are made, whichever works: the heap is the same.
    Box::new(move |rounds| {
        let _stays = &contestant.name;
        if base { bare(rounds) } else { own(rounds) }
    })
}

fn contestant(name: &str) -> Contestant {
    let entry = entries().into_iter().find(|(entry, _)| *entry == name);
    entry.unwrap_or_else(|| panic!("nobody is called {name:?}")).1()
}

fn nanos() -> Vec<(&'static str, &'static str, Spread)> {
    struct Turn {
        name: &'static str,
        base: &'static str,
        rounds: u64,
        own: Worker,
        bare: Worker,
        samples: Vec<f64>,
    }

    let contestants: Vec<_> = entries().into_iter().map(|(_, make)| make()).collect();
    let mut turns: Vec<_> = contestants
        .iter()
        .map(|contestant| {
            let bare = contestants.iter().find(|base| base.name == contestant.base);
            let mut own = (contestant.worker)();
            let bare = (bare.expect("a base").worker)();
            own(1_000);
            let nanos = measure::batch(&mut own, 1_000);
            Turn {
                name: contestant.name,
                base: contestant.base,
                rounds: (BATCH.as_nanos() as f64 / nanos).ceil() as u64,
                own,
                bare,
                samples: Vec::new(),
            }
        })
        .collect();
    measure::settle(|| {
        for turn in &mut turns {
            (turn.own)(10);
            (turn.bare)(10);
        }
    });
    for _ in 0..PASSES {
        for turn in &mut turns {
            let samples = measure::over(&mut turn.own, &mut turn.bare, BATCHES, turn.rounds);
            turn.samples.extend(samples);
        }
    }
    turns.into_iter().map(|turn| (turn.name, turn.base, Spread::of(turn.samples))).collect()
}

/// Allocations and bytes for one request: what 2,000 more cost.
fn allocations(name: &str) -> (i64, i64) {
    let (fewer, more) = (allocated(name, 1_000), allocated(name, 3_000));
    ((more.0 - fewer.0) / 2_000, (more.1 - fewer.1) / 2_000)
}

/// Allocations and bytes.
fn allocated(name: &str, rounds: u64) -> (i64, i64) {
    let program: PathBuf =
        std::env::current_exe().expect("the path of this program").with_file_name("allocations");
    assert!(program.exists(), "`cargo build --release` first: {} is missing", program.display());
    let output = Command::new(program).args([name, &rounds.to_string()]).output().expect("a run");
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<i64> =
        text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [allocations, bytes] => (allocations, bytes),
        _ => panic!("{name} counted no allocations: {}", String::from_utf8_lossy(&output.stderr)),
    }
}
