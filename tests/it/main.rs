//! What the crate does, as its users see it. One binary, a module for each subject.
#![allow(missing_docs)]

mod failure;
mod flight;
mod fuzz;
mod kit;
mod life;
mod month;
mod orders;
mod rejection;
mod smoke;
