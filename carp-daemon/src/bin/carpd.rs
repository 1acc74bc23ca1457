//! carpd
fn main() {}
