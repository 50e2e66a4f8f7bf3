//! What a target answers, and logging in.

use std::fs::File;
use std::os::unix::fs::FileExt;

use vmfs_core::scsi::{Access, Capabilities, IscsiLun, IscsiUrl, Lun, LunError};
use vmfs_tests::random::Random;
use vmfs_tests::tgt::{Options, Target};

use super::{SIZE, TIMEOUTS, at, first_byte, open, write};

/// Random reads, writes and zeros of any alignment, beside the same in memory; in the end the
/// target's file must be the same.
#[test]
fn bytes_are_where_they_belong_whatever_their_alignment() {
    for (block, thin) in [(512, false), (4096, true)] {
        let target = Target::start_with(Options {
            size: 8 << 20,
            block,
            thin,
            ..Options::default()
        });
        let lun = open(&target, "host");
        assert_eq!((lun.capacity(), lun.block_size()), (8 << 20, block));
        let mut model = vec![0; 8 << 20];
        let mut random = Random::new(7);
        for round in 0..150u8 {
            let longest = if random.below(4) == 0 {
                3 << 20
            } else {
                10_000
            };
            let len = 1 + random.below(longest) as usize;
            let start = random.below((model.len() - len) as u64) as usize;
            let part = &mut model[start..start + len];
            match random.below(3) {
                0 => {
                    let mut back = vec![0; len];
                    lun.read(at(start as u64), &mut back).expect("read");
                    assert!(back == part, "read of {len} bytes at {start}");
                }
                1 => {
                    part.fill(round | 1);
                    lun.write(at(start as u64), part).expect("write");
                }
                _ => {
                    part.fill(0);
                    lun.write_zeros(at(start as u64), len as u64)
                        .expect("zeros");
                }
            }
        }
        lun.flush().expect("flush");
        let mut file = vec![0; 8 << 20];
        let backing = File::open(target.file(1)).expect("the target's file");
        backing.read_exact_at(&mut file, 0).expect("all of it");
        assert!(file == model, "blocks of {block} bytes");
        let counted = lun.counters().snapshot();
        assert_eq!(
            counted.reads.commands + counted.writes.commands + counted.zeroings.commands,
            150
        );
    }
}

#[test]
fn a_range_past_the_end_is_refused_before_it_is_sent() {
    let target = Target::start(SIZE);
    let lun = open(&target, "host");
    let error = lun
        .write(at(SIZE - 100), &[1; 200])
        .expect_err("past the end");
    assert!(
        matches!(error, LunError::PastEnd { capacity: SIZE, .. }),
        "{error}"
    );
    assert_eq!(lun.counters().snapshot().writes.commands, 0);
}

#[test]
fn capabilities_are_found_by_asking() {
    let target = Target::start(SIZE);
    let lun = open(&target, "host");
    // What tgt says of itself has COMPARE AND WRITE in it.
    let expected = Capabilities {
        compare_and_write: false,
        reserve: true,
        persistent_reserve: true,
        unmap: false,
    };
    assert_eq!(lun.capabilities(), expected);
    assert_eq!(
        target.proxy().commands(0x89),
        0,
        "COMPARE AND WRITE was tried out"
    );
    let error = lun.compare_and_write(at(0), &[0; 512], &[1; 512]);
    assert!(
        matches!(error, Err(LunError::Unsupported { .. })),
        "{error:?}"
    );
    assert!(matches!(
        lun.unmap(at(0), 4096),
        Err(LunError::Unsupported { .. })
    ));
    let identity = lun.identity().expect("an identity").clone();
    assert!(identity.as_str().starts_with("naa."), "{identity}");

    let thin = Target::start_with(Options {
        thin: true,
        luns: 2,
        ..Options::default()
    });
    let lun = open(&thin, "host");
    assert!(lun.capabilities().unmap);
    lun.write(at(0), &vec![7; 64 << 10]).expect("write");
    lun.unmap(at(100), (64 << 10) - 100).expect("unmap");
    let mut back = [1; 1024];
    lun.read(at(0), &mut back).expect("read");
    // Only whole blocks are unmapped; tgt's read as zeros then.
    assert_eq!((back[0], back[511], back[512]), (7, 7, 0));
    assert_ne!(lun.identity(), Some(&identity), "another target's LUN");
    // tgt's disk is an image, which has a hole there.
    lun.write(at(1 << 20), &[7; 4096]).expect("write");
    let next = lun.next_mapped(at(8192)).expect("GET LBA STATUS");
    assert_eq!(next, Some(1 << 20..(1 << 20) + 4096));
    assert_eq!(lun.next_mapped(at((1 << 20) + 4096)).expect("none"), None);
    assert_eq!(lun.next_mapped(at(lun.capacity())).expect("none"), None);
}

#[test]
fn chap_lets_in_who_knows_the_secret() {
    let account = |name: &str, secret: &str| Some((name.to_owned(), secret.to_owned()));
    let target = Target::start_with(Options {
        account: account("vmfs", "twelve-bytes-or-more"),
        own_account: account("target", "another-twelve-bytes"),
        ..Options::default()
    });
    let open = |login: &str| {
        let url = target
            .url()
            .replace("iscsi://", &format!("iscsi://{login}"));
        let url: IscsiUrl = url.parse().expect("a URL");
        IscsiLun::open(&url, Access::ReadWrite, Some("host"), TIMEOUTS)
    };
    let lun = open("vmfs%twelve-bytes-or-more@").expect("the right secret");
    assert!(!format!("{lun:?}").contains("twelve"), "the secret shows");
    assert!(lun.name().starts_with("iscsi://vmfs@127"), "{}", lun.name());
    write(&lun, 1).expect("write");
    // After a cut as well.
    target.cut();
    assert_eq!(first_byte(&lun), 1);

    let error = open("vmfs%eleven-bytes@")
        .expect_err("a wrong secret")
        .to_string();
    assert!(
        error.contains("CHAP") && error.contains("account"),
        "{error}"
    );
    assert!(!error.contains("eleven"), "{error}");
    let error = open("").expect_err("no secret").to_string();
    assert!(error.contains("LIBISCSI_CHAP_PASSWORD"), "{error}");
}

#[test]
fn says_what_to_do_when_there_is_no_such_lun() {
    let mut target = Target::start(SIZE);
    let open = |url: String| {
        let url: IscsiUrl = url.parse().expect("a URL");
        let lun = IscsiLun::open(&url, Access::ReadOnly, None, TIMEOUTS);
        lun.map(|_| ()).expect_err("nothing there").to_string()
    };
    let error = open(target.url().replace("tgt", "tgx"));
    assert!(error.contains("no such target"), "{error}");
    let error = open(target.url_of(9));
    assert!(error.contains("25/00"), "{error}");
    target.stop();
    let error = open(target.direct_url());
    assert!(error.contains("running?"), "{error}");
}

#[test]
fn a_lun_that_is_opened_to_be_read_is_not_written_to() {
    let target = Target::start(SIZE);
    let url: IscsiUrl = target.url().parse().expect("a URL");
    let lun = IscsiLun::open(&url, Access::ReadOnly, Some("host"), TIMEOUTS).expect("open");
    for result in [lun.write(at(0), &[1; 512]), lun.write_zeros(at(0), 512)] {
        assert!(
            matches!(result, Err(LunError::ReadOnly { .. })),
            "{result:?}"
        );
    }
    assert_eq!(first_byte(&lun), 0);
}
