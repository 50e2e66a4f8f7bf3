//! Every parser of on-disk structures takes any bytes.
//!
//! The same functions are behind the coverage-guided targets in `fuzz/`; here they get, on every
//! run, damaged copies of structures of ESXi's (tests/corpus) and noise. `VMFS_FUZZ_COUNT` inputs
//! a parser (20,000), from `VMFS_FUZZ_SEED` on.

use std::path::Path;

use vmfs_tests::parsers::{PARSERS, Parser};
use vmfs_tests::random::{Random, setting};

fn corpus(parser: &Parser) -> Vec<Vec<u8>> {
    inputs("corpus", parser)
}

/// The inputs in a folder of the parser's; none if it has no such folder.
fn inputs(folder: &str, parser: &Parser) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join(parser.name);
    let Ok(files) = std::fs::read_dir(&folder) else {
        return Vec::new();
    };
    files
        .flatten()
        .map(|file| std::fs::read(file.path()).expect("corpus file"))
        .collect()
}

fn damaged(sample: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=random.below(8) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(4) {
            0 => bytes[at] = random.bits() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => {
                let end = (at + 4).min(bytes.len());
                let word = *random.one_of(&[0_u32, 1, 0x7fff_ffff, u32::MAX]);
                let length = end - at;
                bytes[at..end].copy_from_slice(&word.to_le_bytes()[..length]);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn parsers_take_any_bytes() {
    let (seed, count) = (
        setting("VMFS_FUZZ_SEED", 1),
        setting("VMFS_FUZZ_COUNT", 20_000),
    );
    for parser in PARSERS {
        let samples = corpus(parser);
        assert!(!samples.is_empty(), "{}: no samples", parser.name);
        for sample in &samples {
            assert!(
                (parser.run)(sample),
                "{}: a structure of ESXi's is refused",
                parser.name
            );
        }
        for number in seed..seed + count {
            let mut random = Random::new(number);
            let input = if random.below(10) == 0 {
                let length = random.below(9000);
                (0..length).map(|_| random.bits() as u8).collect()
            } else {
                let sample: &Vec<u8> = random.one_of(&samples);
                damaged(sample, &mut random)
            };
            let run = std::panic::catch_unwind(|| (parser.run)(&input));
            assert!(run.is_ok(), "{}: VMFS_FUZZ_SEED={number}", parser.name);
        }
    }
}

/// What once made a parser panic never does again.
#[test]
fn inputs_that_were_too_much_once_are_refused() {
    let mut count = 0;
    for parser in PARSERS {
        for input in inputs("crashes", parser) {
            let run = std::panic::catch_unwind(|| (parser.run)(&input));
            assert!(run.is_ok(), "{}", parser.name);
            count += 1;
        }
    }
    assert!(count > 0, "the inputs are in tests/crashes");
}
