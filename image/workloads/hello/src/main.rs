//! The example workload: one page over HTTP
fn main() {}
