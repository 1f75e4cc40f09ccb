//! One host's way in and out: a TUN device in its namespace, or, where TUN is refused, our end of a veth pair.

use crate::error::LabError;
use l4proxy_io::netns::NetworkNamespace;
use l4proxy_io::packet::{Form, LinkAddress, PacketSocket};
use l4proxy_io::tun::Tun;
use socket2::SockRef;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

/// Asked for per veth end, bytes; the kernel may grant less (`net.core.rmem_max`). 20 ms at 1 Gbit/s with the kernel's own overhead.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// Ethernet protocol numbers.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Which kernel facility joins a host to the emulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// A TUN device in the host's namespace; made here, it vanishes with the emulator.
    Tun,
    /// A raw socket on an existing interface of the hub's namespace, whose peer in the host has this hardware address.
    Veth([u8; 6]),
}

/// Where a host's device is.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// The host's name, for messages.
    pub host: String,
    /// How it is joined.
    pub wire: Wire,
    /// The namespace in which the device is made or found.
    pub namespace: PathBuf,
    /// The device's name there.
    pub device: String,
}

/// What reading a device gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A packet of this length stands in the buffer.
    Packet(usize),
    /// Nothing there.
    Nothing,
    /// The device is gone for good.
    Lost,
}

/// An open device.
#[derive(Debug)]
pub(crate) enum Device {
    Tun(Tun),
    Veth { socket: PacketSocket, hardware: [u8; 6] },
}

impl Device {
    pub(crate) fn open(config: &DeviceConfig) -> Result<Self, LabError> {
        let failed = |doing| move |source| LabError::Device { host: config.host.clone(), doing, source };
        let namespace =
            NetworkNamespace::open(&config.namespace).map_err(failed("opening its network namespace"))?;
        match config.wire {
            Wire::Tun => {
                let tun =
                    namespace.run(|| Tun::open(&config.device)).map_err(failed("making its TUN device"))?;
                Ok(Self::Tun(tun))
            }
            Wire::Veth(hardware) => {
                let open = || PacketSocket::open(&config.device, Form::Cooked);
                let socket = namespace.run(open).map_err(failed("opening our end of its veth pair"))?;
                // A smaller buffer only means that a longer stall loses packets.
                let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
                Ok(Self::Veth { socket, hardware })
            }
        }
    }

    /// Takes the next packet that the host sends.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Received {
        let result = match self {
            Self::Tun(tun) => tun.recv(buffer),
            Self::Veth { socket, .. } => socket.recv(buffer).map(|frame| frame.map(|(length, _)| length)),
        };
        match result {
            Ok(Some(length)) => Received::Packet(length),
            Ok(None) => Received::Nothing,
            Err(error) if is_passing(&error) => Received::Nothing,
            Err(_) => Received::Lost,
        }
    }

    /// Packets of the host that were dropped since the last call because they were not read in time. The kernel counts a TUN device's in the host itself.
    pub(crate) fn take_overruns(&self) -> u64 {
        match self {
            Self::Tun(_) => 0,
            Self::Veth { socket, .. } => socket.take_dropped().unwrap_or(0),
        }
    }

    /// Hands a packet to the host; false if its device refuses, such as while it is down.
    pub(crate) fn send(&self, packet: &[u8]) -> bool {
        match self {
            Self::Tun(tun) => tun.send(packet),
            Self::Veth { socket, hardware } => {
                let protocol = if packet.first().is_some_and(|first| first >> 4 == 6) { IPV6 } else { IPV4 };
                socket.send(packet, &LinkAddress { protocol, hardware: *hardware })
            }
        }
        .unwrap_or(false)
    }
}

/// Whether an error says "not now" and not "never again": the interface is down (`ENETDOWN`), as it is before it is configured.
fn is_passing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NetworkDown
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tun(tun) => tun.as_fd(),
            Self::Veth { socket, .. } => socket.as_fd(),
        }
    }
}
