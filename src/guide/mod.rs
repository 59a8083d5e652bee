//! Pages of documentation: the order of layers, recipes, and the architecture of this crate.

pub mod layer_order;
pub mod recipes;

#[doc = include_str!("../../ARCHITECTURE.md")]
pub mod architecture {}
