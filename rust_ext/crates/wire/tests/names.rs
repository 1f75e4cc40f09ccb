//! The names of drop reasons in the code are the names in `docs/protocol.md`, all of them and no others.

use std::collections::BTreeSet;

use l4proxy_wire::DropReason;
use l4proxy_wire::codes::{CloseCode, Reason, StreamCode};

const PAGE: &str = include_str!("../../../../docs/protocol.md");

/// Every word in backquotes that begins like a drop reason.
fn names_on_the_page() -> BTreeSet<&'static str> {
    let prefixes = ["outer_", "channel_", "hello_", "probe_", "link_down_", "unknown_type"];
    let is_name = |word: &&str| {
        prefixes.iter().any(|prefix| word.starts_with(prefix))
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    PAGE.split('`').skip(1).step_by(2).filter(is_name).collect()
}

#[test]
fn the_page_lists_every_drop_reason_and_no_other() {
    let in_code: BTreeSet<_> = DropReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(in_code, names_on_the_page());
}

#[test]
fn codes_have_the_numbers_of_the_page() {
    assert_eq!(Reason::ALL.iter().map(|r| r.code()).collect::<Vec<_>>(), (1..=13).collect::<Vec<u8>>());
    assert_eq!(StreamCode::ALL.iter().map(|c| c.code()).collect::<Vec<_>>(), (1..=6).collect::<Vec<u64>>());
    assert_eq!(CloseCode::ALL.iter().map(|c| c.code()).collect::<Vec<_>>(), (0..=3).collect::<Vec<u64>>());
    for &reason in Reason::ALL {
        assert_eq!(Reason::try_from(reason.code()), Ok(reason));
    }
    for &code in StreamCode::ALL {
        assert_eq!(StreamCode::try_from(code.code()), Ok(code));
    }
    for &code in CloseCode::ALL {
        assert_eq!(CloseCode::try_from(code.code()), Ok(code));
    }
    assert!(Reason::try_from(0).is_err() && Reason::try_from(14).is_err());
    assert!(StreamCode::try_from(0).is_err() && StreamCode::try_from(7).is_err());
    assert!(CloseCode::try_from(4).is_err() && CloseCode::try_from(u64::MAX).is_err());
}
