//! Packets that came to another worker than the one they are for, handed over between them.
//!
//! All workers of a PoP send from one address and port, so the kernel may merge packets for different workers of ours into one message;
//! the steering program sees the first of them and gives all to its worker (docs/decisions/0001). What only passes is nobody's, and goes on
//! from where it is. Bursts are mostly one connection's, so that this is the exception.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use l4proxy_wire::classify::classify;
use l4proxy_wire::ids::PopId;

use super::Overlay;
use super::receive::Arrival;
use super::transmit::worker_byte;

/// Bytes that may wait for one worker: what a receive buffer holds. Beyond, they are dropped and counted.
const MAX_WAITING: usize = 4 << 20;

/// A packet without its outer header.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) peer: PopId,
    /// Known when it came straight over one link.
    pub(super) arrival: Option<Arrival>,
    pub(super) ecn_bits: u8,
    pub(super) bytes: Vec<u8>,
}

/// What waits for one worker.
#[derive(Debug, Default)]
pub(super) struct Strays {
    waiting: Mutex<Vec<Stray>>,
    /// Something does; spares the worker the lock.
    has_any: AtomicBool,
}

impl Strays {
    /// Hand packets over; those that have no room stay in `packets`. True: the worker must be woken.
    fn push(&self, packets: &mut Vec<Stray>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes: usize = waiting.iter().map(|stray| stray.bytes.len()).sum();
        let fits = packets.iter().take_while(|stray| {
            bytes += stray.bytes.len();
            bytes <= MAX_WAITING
        });
        let count = fits.count();
        waiting.extend(packets.drain(..count));
        count > 0 && !self.has_any.swap(true, Ordering::AcqRel)
    }

    fn take(&self) -> Vec<Stray> {
        if !self.has_any.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Overlay {
    /// The worker that a packet is for, if it is another one.
    pub(super) fn other_worker(&self, packet: &[u8]) -> Option<usize> {
        if self.is_alone {
            return None;
        }
        let worker = usize::from(worker_byte(packet)) % self.shared.workers();
        (worker != self.worker).then_some(worker)
    }

    /// Keep a packet for another worker until the end of this receive batch.
    pub(super) fn set_aside(&mut self, worker: usize, stray: Stray) {
        self.astray.push((worker, stray));
    }

    /// Hand over what was set aside.
    pub(super) fn hand_over(&mut self) {
        if self.astray.is_empty() {
            return;
        }
        for worker in 0..self.shared.workers() {
            let mut packets: Vec<Stray> =
                self.astray.extract_if(.., |(to, _)| *to == worker).map(|(_, stray)| stray).collect();
            if !packets.is_empty() && self.shared.strays(worker).push(&mut packets) {
                self.to_wake.push(worker);
            }
            for _ in packets {
                self.drop_packet("stray_full");
            }
        }
    }

    /// Workers that have got packets of theirs and may be asleep.
    pub(crate) fn take_to_wake(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.to_wake)
    }

    /// Take what came to other workers and is for this one. Follow with [`Self::pump`].
    pub(crate) fn take_strays(&mut self, now: Instant) {
        let shared = self.shared.clone();
        for mut stray in shared.strays(self.worker).take() {
            match classify(&stray.bytes) {
                Ok(kind) => {
                    self.totals.packets_stray += 1;
                    self.handle_inner(now, stray.peer, kind, stray.arrival, stray.ecn_bits, &mut stray.bytes);
                }
                Err(reason) => self.drop_packet(reason.as_str()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use l4proxy_wire::classify::PacketKind;

    use super::*;
    use crate::overlay::OverlayShared;

    fn workers() -> [Overlay; 2] {
        let now = Instant::now();
        let shared = Arc::new(OverlayShared::new(now, 2));
        [0, 1].map(|worker| Overlay::new(now, worker, PopId(1), [worker; 32], shared.clone()))
    }

    /// A packet of the datagram channel for a worker, of `length` bytes.
    fn packet(worker: u8, length: usize) -> Vec<u8> {
        let mut packet = vec![0; length];
        packet[..3].copy_from_slice(&[9, 1, worker]);
        packet
    }

    fn receive(overlay: &mut Overlay, mut packet: Vec<u8>) {
        overlay.handle_inner(Instant::now(), PopId(2), PacketKind::Channel, None, 0, &mut packet);
    }

    fn drops(overlay: &Overlay, reason: &str) -> u64 {
        overlay.totals().drops.get(reason).copied().unwrap_or(0)
    }

    #[test]
    fn what_is_for_another_worker_is_handled_there_once() {
        let [mut first, mut second] = workers();
        receive(&mut first, packet(0, 60));
        receive(&mut first, packet(1, 60));
        // Worker bytes count modulo the number of workers, as the kernel's program does.
        receive(&mut first, packet(3, 60));
        assert_eq!(drops(&first, "channel_unknown"), 1);
        first.hand_over();
        assert_eq!(first.take_to_wake(), [1]);
        second.take_strays(Instant::now());
        second.take_strays(Instant::now());
        assert_eq!((drops(&second, "channel_unknown"), second.totals().packets_stray), (2, 2));
        assert_eq!(drops(&first, "channel_unknown"), 1);
    }

    #[test]
    fn a_worker_that_knows_is_not_woken_again() {
        let [mut first, mut second] = workers();
        for expected in [&[1][..], &[]] {
            receive(&mut first, packet(1, 60));
            first.hand_over();
            assert_eq!(first.take_to_wake(), expected);
        }
        second.take_strays(Instant::now());
        assert_eq!(second.totals().packets_stray, 2);
    }

    #[test]
    fn what_waits_is_bounded_and_the_rest_is_counted() {
        let [mut first, mut second] = workers();
        let count = MAX_WAITING / 1_000 + 7;
        for _ in 0..count {
            receive(&mut first, packet(1, 1_000));
        }
        first.hand_over();
        let full = drops(&first, "stray_full");
        assert_eq!(full, (count - MAX_WAITING / 1_000) as u64);
        second.take_strays(Instant::now());
        assert_eq!(second.totals().packets_stray + full, count as u64);
        receive(&mut first, packet(1, 1_000));
        first.hand_over();
        assert_eq!(drops(&first, "stray_full"), full, "there is room again");
    }
}
