//! The agent
fn main() {}
