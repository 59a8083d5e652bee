//! What the crate does, as its users see it. One binary, a module for each subject.
#![allow(missing_docs)]

mod bad_answers;
mod http;
mod readme;
mod smoke;
