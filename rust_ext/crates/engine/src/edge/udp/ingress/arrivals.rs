//! Datagrams of clients as they come from a listener, batch by batch: whose each is, and away with all of a session together.

use std::net::IpAddr;
use std::sync::Arc;

use l4proxy_io::udp::{Meta, Outgoing, UdpSocket};
use l4proxy_proto::relay;
use l4proxy_wire::channel::Datagram;

use super::super::send::{dropped_by, send_all};
use super::super::{BATCH, BATCHES_PER_TURN, Key, State, UdpEdge, marking};
use super::{Ingress, Way};
use crate::compile::Listener;
use crate::counters::{AppValue, Dropped, Value};
use crate::identity::heard::{self, Sender};
use crate::token::Slot;
use crate::turn::Turn;

/// A datagram of a client on its way.
struct Coming<'a> {
    slot: Slot,
    /// With the mark that it is to leave with.
    datagram: Datagram<'a>,
}

impl UdpEdge {
    /// Datagrams of clients.
    pub(in super::super) fn read_listener(&mut self, number: u32, turn: &mut Turn<'_>) {
        let Some(listening) = self.listeners.get(number as usize) else { return };
        let (id, socket, binding) = (listening.id, listening.socket.clone(), listening.binding.clone());
        // Taken out while its datagrams are borrowed and the sessions change.
        let Some(mut batch) = self.batch.take() else { return };
        for _ in 0..BATCHES_PER_TURN {
            let count = match batch.recv(&socket, BATCH) {
                Ok(count) => count,
                Err(error) => {
                    turn.drop(dropped_by(&error));
                    continue;
                }
            };
            turn.count(Value::DatagramsReceived, count as u64);
            let mut coming = Vec::with_capacity(count);
            for (datagram, meta) in batch.iter() {
                let (sender, bytes) = match heard::read(&binding.app, meta.source, datagram) {
                    Ok(read) => read,
                    Err(reason) => {
                        turn.drop(reason);
                        turn.count_app(&binding.app, AppValue::Refused, 1);
                        continue;
                    }
                };
                if let Some(slot) = self.session_for(id, &socket, &binding, meta, sender, turn)
                    && self.is_within_bandwidth(slot.number, relay::Way::ToOrigin, bytes.len(), turn)
                {
                    let tos = marking::outgoing(binding.app.policy.dscp, meta.tos);
                    coming.push(Coming { slot, datagram: Datagram { tos, bytes } });
                }
            }
            self.send_to_origins(coming, turn);
            if count < BATCH {
                break;
            }
        }
        self.batch = Some(batch);
    }

    /// The session of a client's datagram, made now if it has none.
    fn session_for(
        &mut self,
        listener: u32,
        socket: &Arc<UdpSocket>,
        binding: &Arc<Listener>,
        meta: Meta,
        sender: Sender,
        turn: &mut Turn<'_>,
    ) -> Option<Slot> {
        if meta.truncated {
            turn.drop(Dropped::UdpTruncated);
            return None;
        }
        let local = meta.local.map_or(IpAddr::from([0, 0, 0, 0]), |(ip, _)| ip);
        let key = Key::Client { listener, client: sender.client, local };
        let found = self.sessions.find(&key).ok_or(());
        let number = found.or_else(|()| self.begin(key, socket, binding, meta, sender, turn));
        match number {
            Ok(number) => {
                if let Some(session) = self.ingress(number) {
                    session.answers_to = sender.answers_to;
                }
                self.slot_of(number)
            }
            Err(reason) => {
                turn.drop(reason);
                turn.count_app(&binding.app, AppValue::Refused, 1);
                None
            }
        }
    }

    /// Datagrams of one batch towards their origins, those of a session together. One whose session has made room for a later one of
    /// the batch goes nowhere: its number may be another client's by now.
    fn send_to_origins(&mut self, mut coming: Vec<Coming<'_>>, turn: &mut Turn<'_>) {
        coming.sort_by_key(|coming| (coming.slot.number, coming.slot.generation));
        // A run has one mark, which the socket takes on: seldom does a client change its mark within a batch.
        for run in
            coming.chunk_by(|one, other| one.slot == other.slot && one.datagram.tos == other.datagram.tos)
        {
            let Some(number) = self.number_of(run[0].slot) else {
                turn.drop_many(Dropped::SessionsFull, run.len() as u64);
                continue;
            };
            self.renew_way(number, turn);
            if run.len() > 1 && self.send_run(number, run, turn) {
                continue;
            }
            for coming in run {
                self.send_to_origin(number, coming.datagram, turn);
            }
        }
    }

    /// Several datagrams of a session and one mark with one call; false: its origin is not dialled here, or is told of its client.
    fn send_run(&mut self, number: u32, run: &[Coming<'_>], turn: &Turn<'_>) -> bool {
        let Some(Some(State::Ingress(Ingress { way: Way::Here(to), announcer: None, .. }))) =
            self.states.get_mut(number as usize)
        else {
            return false;
        };
        let Some(sender) = self.sender.as_mut() else { return false };
        to.mark(run[0].datagram.tos);
        let messages: Vec<_> = run.iter().map(|coming| Outgoing::new(coming.datagram.bytes, None)).collect();
        let mut results = Vec::with_capacity(run.len());
        send_all(sender, &to.socket, &messages, |_, result| results.push(result));
        for (coming, result) in run.iter().zip(results) {
            match result {
                Ok(()) => self.on_to_origin(number, coming.datagram.bytes.len(), turn),
                Err(reason) => self.on_dropped(number, reason, turn),
            }
        }
        true
    }
}
