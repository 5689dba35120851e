//! Writes a sealed image to a disk (or to a file that stands for one), so that the disk holds the whole image or does not
//! boot: which disks there are and what they are used for ([`device`]), whether one may be overwritten ([`refuse`]),
//! what is to be written where ([`plan`]), and the writing itself ([`flash`]).
//!
//! What it is not: an updater. Everything on the disk is lost, and the caller has asked the person.
//!
//! **Invariant:** both copies of the disk's partition table are gone from stable storage before the first byte of the
//! image is written, and come back only after all of it was read back and compared.
#![forbid(unsafe_code)]

pub mod device;
mod error;
mod flash;
mod image;
pub mod install;
pub mod plan;
mod pool;
pub mod refuse;
mod target;

pub use device::{Device, Host, Use};
pub use error::Error;
pub use flash::{Flashed, Phase, Watch, flash};
pub use image::Image;
pub use refuse::Refusal;
pub use target::Target;
