//! What the README says is what is compiled and run elsewhere.

const README: &str = include_str!("../../README.md");
const LIB: &str = include_str!("../../src/lib.rs");

/// The lines of the first example, without what rustdoc hides.
fn first_example(text: &str) -> Vec<&str> {
    text.lines()
        .map(|line| {
            line.strip_prefix("//!").map_or(line, |line| line.strip_prefix(' ').unwrap_or(line))
        })
        .skip_while(|line| !line.starts_with("```"))
        .skip(1)
        .take_while(|line| !line.starts_with("```"))
        .filter(|line| !line.starts_with('#'))
        .collect()
}

// The README's own copy of the example had drifted from the one that is compiled.
#[test]
fn the_readmes_ten_lines_are_those_of_the_crates_front_page() {
    let readme = first_example(README);
    assert!(readme.len() > 10, "{readme:?}");
    assert_eq!(readme, first_example(LIB));
}
