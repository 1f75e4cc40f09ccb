//! What holds whatever happens: no panic, no bound passed, no hello twice, and silence never takes the last path.

use l4proxy_wire::hello::{Report, Reports};
use proptest::prelude::*;

use super::*;

/// Something that happens to one PoP; peers and paths are few, so that it meets itself again.
#[derive(Clone, Debug)]
enum Input {
    Wait(u64),
    SetPaths(u32, Vec<u32>),
    SetReturnPaths(u32, Vec<u32>),
    Hello {
        source: u32,
        path: u32,
        sequence: u32,
        sent_us: u64,
        generation: u64,
        reports: Vec<(u32, u32, u32, u32)>,
    },
}

fn input() -> impl Strategy<Value = Input> {
    let paths = || prop::collection::vec(0_u32..30, 0..30);
    let sequence = || prop_oneof![0_u32..200, any::<u32>()];
    let reports = prop::collection::vec((0_u32..30, sequence(), any::<u32>(), any::<u32>()), 0..=4);
    let times = prop_oneof![0_u64..3_000_000, any::<u64>()];
    prop_oneof![
        prop_oneof![0_u64..200, 0_u64..20_000].prop_map(Input::Wait),
        (0_u32..4, paths()).prop_map(|(peer, paths)| Input::SetPaths(peer, paths)),
        (0_u32..4, paths()).prop_map(|(peer, paths)| Input::SetReturnPaths(peer, paths)),
        (0_u32..4, 0_u32..60, sequence(), times, 0_u64..3, reports).prop_map(
            |(source, path, sequence, sent_us, generation, reports)| Input::Hello {
                source,
                path,
                sequence,
                sent_us,
                generation,
                reports
            }
        ),
    ]
}

fn hello_with(source: u32, path: u32, sequence: u32, sent_us: u64, list: &[(u32, u32, u32, u32)]) -> Hello {
    let mut reports = Reports::EMPTY;
    for &(path, sequence, heard, age_us) in list {
        reports.push(Report { path: PathId(path), sequence, heard, age_us });
    }
    Hello { source: PopId(source), path: PathId(path), sequence, sent_us, reports }
}

proptest! {
    #[test]
    fn whatever_an_authenticated_peer_says_nothing_panics_and_no_bound_is_passed(
        inputs in prop::collection::vec(input(), 1..120),
    ) {
        let mut now = start();
        let mut liveness = Liveness::new(A, now);
        for input in inputs {
            let ids = |paths: Vec<u32>| paths.into_iter().map(PathId).collect::<Vec<_>>();
            match input {
                Input::Wait(time_ms) => now += ms(time_ms),
                Input::SetPaths(peer, paths) => liveness.set_paths(now, PopId(peer), &ids(paths)),
                Input::SetReturnPaths(peer, paths) => liveness.set_return_paths(now, PopId(peer), &ids(paths)),
                Input::Hello { source, path, sequence, sent_us, generation, reports } => {
                    let hello = hello_with(source, path, sequence, sent_us, &reports);
                    let once = liveness.handle_hello(now, KeyGeneration(generation), &hello);
                    let again = liveness.handle_hello(now, KeyGeneration(generation), &hello);
                    prop_assert!(again.is_err(), "{once:?}, then accepted");
                }
            }
            let sent: Vec<_> = std::iter::from_fn(|| liveness.poll_hello(now)).collect();
            prop_assert!(sent.len() <= MAX_PATHS, "{} hellos at one instant", sent.len());
            prop_assert!(liveness.poll_timeout().is_none_or(|at| at > now), "a timeout that is over");
            prop_assert!(liveness.peers.values().map(|peer| peer.paths.len()).sum::<usize>() <= MAX_PATHS);
            prop_assert!(liveness.events.len() <= MAX_EVENTS);
        }
    }

    #[test]
    fn silence_never_takes_the_last_path(cut_after_ms in 0_u64..3_000, silence_ms in 0_u64..60_000, heal in any::<bool>()) {
        let mut world = World::new();
        world.run(ms(cut_after_ms));
        // The peer is gone altogether: no report can kill a path.
        world.pause(B, ms(silence_ms), true);
        let not_dead = [1, 2].into_iter().filter(|&path| world.state(A, path) != PathState::Dead).count();
        prop_assert!(not_dead >= 1);
        if heal {
            world.run(ms(4_000));
            prop_assert_eq!((world.state(A, 1), world.state(A, 2)), (PathState::Alive, PathState::Alive));
        }
    }
}
