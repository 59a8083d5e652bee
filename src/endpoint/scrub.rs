//! [`Scrubber`]: removes the client's secret from a server's text. DADI's 400 repeats the whole
//! request; other servers quote the input that they could not parse.
//!
//! Pure. Every run of eight bytes of the secret is removed, wherever the server has cut it and
//! however it is encoded: `readings` knows the escapes of single characters, and this file the
//! encodings of the whole (base64 at its three alignments, hex).

mod readings;
#[cfg(test)]
mod tests;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use zeroize::Zeroizing;

use self::readings::{Reading, separator};
use super::encode::{self, BasicEncoding};
use crate::credentials::ClientCredentials;

/// The text that replaces the secret.
const REDACTED: &str = "[redacted]";

/// The shortest run of the secret that is removed, in bytes. A shorter secret is removed only as a
/// whole.
const MIN_RUN: usize = 8;

/// The characters of base64 that eight bytes determine at every alignment.
const MIN_RUN_IN_BASE64: usize = 10;

/// The longest text that is kept, in bytes: more than an error repeats.
const MAX_KEPT: usize = 1024;

/// The longest secret that is searched for, in bytes: the longest token that is accepted.
const MAX_SECRET: usize = 16 * 1024;

/// The most work for one text: the runs that are followed through it for all forms, and 32 bytes that
/// are marked count as one.
const MAX_WORK: usize = 2_000_000;

/// The longest text that is read, in bytes: a run that begins in the kept part must be seen.
const MAX_READ: usize = 2048;

/// The secret, and the texts of a token request that would reveal it.
pub(super) struct Scrubber {
    forms: Vec<Form>,
    /// Whether a secret was too long to be searched for.
    hides_all: bool,
}

/// A text that must not be shown, in one of the encodings of the whole.
struct Form {
    encoding: Encoding,
    /// The bytes in lower case: a server that repeats the secret in capitals reveals it as well.
    bytes: Zeroizing<Vec<u8>>,
    /// The places in `bytes`, ordered by the byte there: a secret may have kilobytes.
    places: Zeroizing<Vec<usize>>,
    /// The shortest run of it that is removed.
    min_run: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Plain,
    /// Of either alphabet.
    Base64,
    Hex,
}

/// A run of a form that ends at some place in the text.
#[derive(Clone, Copy)]
struct Run {
    /// The end in the form.
    end: usize,
    len: usize,
    /// The start in the text.
    start: usize,
}

impl Scrubber {
    pub(super) fn new(credentials: &ClientCredentials) -> Self {
        let mut scrubber = Self { forms: Vec::new(), hides_all: false };
        scrubber.add(credentials.expose_secret().as_bytes());
        if credentials.expose_secret().is_empty() {
            return scrubber;
        }
        for encoding in [BasicEncoding::PercentEncoded, BasicEncoding::Raw] {
            // The characters of the header are a text of their own, which may come back in hex.
            let pair = encode::basic_pair(credentials, encoding);
            let header = Zeroizing::new(STANDARD_NO_PAD.encode(&*pair));
            scrubber.add_text(header.as_bytes());
        }
        scrubber
    }

    /// Adds another text that must not be shown: the token of a response.
    pub(super) fn add(&mut self, secret: &[u8]) {
        if secret.len() > MAX_SECRET {
            self.hides_all = true;
            return;
        }
        self.add_text(secret);
        // As they stand in a request, of which a server may show the base64.
        let Ok(text) = std::str::from_utf8(secret) else { return };
        for write in [encode::percent, encode::form, encode::json] {
            let mut written =
                Zeroizing::new(Vec::with_capacity(text.len() * encode::MAX_GROWTH + 2));
            write(&mut written, text);
            let quoted = written.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            self.add_text(quoted.unwrap_or(&written));
        }
    }

    fn add_text(&mut self, text: &[u8]) {
        self.add_form(Encoding::Plain, text, MIN_RUN);
        let mut hex = Zeroizing::new(Vec::with_capacity(2 * text.len()));
        for byte in text {
            for digit in [byte >> 4, byte & 0xf] {
                hex.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
            }
        }
        self.add_form(Encoding::Hex, &hex, 2 * MIN_RUN);
        for before in 0..3 {
            let mut padded = Zeroizing::new(vec![0; before]);
            padded.reserve_exact(text.len());
            padded.extend_from_slice(text);
            let encoded = Zeroizing::new(STANDARD_NO_PAD.encode(&*padded));
            // The characters that the text alone determines.
            let whole = (8 * before).div_ceil(6)..8 * padded.len() / 6;
            let inside = encoded.as_bytes().get(whole).unwrap_or_default();
            // One character of base64 is in every text.
            if inside.len() > 1 {
                self.add_form(Encoding::Base64, inside, MIN_RUN_IN_BASE64);
            }
        }
    }

    fn add_form(&mut self, encoding: Encoding, text: &[u8], min_run: usize) {
        let bytes = Zeroizing::new(text.to_ascii_lowercase());
        let is_known = |form: &Form| form.encoding == encoding && *form.bytes == *bytes;
        if !bytes.is_empty() && !self.forms.iter().any(is_known) {
            let min_run = min_run.min(bytes.len());
            let mut places = Zeroizing::new((0..bytes.len()).collect::<Vec<_>>());
            places.sort_unstable_by_key(|at| (bytes.get(*at).copied(), *at));
            self.forms.push(Form { encoding, bytes, places, min_run });
        }
    }

