//! Property: whatever callers do in whatever order, and whatever the network does, no key seals two packets under one nonce. Every packet that is
//! sealed in a test is recorded with its key and nonce (`cipher::recorder`), which complains about a second one by itself.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use l4proxy_wire::channel::{Datagram, Frame};
use l4proxy_wire::ids::{PopId, SessionId};
use proptest::prelude::*;

use crate::cipher::recorder;
use crate::hostile::identities;
use crate::{ConnectionKey, Identity, PathHint, Role, TransmitKind, TunnelEvent, TunnelOptions, Tunnels};

const IDS: [PopId; 2] = [PopId(1), PopId(2)];

/// One thing that happens. Connections are chosen by number among those there are.
#[derive(Debug, Clone)]
enum Act {
    /// Datagrams, all alike: the same plaintext again and again.
    Send {
        pop: usize,
        connection: usize,
        length: usize,
        count: usize,
        is_twice: bool,
    },
    Connect,
    Follow {
        connection: usize,
    },
    Retire {
        pop: usize,
        connection: usize,
    },
    Path {
        pop: usize,
        connection: usize,
        is_lost: bool,
    },
    /// Packets pass between the PoPs; every `drop_each`th is lost, every `again_each`th comes twice.
    Pass {
        drop_each: usize,
        again_each: usize,
    },
    Wait {
        ms: u64,
    },
    /// A PoP's process starts again, with the same identity and the same seed.
    Restart {
        pop: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let one = (0..2usize, 0..6usize);
    prop_oneof![
        8 => (one.clone(), 1..4_000usize, 1..30usize, any::<bool>()).prop_map(
            |((pop, connection), length, count, is_twice)| Act::Send { pop, connection, length, count, is_twice }
        ),
        2 => Just(Act::Connect),
        4 => (0..6usize).prop_map(|connection| Act::Follow { connection }),
        1 => one.clone().prop_map(|(pop, connection)| Act::Retire { pop, connection }),
        2 => (one, any::<bool>()).prop_map(|((pop, connection), is_lost)| Act::Path { pop, connection, is_lost }),
        8 => (5..40usize, 3..20usize).prop_map(|(drop_each, again_each)| Act::Pass { drop_each, again_each }),
        2 => (0..400u64).prop_map(|ms| Act::Wait { ms }),
        1 => (0..2usize).prop_map(|pop| Act::Restart { pop }),
    ]
}

struct Model {
    now: Instant,
    identities: [Identity; 2],
    pops: [Tunnels; 2],
    passed: usize,
}

impl Model {
    #[expect(clippy::disallowed_methods, reason = "any moment will do as the beginning of virtual time")]
    fn new() -> Self {
        let (ams, iad) = identities();
        let identities = [ams, iad];
        let pops = [0, 1].map(|pop| Self::start(pop, &identities[pop]));
        Self { now: Instant::now(), identities, pops, passed: 0 }
    }

    fn start(pop: usize, identity: &Identity) -> Tunnels {
        let mut options = TunnelOptions::new(0, IDS[pop], [pop as u8; 32]);
        (options.channel_worn_packets, options.channel_max_packets) = (20, 40);
        let mut tunnels = Tunnels::new(options);
        tunnels.set_identity(identity.clone()).unwrap();
        tunnels.set_peers(&[(IDS[0], "ams".to_owned()), (IDS[1], "iad".to_owned())]);
        tunnels
    }

    fn pick(&self, pop: usize, number: usize) -> Option<ConnectionKey> {
        let keys: Vec<_> = self.pops[pop].connections().map(|(key, _)| key).collect();
        keys.get(number % keys.len().max(1)).copied()
    }

    /// What a call answers matters to nobody here: it may be refused.
    fn act(&mut self, act: Act) {
        let (now, hint) = (self.now, PathHint::default());
        match act {
            Act::Connect => drop(self.pops[0].connect(now, IDS[1], Role::Flows, "off")),
            Act::Follow { connection } => {
                let older = self.pick(0, connection);
                drop(older.map(|older| self.pops[0].connect_following(now, older, hint)));
            }
            Act::Send { pop, connection, length, count, is_twice } => {
                let Some(key) = self.pick(pop, connection) else { return };
                let bytes = vec![7; length];
                let frame = Frame::Data { session: SessionId(1), datagram: Datagram::unmarked(&bytes) };
                for _ in 0..count {
                    let tunnels = &mut self.pops[pop];
                    let _ = match is_twice {
                        true => tunnels.send_frame_twice(key, &frame),
                        false => tunnels.send_frame(key, &frame),
                    };
                }
            }
            Act::Retire { pop, connection } => {
                if let Some(key) = self.pick(pop, connection) {
                    self.pops[pop].retire(key);
                }
            }
            Act::Path { pop, connection, is_lost } => match self.pick(pop, connection) {
                Some(key) if is_lost => self.pops[pop].handle_path_loss(now, key, hint),
                Some(key) => self.pops[pop].handle_path_change(key, hint),
                None => {}
            },
            Act::Pass { drop_each, again_each } => self.pass(drop_each, again_each),
            Act::Wait { ms } => {
                self.now += Duration::from_millis(ms);
                for tunnels in &mut self.pops {
                    tunnels.handle_timeout(self.now);
                }
            }
            Act::Restart { pop } => self.pops[pop] = Self::start(pop, &self.identities[pop]),
        }
    }

    fn pass(&mut self, drop_each: usize, again_each: usize) {
        let mut buffer = Vec::new();
        for turn in 0..400 {
            let (from, to) = (turn % 2, 1 - turn % 2);
            while let Some(event) = self.pops[from].poll_event() {
                if let TunnelEvent::ChannelWorn { key } = event {
                    drop(self.pops[from].connect_following(self.now, key, PathHint::default()));
                }
            }
            let Some(sent) = self.pops[from].poll_transmit(self.now, &mut buffer, NonZeroUsize::MIN) else {
                continue;
            };
            self.passed += 1;
            if self.passed.is_multiple_of(drop_each) {
                continue;
            }
            for _ in 0..1 + usize::from(self.passed.is_multiple_of(again_each)) {
                let (mut packet, tunnels) = (buffer.clone(), &mut self.pops[to]);
                match sent.kind {
                    TransmitKind::Quic => {
                        let _ =
                            tunnels.handle_quic(self.now, IDS[from], None, BytesMut::from(&packet[..]), 0);
                    }
                    TransmitKind::Channel => drop(tunnels.handle_channel(self.now, &mut packet)),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn no_key_ever_seals_two_packets_under_one_nonce(acts in prop::collection::vec(act(), 10..60)) {
        let undisturbed = Act::Pass { drop_each: usize::MAX, again_each: usize::MAX };
        let mut model = Model::new();
        recorder::take();
        model.act(Act::Connect);
        model.act(undisturbed.clone());
        for pop in 0..2 {
            model.act(Act::Send { pop, connection: 0, length: 100, count: 1, is_twice: false });
        }
        model.act(undisturbed);
        for act in acts {
            model.act(act);
        }
        let (sealed, keys) = recorder::take();
        prop_assert!(sealed >= 2 && keys >= 2, "each direction has a key of its own: {} {}", sealed, keys);
        prop_assert!(sealed <= keys * 40, "no key seals more than it may: {} {}", sealed, keys);
    }
}
