//! Tests of `entries`, the code that changes directories, on directories in memory: after every
//! stretch of random changes the whole structure is checked without that code.

mod check;
mod damage;
mod flat;
mod hashed;
mod memory;
