//! Builds the sealed image
fn main() {}
