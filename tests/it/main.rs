//! What the crate does, as its users see it. One binary, a module for each subject.
#![allow(missing_docs)]

mod bad_answers;
mod failure;
mod flight;
mod fuzz;
mod http;
mod kit;
mod life;
mod month;
mod orders;
mod readme;
mod rejection;
mod smoke;
