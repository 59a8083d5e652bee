//! The README matches the code that is compiled elsewhere.

const README: &str = include_str!("../../README.md");
const LIB: &str = include_str!("../../src/lib.rs");

/// Returns the lines of the first program.
fn first_program(text: &str) -> Vec<&str> {
    text.lines()
        .map(|line| {
            line.strip_prefix("//!").map_or(line, |line| line.strip_prefix(' ').unwrap_or(line))
        })
        .skip_while(|line| !line.starts_with("```rust,no_run") && *line != "```no_run")
        .skip(1)
        .take_while(|line| !line.starts_with("```"))
        .collect()
}

// The README's own copy of the example had drifted from the one that is compiled.
#[test]
fn the_readmes_first_program_is_that_of_the_crates_front_page() {
    let readme = first_program(README);
    assert!(readme.len() > 10, "{readme:?}");
    assert_eq!(readme, first_program(LIB));
}
