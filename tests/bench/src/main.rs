//! Benchmarks that run the peer beside ours
fn main() {}
