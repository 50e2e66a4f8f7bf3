//! The corpus of crafted images: each is a recipe in `images/corpus`, see `images/README.md`.

/// The volumes that are damaged.
pub mod base;
/// What the recipes lack.
pub mod coverage;
/// Where structures and their fields lie.
pub mod place;
/// What a recipe says.
pub mod recipe;
/// One image, checked, repaired, checked again and put back.
pub mod trial;