    /// Returns the beginning of `text`, more of it than an error repeats, without the secret.
    pub(super) fn scrub(&self, text: &str) -> String {
        let text = beginning(text, MAX_READ);
        let mut hidden = vec![self.hides_all; text.len()];
        let mut work = 0;
        if !self.forms.iter().all(|form| form.hide(text, &mut hidden, &mut work)) {
            // A text and a secret of few different characters: no part of it is shown.
            hidden.fill(true);
        }
        hide_numbers(text.as_bytes(), &mut hidden);
        let mut out = String::new();
        let mut was_hidden = false;
        for (at, c) in text.char_indices() {
            let is_hidden = hidden.iter().skip(at).take(c.len_utf8()).any(|hidden| *hidden);
            if at >= MAX_KEPT && !(is_hidden && was_hidden) {
                break;
            }
            if !is_hidden {
                out.push(c);
            } else if !was_hidden {
                out.push_str(REDACTED);
            }
            was_hidden = is_hidden;
        }
        out
    }
}

impl Form {
    /// Marks the bytes of `text` that belong to a run of this form: the longest common substring,
    /// with steps of more than one byte where a character is escaped. Returns `false` if that takes
    /// more than [`MAX_WORK`].
    fn hide(&self, text: &str, hidden: &mut [bool], work: &mut usize) -> bool {
        let mut ending: Vec<Vec<Run>> = vec![Vec::new(); text.len() + 1];
        let mut readings = Vec::new();
        for at in 0..text.len() {
            let mut runs = ending.get_mut(at).map(std::mem::take).unwrap_or_default();
            // The longest for each end in the form.
            runs.sort_unstable_by_key(|run| (run.end, usize::MAX - run.len));
            runs.dedup_by_key(|run| run.end);
            *work += runs.len();
            if *work > MAX_WORK {
                return false;
            }
            let rest = text.as_bytes().get(at..).unwrap_or_default();
            readings.clear();
            readings::of(rest, &mut readings);
            if self.encoding != Encoding::Plain {
                let spaces = readings.iter().filter(|reading| reading.is_space());
                for width in spaces.map(|reading| reading.width).chain(separator(rest)) {
                    if let Some(next) = ending.get_mut(at + width) {
                        next.extend_from_slice(&runs);
                    }
                }
            }
            for reading in &readings {
                // All runs that end here are parts of the longest one.
                let mut first = None;
                for from in self.places(reading) {
                    let before = runs.binary_search_by_key(&from, |run| run.end);
                    let before = before.ok().and_then(|at| runs.get(at));
                    let (len, start) = before.map_or((0, at), |run| (run.len, run.start));
                    let len = len + reading.bytes().len();
                    let end = at + reading.width;
                    if len >= self.min_run {
                        first = Some(first.map_or(start, |first: usize| first.min(start)));
                    }
                    if let Some(next) = ending.get_mut(end) {
                        next.push(Run { end: from + reading.bytes().len(), len, start });
                    }
                }
                if let Some(start) = first {
                    *work += self.mark(text, start, at + reading.width, hidden);
                }
            }
        }
        true
    }

    /// Returns the places of `reading` in the form.
    fn places<'a>(&'a self, reading: &'a Reading) -> impl Iterator<Item = usize> + 'a {
        let bytes = reading.bytes();
        let first = bytes.first().map(|byte| self.folded(*byte));
        let from = self.places.partition_point(|at| self.bytes.get(*at).copied() < first);
        let places = self.places.get(from..).unwrap_or_default().iter().copied();
        let begin = places.take_while(move |at| self.bytes.get(*at).copied() == first);
        begin.filter(move |at| {
            let own = self.bytes.get(*at..at + bytes.len());
            own.is_some_and(|own| {
                own.iter().zip(bytes).all(|(own, read)| *own == self.folded(*read))
            })
        })
    }

    /// Returns `byte` as the form has it.
    fn folded(&self, byte: u8) -> u8 {
        match (self.encoding, byte) {
            (Encoding::Base64, b'-') => b'+',
            (Encoding::Base64, b'_') => b'/',
            _ => byte.to_ascii_lowercase(),
        }
    }

    /// Marks a run, and if it is encoded the word around it: the adjacent characters contain bits
    /// of the secret. Returns the work that this took, in the unit of [`MAX_WORK`].
    fn mark(&self, text: &str, start: usize, end: usize, hidden: &mut [bool]) -> usize {
        let is_word = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+/-_=\\%".contains(byte);
        let text = text.as_bytes();
        let (mut before, mut after) = (0, 0);
        if self.encoding != Encoding::Plain {
            before = text.iter().take(start).rev().take_while(is_word).count();
            after = text.iter().skip(end).take_while(is_word).count();
        }
        let marked = start - before..end + after;
        let work = marked.len() / 32;
        hidden.iter_mut().take(marked.end).skip(marked.start).for_each(|byte| *byte = true);
        work
    }
}

/// Hides a list of numbers that each stand for a byte, as the `Debug` of a buffer shows it.
fn hide_numbers(text: &[u8], hidden: &mut [bool]) {
    let (mut at, mut start, mut count) = (0, 0, 0);
    while at < text.len() {
        let rest = text.get(at..).unwrap_or_default();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = rest.get(..digits).and_then(|digits| std::str::from_utf8(digits).ok());
        if number.and_then(|number| number.parse::<u8>().ok()).is_some() {
            count += 1;
            at += digits;
            if count >= MIN_RUN {
                hidden.iter_mut().take(at).skip(start).for_each(|byte| *byte = true);
            }
            let rest = text.get(at..).unwrap_or_default();
            let between = rest.iter().take_while(|byte| b", ;\t\r\n".contains(byte)).count();
            if between > 0 {
                at += between;
                continue;
            }
        }
        at += digits.max(1);
        (start, count) = (at, 0);
    }
}

/// Returns at most `len` bytes of `text`.
fn beginning(text: &str, len: usize) -> &str {
    (0..=len.min(text.len())).rev().find_map(|end| text.get(..end)).unwrap_or_default()
}
